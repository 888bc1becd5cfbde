// SPDX-License-Identifier: Apache-2.0
/* Where a qcow2 file has the guest's bytes: the L1 table is kept whole, L2 tables in slices. */
#include "vmm/virtio/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/log.h"
#include "vmm/virtio/qcow2_private.h"

uint64_t qcow2_bytes(const struct qcow2 *q)
{
	return q->h.bytes;
}

uint32_t qcow2_cluster(const struct qcow2 *q)
{
	return (uint32_t)qcow2_cluster_bytes(&q->h);
}

bool qcow2_has_zeroes(const struct qcow2 *q)
{
	return q->h.version >= 3;
}

int qcow2_lies(struct qcow2 *q, const char *what, uint64_t value)
{
	if (log_deserves(&q->faults))
		log_error("qcow2 image '%s' is damaged: %s is %#llx", q->path, what, (unsigned long long)value);
	return -EUCLEAN;
}

/* ---- opening ---- */

static int read_l1(struct qcow2 *q, struct err *err)
{
	size_t bytes = q->h.l1_entries * sizeof(uint64_t);

	q->l1 = calloc(q->h.l1_entries + 1, sizeof(uint64_t));
	q->l1_dirty = calloc(q->h.l1_entries / 8 + 1, 1);
	q->slices = calloc(SLICES_LIMIT, sizeof(void *));
	ssize_t n = q->l1 && q->l1_dirty && q->slices ? io_read(q->fd, q->l1, bytes, q->h.l1_at) : -ENOMEM;
	if (n != (ssize_t)bytes)
		return err_num(err, ERR_INTERNAL, n < 0 ? (int)-n : EIO, "read the L1 table of '%s'", q->path);
	uint64_t cluster = qcow2_cluster_bytes(&q->h);
	for (uint64_t i = 0; i < q->h.l1_entries; i++) {
		uint64_t at = be64toh(q->l1[i]) & QCOW2_OFFSET;
		if (at % cluster || at >= q->file_bytes)
			return err_set(err, ERR_INVALID,
				       "qcow2 image '%s': entry %llu of its L1 table, %#llx, is not within the file",
				       q->path, (unsigned long long)i, (unsigned long long)at);
		q->l1[i] = at;
	}
	return 0;
}

