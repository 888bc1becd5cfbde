// SPDX-License-Identifier: Apache-2.0
/*
 * The refcounts of a qcow2 file. New clusters are taken at its end, and their refcounts are written
 * for many at a time before the first is used. So a crash leaves clusters that nobody names (leaks),
 * and never a cluster without its refcount.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "vmm/virtio/qcow2_private.h"

enum { AHEAD_BYTES = 64 << 20, AHEAD_MIN = 16 };

static uint64_t per_block(const struct qcow2 *q)
{
	return qcow2_cluster_bytes(&q->h) * 8 >> q->h.refs_order;
}

static uint64_t table_entries(const struct qcow2 *q)
{
	return (q->h.refs_clusters << q->h.cluster_bits) / sizeof(uint64_t);
}

int qcow2_put(struct qcow2 *q, const void *buf, size_t len, uint64_t at)
{
	ssize_t n = io_write(q->fd, buf, len, at);

	return n < 0 ? (int)n : n == (ssize_t)len ? 0 : -ENOSPC;
}

static int get(struct qcow2 *q, void *buf, size_t len, uint64_t at)
{
	ssize_t n = io_read(q->fd, buf, len, at);

	if (n >= 0)
		memset((char *)buf + n, 0, len - (size_t)n);
	return n < 0 ? (int)n : 0;
}

static uint64_t ref_get(const uint8_t *block, uint64_t i, unsigned order)
{
	uint64_t value = 0;

	if (order < 3)
		return block[i >> (3 - order)] >> (i & ((8U >> order) - 1) << order) & ((1U << (1U << order)) - 1);
	for (unsigned b = 0; b < 1U << (order - 3); b++)
		value = value << 8 | block[(i << (order - 3)) + b];
	return value;
}

static void ref_put(uint8_t *block, uint64_t i, unsigned order, uint64_t value)
{
	if (order < 3) {
		unsigned shift = (unsigned)(i & ((8U >> order) - 1)) << order, mask = ((1U << (1U << order)) - 1)
										      << shift;
		uint8_t *byte = &block[i >> (3 - order)];
		*byte = (uint8_t)((*byte & ~mask) | (value << shift & mask));
		return;
	}
	for (unsigned b = 1U << (order - 3); b-- > 0; value >>= 8)
		block[(i << (order - 3)) + b] = (uint8_t)value;
}

/* Where the block for a cluster is; 0: there is none. */
static uint64_t block_of(const struct qcow2 *q, uint64_t cluster)
{
	uint64_t i = cluster / per_block(q);

	return i < table_entries(q) ? be64toh(q->refs[i]) & QCOW2_OFFSET : 0;
}

static int check_block(struct qcow2 *q, uint64_t at)
{
	return at % qcow2_cluster_bytes(&q->h) || at >= q->file_bytes
		       ? qcow2_lies(q, "the offset of a refcount block", at)
		       : 0;
}

/* Gives `n` clusters, all of one block, the refcount `value`. */
static int set_refs(struct qcow2 *q, uint64_t cluster, uint64_t n, uint64_t value)
{
	unsigned order = q->h.refs_order;
	uint64_t at = block_of(q, cluster), first = cluster % per_block(q);
	/* Whole bytes: refcounts of less than 8 bits share them. */
	uint64_t from = first << order >> 3, to = (((first + n) << order) + 7) >> 3;
	autofree uint8_t *part = malloc(to - from);
	int r = part ? check_block(q, at) : -ENOMEM;

	if (r >= 0)
		r = get(q, part, to - from, at + from);
	if (r < 0)
		return r;
	for (uint64_t i = 0; i < n; i++)
		ref_put(part, first - (from << 3 >> order) + i, order, value);
	return qcow2_put(q, part, to - from, at + from);
}

/* ---- new clusters ---- */

/*
 * Makes the refcount table twice as long: behind the first new cluster, which becomes the block that
 * counts itself and the table. The header names the new table when it is durable.
 */
