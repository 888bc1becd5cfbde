// SPDX-License-Identifier: Apache-2.0
/* virtio-blk: writes what a guest would read of a qcow2 image, with all that is behind it, into one raw file. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "vmm/virtio/blk.h"

enum { PIECE_BYTES = 1 << 20, HOLE_BYTES = 4096 };

static int put(int out_fd, const uint8_t *buf, size_t len, uint64_t at, struct err *err)
{
	ssize_t n = io_write(out_fd, buf, len, at);

	return n == (ssize_t)len ? 0
				 : err_num(err, ERR_INTERNAL, n < 0 ? (int)-n : ENOSPC,
					   "write the raw image at byte %llu", (unsigned long long)at);
}

/* Zeroes stay holes. */
static int put_sparse(int out_fd, const uint8_t *buf, size_t len, uint64_t at, struct err *err)
{
	static const uint8_t zeroes[HOLE_BYTES];

	for (size_t done = 0; done < len;) {
		size_t n = len - done < HOLE_BYTES ? len - done : HOLE_BYTES;
		if (memcmp(buf + done, zeroes, n) != 0 && put(out_fd, buf + done, n, at + done, err) < 0)
			return err->num;
		done += n;
	}
	return 0;
}

static int copy_data(const struct layer *l, uint64_t from, uint64_t len, int out_fd, uint64_t at, struct err *err)
{
	autofree uint8_t *buf = malloc(PIECE_BYTES);

	if (!buf)
		return err_num(err, ERR_INTERNAL, ENOMEM, "flatten '%s'", l->path);
	for (uint64_t done = 0; done < len;) {
		size_t n = len - done < PIECE_BYTES ? (size_t)(len - done) : PIECE_BYTES;
		ssize_t got = io_read(l->fd, buf, n, from + done);
		if (got < 0)
			return err_num(err, ERR_INTERNAL, (int)-got, "read '%s' at byte %llu", l->path,
				       (unsigned long long)from + done);
		memset(buf + got, 0, n - (size_t)got); /* as a guest reads behind the end of a file */
		if (put_sparse(out_fd, buf, n, at + done, err) < 0)
			return err->num;
		done += n;
	}
	return 0;
}

static int copy_compressed(const struct layer *l, const struct qcow2_run *run, int out_fd, uint64_t at, struct err *err)
{
	uint64_t inside = at & (qcow2_cluster(l->qcow2) - 1);
	const uint8_t *cluster;
	int r = qcow2_read_compressed(l->qcow2, run->at, &cluster);

	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "read a compressed cluster of '%s'", l->path);
	return put_sparse(out_fd, cluster + inside, run->len, at, err);
}

static int copy_all(struct blk *blk, int out_fd, struct err *err)
{
	for (uint64_t at = 0; at < blk->bytes;) {
		struct qcow2_run run;
		unsigned layer = 0;
		int r = blk_map(blk, 0, at, blk->bytes - at, &run, &layer);
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "read the tables of '%s'", blk->path);
		if (run.kind == QCOW2_DATA)
			r = copy_data(&blk->layers[layer], run.at, run.len, out_fd, at, err);
		else if (run.kind == QCOW2_COMPRESSED)
			r = copy_compressed(&blk->layers[layer], &run, out_fd, at, err);
		if (r < 0)
			return r;
		at += run.len;
	}
	return 0;
}

int virtio_blk_flatten(const struct disk_config *cfg, int out_fd, struct err *err)
{
	struct blk blk = { .fd = -1, .lock_fd = cfg->fd, .path = cfg->path, .readonly = true };
	int r = blk_open_layers(&blk, cfg, err);

	if (r == 0 && ftruncate(out_fd, (off_t)blk.bytes) < 0)
		r = err_sys(err, ERR_INTERNAL, "make a raw image of %llu bytes", (unsigned long long)blk.bytes);
	if (r == 0)
		r = copy_all(&blk, out_fd, err);
	blk_close_layers(&blk);
	return r;
}