static int open_tables(struct qcow2 *q, const char *path, struct err *err)
{
	struct stat st;

	q->path = strdup(path);
	if (!q->path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open qcow2 image '%s'", path);
	if (fstat(q->fd, &st) < 0)
		return err_sys(err, ERR_INTERNAL, "stat '%s'", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INVALID, "qcow2 image '%s' is no regular file", path);
	uint64_t cluster = qcow2_cluster_bytes(&q->h);
	q->file_bytes = ((uint64_t)st.st_size + cluster - 1) / cluster * cluster;
	if (read_l1(q, err) < 0)
		return err->num;
	return q->writable ? qcow2_refs_open(q, err) : 0;
}

int qcow2_open(int fd, const char *path, const struct qcow2_header *h, bool writable, struct qcow2 **ret,
	       struct err *err)
{
	struct qcow2 *q = calloc(1, sizeof(*q));

	if (!q)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open qcow2 image '%s'", path);
	q->fd = fd;
	q->h = *h;
	q->writable = writable;
	if (open_tables(q, path, err) < 0) {
		q->writable = false;
		qcow2_free(q);
		return err->num;
	}
	*ret = q;
	return 0;
}

void qcow2_free(struct qcow2 *q)
{
	if (!q)
		return;
	if (q->writable)
		qcow2_refs_close(q);
	for (unsigned i = 0; i < q->n_slices; i++)
		free(q->slices[i]);
	free(q->slices);
	free(q->l1);
	free(q->l1_dirty);
	free(q->refs);
	free(q->inflated);
	free(q->path);
	free(q);
}

/* ---- slices ---- */

static struct slice **bucket_of(struct qcow2 *q, uint64_t at)
{
	return &q->buckets[(at / slice_bytes(q)) * 0x9e3779b97f4a7c15ULL >> 54 & (SLICE_BUCKETS - 1)];
}

static void leave_bucket(struct qcow2 *q, const struct slice *s)
{
	struct slice **p = bucket_of(q, s->at);

	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
}

/* A slice to be filled: a clean one that was not used lately, or a new one. NULL: no memory. */
static struct slice *take_slice(struct qcow2 *q)
{
	for (unsigned i = 0; q->n_slices >= SLICES_MAX && i < 2 * q->n_slices; i++) {
		struct slice *s = q->slices[q->hand++ % q->n_slices];
		bool may_go = !s->used && !s->dirty && !s->held;
		s->used = false;
		if (may_go) {
			leave_bucket(q, s);
			return s;
		}
	}
	struct slice *s = q->n_slices < SLICES_LIMIT ? malloc(sizeof(*s) + slice_bytes(q)) : NULL;
	if (s)
		q->slices[q->n_slices++] = s;
	return s;
}

/* Drops a slice that could not be filled. It is in no bucket. */
static void drop_slice(struct qcow2 *q, struct slice *s)
{
	unsigned i = 0;

	while (q->slices[i] != s)
		i++;
	q->slices[i] = q->slices[--q->n_slices];
	free(s);
}

static int get_slice(struct qcow2 *q, uint64_t at, struct slice **ret)
{
	struct slice **bucket = bucket_of(q, at), *s = *bucket;

	while (s && s->at != at)
		s = s->next;
	if (!s) {
		s = take_slice(q);
		if (!s)
			return -ENOMEM;
		memset(s->entries, 0, slice_bytes(q)); /* the file may end within its last cluster */
		ssize_t n = io_read(q->fd, s->entries, slice_bytes(q), at);
		if (n < 0) {
			drop_slice(q, s);
			return (int)n;
		}
		s->at = at;
		s->dirty = s->held = false;
		s->next = *bucket;
		*bucket = s;
	}
	s->used = true;
	*ret = s;
	return 0;
}

/* Where the L2 entry for `off` is: its slice and its place there. */
static uint64_t slice_at(const struct qcow2 *q, uint64_t off, unsigned *ret_i)
{
	uint64_t table = q->l1[off / qcow2_l2_covers(&q->h)];
	uint64_t entry = off % qcow2_l2_covers(&q->h) >> q->h.cluster_bits;
	uint64_t per = slice_bytes(q) / sizeof(uint64_t);

	*ret_i = (unsigned)(entry % per);
	return table ? table + entry / per * slice_bytes(q) : 0;
}

/* ---- mapping ---- */

void qcow2_compressed_range(const struct qcow2 *q, uint64_t entry, uint64_t *ret_at, uint64_t *ret_len)
{
	unsigned x = 62 - (q->h.cluster_bits - 8);
	uint64_t sectors = (entry & ~(QCOW2_COPIED | QCOW2_IS_COMPRESSED)) >> x;

	*ret_at = entry & ((1ULL << x) - 1);
	*ret_len = (sectors + 1) * 512 - *ret_at % 512;
}

static enum qcow2_kind kind_of(const struct qcow2 *q, uint64_t entry)
{
	if (entry & QCOW2_IS_COMPRESSED)
		return QCOW2_COMPRESSED;
	if (q->h.version >= 3 && (entry & QCOW2_READS_ZERO))
		return QCOW2_ZERO;
	return entry & QCOW2_OFFSET ? QCOW2_DATA : QCOW2_ABSENT;
}

static bool meets(uint64_t at, uint64_t len, uint64_t table, uint64_t table_bytes)
{
	return at < table + table_bytes && table < at + len;
}

/* Checks where data of `n` clusters are: within the file, and over none of the tables whose place is fixed. */
static int check_data(struct qcow2 *q, uint64_t entry, uint64_t n)
{
	uint64_t at = entry & QCOW2_OFFSET, cluster = qcow2_cluster_bytes(&q->h), len = n * cluster;

	if (at % cluster || at >= q->file_bytes || len > q->file_bytes - at ||
	    meets(at, len, q->h.l1_at, q->h.l1_entries * sizeof(uint64_t)) ||
	    meets(at, len, q->h.refs_at, q->h.refs_clusters * cluster))
		return qcow2_lies(q, "an L2 entry", entry);
	return 0;
}

/* Whether cluster `n` of a run goes on where the first one's entry leads. */
static bool goes_on(const struct qcow2 *q, uint64_t first, uint64_t entry, uint64_t n)
{
	enum qcow2_kind kind = kind_of(q, first);

	if (kind_of(q, entry) != kind || kind == QCOW2_COMPRESSED || ((first ^ entry) & QCOW2_COPIED))
		return false;
	return kind != QCOW2_DATA || (entry & QCOW2_OFFSET) == (first & QCOW2_OFFSET) + (n << q->h.cluster_bits);
}

int qcow2_map(struct qcow2 *q, uint64_t off, uint64_t len, struct qcow2_run *ret)
{
	uint64_t cluster = qcow2_cluster_bytes(&q->h), inside = off % cluster, per = slice_bytes(q) / sizeof(uint64_t);
	struct slice *s;
	unsigned i;
	uint64_t at = slice_at(q, off, &i);

	if (at == 0) {
		uint64_t rest = qcow2_l2_covers(&q->h) - off % qcow2_l2_covers(&q->h);
		*ret = (struct qcow2_run){ .kind = QCOW2_ABSENT, .len = len < rest ? len : rest };
		return 0;
	}
	int r = get_slice(q, at, &s);
	if (r < 0)
		return r;
	uint64_t first = be64toh(s->entries[i]), n = 1;
	enum qcow2_kind kind = kind_of(q, first);
	while (n * cluster - inside < len && i + n < per && goes_on(q, first, be64toh(s->entries[i + n]), n))
		n++;
	uint64_t run = n * cluster - inside;
	*ret = (struct qcow2_run){ .kind = kind, .at = first, .len = len < run ? len : run };
	ret->fresh = s->dirty || s->held;
	if (kind != QCOW2_DATA)
		return 0;
	ret->at = (first & QCOW2_OFFSET) + inside;
	ret->shared = !(first & QCOW2_COPIED);
	return check_data(q, first, n);
}

/* ---- changes ---- */

/* Makes the L2 table for `off` where there is none. */
static int need_table(struct qcow2 *q, uint64_t off)
{
	uint64_t i = off / qcow2_l2_covers(&q->h), len = qcow2_cluster_bytes(&q->h), at;

	if (q->l1[i])
		return 0;
	int r = qcow2_reserve(q, &len, &at);
	if (r < 0)
		return r;
	q->l1[i] = at;
	q->l1_dirty[i / 8] |= (uint8_t)(1U << i % 8);
	q->n_l1_dirty++;
	return 0;
}

/* Notes an entry whose data nobody needs any more. When the list is full, their place in the file is lost. */
static void replaced(struct qcow2 *q, uint64_t entry)
{
	if ((entry & (QCOW2_IS_COMPRESSED | QCOW2_OFFSET)) && q->n_freed < FREED_MAX)
		q->freed[q->n_freed++] = entry;
}

static int bind_one(struct qcow2 *q, uint64_t off, uint64_t at)
{
	struct slice *s;
	unsigned i;
	int r = need_table(q, off);

	if (r >= 0)
		r = get_slice(q, slice_at(q, off, &i), &s);
	if (r < 0)
		return r;
	replaced(q, be64toh(s->entries[i]));
	s->entries[i] = htobe64(at ? at | QCOW2_COPIED : QCOW2_READS_ZERO);
	q->n_dirty += !s->dirty;
	s->dirty = true;
	return 0;
}

/* Whether the tables are to be written before more of them change. */
static bool is_full(const struct qcow2 *q)
{
	return q->n_dirty >= SLICES_MAX / 2 || q->n_freed == FREED_MAX;
}

bool qcow2_is_behind(const struct qcow2 *q)
{
	return q->committing && is_full(q);
}

int qcow2_bind(struct qcow2 *q, uint64_t off, uint64_t len, uint64_t at)
{
	uint64_t cluster = qcow2_cluster_bytes(&q->h);

	for (uint64_t done = 0; done < len; done += cluster) {
		int r = is_full(q) && !q->committing ? qcow2_commit(q) : 0;
		if (r >= 0)
			r = bind_one(q, off + done, at ? at + done : 0);
		if (r < 0 && at)
			qcow2_unreserve(q, at + done, len - done);
		if (r < 0)
			return r;
	}
	return 0;
}
