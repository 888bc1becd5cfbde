// SPDX-License-Identifier: Apache-2.0
/*
 * The way of a qcow2 file's changed tables to the disk. The first sync makes durable what the tables
 * will name: data, refcounts and the zeroes of new L2 tables, so that entries of L1 and L2 tables may
 * come to the disk in any order.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vmm/virtio/qcow2_private.h"

enum stage { SYNC_DATA, WRITE, DONE };

struct part {
	struct slice *slice;
	uint8_t *copy;
};

struct l1_part {
	uint64_t i, entry; /* as in the file */
};

struct qcow2_commit {
	enum stage stage;
	unsigned n_parts, n_l1, n_freed;
	struct part *parts;
	struct l1_part *l1;
};

static void commit_free(struct qcow2_commit *c)
{
	for (unsigned i = 0; i < c->n_parts; i++)
		free(c->parts[i].copy);
	free(c->parts);
	free(c->l1);
	free(c);
}

/* Copies the slices and L1 entries that changed. false: no memory, and nothing was changed. */
static bool collect(struct qcow2 *q, struct qcow2_commit *c)
{
	c->parts = calloc(q->n_dirty + 1UL, sizeof(*c->parts));
	c->l1 = calloc(q->n_l1_dirty + 1UL, sizeof(*c->l1));
	for (unsigned i = 0; c->parts && i < q->n_slices; i++) {
		struct slice *s = q->slices[i];
		if (!s->dirty)
			continue;
		struct part *p = &c->parts[c->n_parts];
		p->copy = malloc(slice_bytes(q));
		if (!p->copy)
			return false;
		memcpy(p->copy, s->entries, slice_bytes(q));
		p->slice = s;
		c->n_parts++;
	}
	for (uint64_t i = 0; c->l1 && c->n_l1 < q->n_l1_dirty; i++)
		if (q->l1_dirty[i / 8] >> i % 8 & 1)
			c->l1[c->n_l1++] = (struct l1_part){ i, htobe64(q->l1[i] | QCOW2_COPIED) };
	return c->parts && c->l1;
}

bool qcow2_is_committing(const struct qcow2 *q)
{
	return q->committing;
}

struct qcow2_commit *qcow2_commit_begin(struct qcow2 *q, int *ret_error)
{
	*ret_error = 0;
	if (q->n_dirty == 0 && q->n_l1_dirty == 0)
		return NULL;
	struct qcow2_commit *c = calloc(1, sizeof(*c));
	if (!c || !collect(q, c)) {
		if (c)
			commit_free(c);
		*ret_error = -ENOMEM;
		return NULL;
	}
	for (unsigned i = 0; i < c->n_parts; i++) {
		c->parts[i].slice->dirty = false;
		c->parts[i].slice->held = true;
	}
	memset(q->l1_dirty, 0, q->h.l1_entries / 8 + 1);
	q->n_dirty = q->n_l1_dirty = 0;
	c->n_freed = q->n_freed;
	q->committing = true;
	return c;
}

static int write_tables(struct qcow2 *q, const struct qcow2_commit *c)
{
	int r = 0;

	for (unsigned i = 0; r >= 0 && i < c->n_parts; i++)
		r = qcow2_put(q, c->parts[i].copy, slice_bytes(q), c->parts[i].slice->at);
	for (unsigned i = 0; r >= 0 && i < c->n_l1; i++)
		r = qcow2_put(q, &c->l1[i].entry, sizeof(uint64_t), q->h.l1_at + c->l1[i].i * sizeof(uint64_t));
	return r;
}

int qcow2_commit_step(struct qcow2 *q, struct qcow2_commit *c)
{
	int r = 0;

	if (c->stage == DONE)
		return 0;
	if (c->stage == WRITE)
		r = write_tables(q, c);
	c->stage++;
	return r < 0 ? r : 1;
}

void qcow2_commit_end(struct qcow2 *q, struct qcow2_commit *c, bool ok)
{
	for (unsigned i = 0; i < c->n_parts; i++) {
		struct slice *s = c->parts[i].slice;
		s->held = false;
		q->n_dirty += !ok && !s->dirty;
		s->dirty |= !ok;
	}
	for (unsigned i = 0; !ok && i < c->n_l1; i++) {
		uint64_t k = c->l1[i].i;
		q->n_l1_dirty += !(q->l1_dirty[k / 8] >> k % 8 & 1);
		q->l1_dirty[k / 8] |= (uint8_t)(1U << k % 8);
	}
	q->committing = false;
	if (ok)
		qcow2_refs_drop(q, c->n_freed);
	commit_free(c);
}

int qcow2_commit(struct qcow2 *q)
{
	int error = 0, r;
	struct qcow2_commit *c = qcow2_commit_begin(q, &error);

	if (!c)
		return error;
	while ((r = qcow2_commit_step(q, c)) > 0)
		if (fdatasync(q->fd) < 0) {
			r = -errno;
			break;
		}
	qcow2_commit_end(q, c, r == 0);
	return r;
}