static int grow_table(struct qcow2 *q, uint64_t first)
{
	uint64_t cluster = qcow2_cluster_bytes(&q->h), n = 2 * q->h.refs_clusters, old = q->h.refs_at;
	uint64_t table = (first + 1) * cluster, bytes = n * cluster, i = first % per_block(q);
	struct {
		uint64_t at;
		uint32_t clusters;
	} __attribute__((packed)) named = { htobe64(table), htobe32((uint32_t)n) };

	if (bytes > QCOW2_REFS_MAX_BYTES || i + 1 + n > per_block(q) ||
	    first / per_block(q) >= bytes / sizeof(uint64_t))
		return -EFBIG;
	autofree uint8_t *block = calloc(1, cluster);
	uint64_t *refs = calloc(1, bytes);
	if (!block || !refs) {
		free(refs);
		return -ENOMEM;
	}
	memcpy(refs, q->refs, bytes / 2);
	refs[first / per_block(q)] = htobe64(first * cluster);
	for (uint64_t k = 0; k < 1 + n; k++)
		ref_put(block, i + k, q->h.refs_order, 1);
	int r = ftruncate(q->fd, (off_t)(table + bytes)) < 0 ? -errno : qcow2_put(q, block, cluster, first * cluster);
	if (r >= 0)
		r = qcow2_put(q, refs, bytes, table);
	if (r >= 0)
		r = fdatasync(q->fd) < 0 ? -errno : qcow2_put(q, &named, sizeof(named), QCOW2_REFS_AT);
	if (r < 0) {
		free(refs);
		return r;
	}
	free(q->refs);
	q->refs = refs;
	q->file_bytes = table + bytes;
	q->h.refs_at = table;
	uint64_t old_clusters = q->h.refs_clusters;
	q->h.refs_clusters = (uint32_t)n;
	q->next = q->ready = first + 1 + n;
	if (fdatasync(q->fd) == 0)
		for (uint64_t k = 0; k < old_clusters; k++)
			r = set_refs(q, old / cluster + k, 1, 0);
	return r;
}

/* Makes the block that counts the clusters from `first` on: `first` itself. */
static int add_block(struct qcow2 *q, uint64_t first)
{
	uint64_t cluster = qcow2_cluster_bytes(&q->h), i = first / per_block(q), at = htobe64(first * cluster);

	if (i >= table_entries(q))
		return grow_table(q, first);
	autofree uint8_t *block = calloc(1, cluster);
	if (!block)
		return -ENOMEM;
	ref_put(block, first % per_block(q), q->h.refs_order, 1);
	int r = ftruncate(q->fd, (off_t)((first + 1) * cluster)) < 0 ? -errno
								     : qcow2_put(q, block, cluster, first * cluster);
	if (r >= 0)
		r = fdatasync(q->fd) < 0 ? -errno : qcow2_put(q, &at, sizeof(at), q->h.refs_at + i * sizeof(at));
	if (r < 0)
		return r;
	q->refs[i] = at;
	q->file_bytes = (first + 1) * cluster;
	q->next = q->ready = first + 1;
	return 0;
}

int qcow2_touch(struct qcow2 *q)
{
	if (!q->h.autoclear)
		return 0;
	int r = qcow2_put(q, &(uint64_t){ 0 }, sizeof(uint64_t), QCOW2_AUTOCLEAR_AT);
	if (r >= 0)
		r = fdatasync(q->fd) < 0 ? -errno : 0;
	if (r >= 0)
		q->h.autoclear = 0;
	return r;
}

/* Writes the refcounts of some more clusters at the end. */
static int take_ahead(struct qcow2 *q)
{
	uint64_t cluster = qcow2_cluster_bytes(&q->h), first = q->ready;
	int r = 0;

	if (!block_of(q, first)) {
		r = add_block(q, first);
		first = q->ready;
	}
	if (r < 0)
		return r;
	uint64_t n = AHEAD_BYTES / cluster > AHEAD_MIN ? AHEAD_BYTES / cluster : AHEAD_MIN;
	uint64_t rest = per_block(q) - first % per_block(q);
	n = n < rest ? n : rest;
	if (!block_of(q, first)) /* the block that was added counts up to its own end */
		return take_ahead(q);
	r = set_refs(q, first, n, 1);
	if (r < 0)
		return r;
	if (ftruncate(q->fd, (off_t)((first + n) * cluster)) < 0)
		return -errno;
	q->ready = first + n;
	q->file_bytes = q->ready * cluster;
	return 0;
}

