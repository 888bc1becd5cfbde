// SPDX-License-Identifier: Apache-2.0
/* Compressed clusters of a qcow2 file: read whole, and the last one is kept. */
#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "common/io.h"
#include "vmm/virtio/qcow2_private.h"

enum { RAW_DEFLATE_WINDOW = -12 }; /* no header; 4 KiB, as qcow2.txt says */

static bool inflate_all(const uint8_t *from, size_t have, uint8_t *to, size_t bytes)
{
	z_stream z = { .next_in = (uint8_t *)(uintptr_t)from,
		       .avail_in = (unsigned)have,
		       .next_out = to,
		       .avail_out = (unsigned)bytes };

	if (inflateInit2(&z, RAW_DEFLATE_WINDOW) != Z_OK)
		return false;
	int r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* The range is in whole sectors, so the stream ends before; and some writers fill the cluster without an end. */
	return z.avail_out == 0 && (r == Z_STREAM_END || r == Z_BUF_ERROR);
}

/* What is behind the frame is of no meaning: the range is in whole sectors. */
static bool unzstd_all(const uint8_t *from, size_t have, uint8_t *to, size_t bytes)
{
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	ZSTD_inBuffer in = { from, have, 0 };
	ZSTD_outBuffer out = { to, bytes, 0 };
	size_t r = 1;

	while (ctx && out.pos < out.size && r != 0) {
		size_t before = out.pos, taken = in.pos;
		r = ZSTD_decompressStream(ctx, &out, &in);
		if (ZSTD_isError(r) || (out.pos == before && in.pos == taken))
			break;
	}
	ZSTD_freeDCtx(ctx);
	return out.pos == out.size;
}

static int read_packed(struct qcow2 *q, uint64_t entry, uint8_t *to)
{
	uint64_t at, len, cluster = qcow2_cluster_bytes(&q->h);

	qcow2_compressed_range(q, entry, &at, &len);
	if (at >= q->file_bytes)
		return qcow2_lies(q, "the L2 entry of a compressed cluster", entry);
	autofree uint8_t *packed = malloc(len);
	ssize_t n = packed ? io_read(q->fd, packed, len, at) : -ENOMEM;
	if (n < 0)
		return (int)n;
	if (q->h.zstd ? unzstd_all(packed, (size_t)n, to, cluster) : inflate_all(packed, (size_t)n, to, cluster))
		return 0;
	return qcow2_lies(q, "a compressed cluster that cannot be read; its L2 entry", entry);
}

int qcow2_read_compressed(struct qcow2 *q, uint64_t entry, const uint8_t **ret)
{
	if (!q->inflated)
		q->inflated = malloc(qcow2_cluster_bytes(&q->h));
	if (!q->inflated)
		return -ENOMEM;
	if (q->inflated_entry != entry) {
		q->inflated_entry = 0;
		int r = read_packed(q, entry, q->inflated);
		if (r < 0)
			return r;
		q->inflated_entry = entry;
	}
	*ret = q->inflated;
	return 0;
}