int qcow2_reserve(struct qcow2 *q, uint64_t *len, uint64_t *ret_at)
{
	uint64_t cluster = qcow2_cluster_bytes(&q->h), n = *len / cluster;

	if (q->next == q->ready) {
		int r = take_ahead(q);
		if (r < 0)
			return r;
	}
	n = n < q->ready - q->next ? n : q->ready - q->next;
	*ret_at = q->next * cluster;
	*len = n * cluster;
	q->next += n;
	return 0;
}

void qcow2_unreserve(struct qcow2 *q, uint64_t at, uint64_t len)
{
	uint64_t cluster = qcow2_cluster_bytes(&q->h);

	if (at + len == q->next * cluster &&
	    fallocate(q->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len) == 0)
		q->next = at / cluster;
}

/* ---- what is not needed any more ---- */

/* punch: no read of the cluster's data can be under way. */
static void drop_ref(struct qcow2 *q, uint64_t cluster, bool punch)
{
	uint64_t bytes = qcow2_cluster_bytes(&q->h), at = block_of(q, cluster), i = cluster % per_block(q);
	unsigned order = q->h.refs_order;
	uint64_t from = i << order >> 3;
	uint8_t ref[8];

	if (at == 0 || check_block(q, at) < 0 || get(q, ref, order < 3 ? 1 : 1U << (order - 3), at + from) < 0)
		return;
	uint64_t value = ref_get(ref, i - (from << 3 >> order), order);
	if (value > 0 && set_refs(q, cluster, 1, value - 1) == 0 && value == 1 && punch)
		(void)fallocate(q->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(cluster * bytes),
				(off_t)bytes);
}

void qcow2_refs_drop(struct qcow2 *q, unsigned n)
{
	uint64_t cluster = qcow2_cluster_bytes(&q->h);

	for (unsigned i = 0; i < n; i++) {
		uint64_t at = q->freed[i] & QCOW2_OFFSET, len = cluster;
		if (q->freed[i] & QCOW2_IS_COMPRESSED)
			qcow2_compressed_range(q, q->freed[i], &at, &len);
		for (uint64_t c = at / cluster; c <= (at + len - 1) / cluster; c++)
			drop_ref(q, c, q->freed[i] & (QCOW2_IS_COMPRESSED | QCOW2_READS_ZERO));
	}
	q->n_freed -= n;
	memmove(q->freed, q->freed + n, q->n_freed * sizeof(*q->freed));
}

/* ---- life ---- */

int qcow2_refs_open(struct qcow2 *q, struct err *err)
{
	size_t bytes = q->h.refs_clusters << q->h.cluster_bits;

	q->refs = malloc(bytes);
	int r = q->refs ? get(q, q->refs, bytes, q->h.refs_at) : -ENOMEM;
	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "read the refcount table of '%s'", q->path);
	for (uint64_t i = 0; i < table_entries(q); i++) {
		uint64_t at = be64toh(q->refs[i]) & QCOW2_OFFSET;
		if (at % qcow2_cluster_bytes(&q->h) || at >= q->file_bytes)
			return err_set(
				err, ERR_INVALID,
				"qcow2 image '%s': entry %llu of its refcount table, %#llx, is not within the file",
				q->path, (unsigned long long)i, (unsigned long long)at);
	}
	q->next = q->ready = q->file_bytes >> q->h.cluster_bits;
	return 0;
}

void qcow2_refs_close(struct qcow2 *q)
{
	uint64_t n = q->ready - q->next;

	if (n > 0 && set_refs(q, q->next, n, 0) >= 0)
		(void)!ftruncate(q->fd, (off_t)(q->next << q->h.cluster_bits));
}
