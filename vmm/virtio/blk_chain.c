// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-blk: what is to be done for one request of a qcow2 image, operation by operation.
 * A request is done piece by piece, each piece in one file. A write to clusters that the image does not
 * have rewrites them: they get a new place, where the rest of a cluster is filled up with what was
 * there before, and the tables name the place when the data are written. Meanwhile requests that touch
 * these clusters wait.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "vmm/virtio/blk.h"

enum { START, READ, OVERWRITE, FILL, REWRITE, ZERO, COMMIT, COMMIT_SYNC, FLUSH, DONE };
enum { ZEROES_BYTES = 64 << 10, FILL_MAX_BYTES = 64 << 20 };

static _Alignas(GUEST_PAGE) char zeroes[ZEROES_BYTES]; /* never written */

static struct qcow2 *top(const struct blk *blk)
{
	return blk->layers[0].qcow2;
}

static uint64_t left(const struct request *rq)
{
	return rq->offset + rq->len - rq->at;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool is_zero(const uint8_t *p, size_t len)
{
	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

/* ---- the guest's segments, which are used up from the front ---- */

static struct iovec *segments(const struct request *rq)
{
	return rq->guest_iov + (rq->n_guest_iov - rq->n_iov);
}

/* Makes op one of the next `len` bytes, or of less: no system call takes more than IOV_MAX segments. */
static void use_segments(struct request *rq, uint64_t len, struct op *op)
{
	struct iovec *v = segments(rq);
	uint64_t sum = 0;
	unsigned n = 0;

	while (sum < len && n < rq->n_iov && n < IOV_MAX)
		sum += v[n++].iov_len;
	rq->cut = sum > len ? sum - len : 0;
	rq->cut_seg = &v[n - 1];
	rq->cut_seg->iov_len -= rq->cut;
	op->iov = v;
	op->n_iov = n;
	op->len = sum - rq->cut;
}

static void uncut(struct request *rq)
{
	if (rq->cut)
		rq->cut_seg->iov_len += rq->cut;
	rq->cut = 0;
}

/* Goes on behind `len` bytes. */
static void advance(struct request *rq, uint64_t len)
{
	rq->at += len;
	if (rq->type != T_IN && rq->type != T_OUT)
		return;
	while (len > 0 && len >= segments(rq)->iov_len) {
		len -= segments(rq)->iov_len;
		rq->n_iov--;
	}
	if (len > 0) {
		segments(rq)->iov_base = (char *)segments(rq)->iov_base + len;
		segments(rq)->iov_len -= len;
	}
}

/* Gives the guest the next `len` bytes, from `from`; NULL: zeroes. */
static void give(struct request *rq, const uint8_t *from, uint64_t len)
{
	for (uint64_t done = 0; done < len;) {
		uint64_t n = from ? len : least(len - done, ZEROES_BYTES);
		iov_from_buf(segments(rq), rq->n_iov, done, from ? (const void *)from : zeroes, n);
		done += n;
	}
	advance(rq, len);
}

/* ---- operations ---- */

/*
 * The file for an operation in `layer`: with direct=on data go past the page cache where their
 * alignment allows.
 */
static unsigned file_for(const struct blk *blk, unsigned layer, const struct op *op)
{
	uint64_t io = op->off | op->len, mem = 0;

	for (unsigned i = 0; i < op->n_iov; i++) {
		io |= op->iov[i].iov_len;
		mem |= (uintptr_t)op->iov[i].iov_base;
	}
	return layer == 0 && !blk_inside(blk, io) && !(mem & (blk->align.mem - 1)) ? 0 : layer + 1;
}

static enum chain_next use_guest(struct blk *blk, struct request *rq, struct op *op, unsigned layer, uint64_t off,
				 uint64_t len)
{
	use_segments(rq, len, op);
	op->off = off;
	op->kind = rq->type == T_IN ? OP_READ : OP_WRITE;
	op->flags = op->kind == OP_WRITE && blk_writes_through(blk) ? RWF_DSYNC : 0;
	op->file = file_for(blk, layer, op);
	return CHAIN_OP;
}

static enum chain_next use_buffer(struct blk *blk, struct request *rq, struct op *op, enum op_kind kind, unsigned layer,
				  void *buf, uint64_t off, uint64_t len)
{
	rq->one = (struct iovec){ buf, len };
	*op = (struct op){ kind, &rq->one, 1, off, len, kind == OP_WRITE && blk_writes_through(blk) ? RWF_DSYNC : 0, 0 };
	op->file = file_for(blk, layer, op);
	return CHAIN_OP;
}

/* ---- requests that wait for each other ---- */

static bool meets_rewrite(const struct blk *blk, uint64_t from, uint64_t to)
{
	for (unsigned i = 0; blk->n_rewriting > 0 && i < blk->n_requests; i++) {
		const struct rewrite *w = &blk->requests[i].rewrite;
		if (w->from < to && from < w->to)
			return true;
	}
	return false;
}

/* Whether other requests write the pages of the request's next `len` bytes just now. */
static bool meets_write(const struct blk *blk, const struct request *rq, uint64_t len)
{
	uint64_t page = GUEST_PAGE, from = rq->at / page * page, to = (rq->at + len + page - 1) / page * page;

	for (unsigned i = 0; i < blk->n_requests; i++) {
		const struct request *other = &blk->requests[i];
		if (other->running && blk_is_write(other) && other->at < to && from < other->at + other->size)
			return true;
	}
	return false;
}

/*
 * A write through the page cache of an image with direct=on waits for the direct writes in its pages: the
 * kernel cannot keep a page right that both write at once.
 */
static enum chain_next after_direct(const struct blk *blk, struct request *rq, const struct op *op)
{
	if (op->file != 1 || !meets_write(blk, rq, op->len))
		return CHAIN_OP;
	uncut(rq);
	rq->chain_step = START;
	return CHAIN_WAIT;
}

static void end_rewrite(struct blk *blk, struct request *rq)
{
	struct rewrite *w = &rq->rewrite;

	if (w->from == w->to)
		return;
	blk->n_filling -= w->buf != NULL;
	free(w->buf);
	*w = (struct rewrite){};
	blk->n_rewriting--;
	blk->wake = true;
}

static void end_commit(struct blk *blk, struct request *rq, bool ok)
{
	if (!rq->commit)
		return;
	qcow2_commit_end(top(blk), rq->commit, ok);
	rq->commit = NULL;
	blk->wake = true;
}

/* ---- pieces ---- */

static int read_piece(struct blk *blk, struct request *rq, struct op *op)
{
	struct qcow2_run run;
	unsigned layer = 0;
	const uint8_t *cluster = NULL;
	int r = blk_map(blk, 0, rq->at, left(rq), &run, &layer);

	if (r < 0)
		return r;
	if (meets_rewrite(blk, rq->at, rq->at + run.len))
		return CHAIN_WAIT;
	rq->chain_step = READ;
	if (run.kind == QCOW2_DATA)
		return use_guest(blk, rq, op, layer, run.at, run.len);
	rq->chain_step = START;
	if (run.kind == QCOW2_COMPRESSED) {
		r = qcow2_read_compressed(blk->layers[layer].qcow2, run.at, &cluster);
		if (r < 0)
			return r;
		cluster += rq->at % qcow2_cluster(blk->layers[layer].qcow2);
	}
	give(rq, cluster, run.len);
	return CHAIN_AGAIN;
}

/*
 * Begins to give the clusters of the request's next `len` bytes a new place: all that it writes whole,
 * or one.
 */
static int begin_rewrite(struct blk *blk, struct request *rq, uint64_t len)
{
	uint64_t cluster = qcow2_cluster(top(blk)), inside = rq->at % cluster, bytes;
	struct rewrite w = { .from = rq->at - inside };
	bool whole = inside == 0 && len >= cluster && rq->n_iov <= IOV_MAX;

	w.to = whole && rq->type == T_OUT ? rq->at + len / cluster * cluster : w.from + cluster;
	if (meets_rewrite(blk, w.from, w.to) || (!whole && blk->n_filling > FILL_MAX_BYTES / cluster))
		return CHAIN_WAIT;
	if (!whole && posix_memalign((void **)&w.buf, GUEST_PAGE, cluster) != 0)
		return -ENOMEM;
	bytes = w.to - w.from;
	int r = qcow2_reserve(top(blk), &bytes, &w.place);
	if (r < 0) {
		free(w.buf);
		return r;
	}
	w.to = w.from + bytes;
	w.end = least(w.to, rq->at + len);
	w.filled = w.from;
	rq->rewrite = w;
	rq->unsynced = true;
	blk->n_rewriting++;
	blk->n_filling += w.buf != NULL;
	rq->chain_step = w.buf ? FILL : REWRITE;
	return CHAIN_AGAIN;
}

/* Where the image has the next bytes, which are to change. What another request put there may not be durable yet. */
static int map_top(struct blk *blk, struct request *rq, struct qcow2_run *ret)
{
	int r = qcow2_touch(top(blk));

	if (r >= 0)
		r = qcow2_map(top(blk), rq->at, left(rq), ret);
	if (r >= 0)
		rq->unsynced |= ret->fresh;
	return r;
}

static int write_piece(struct blk *blk, struct request *rq, struct op *op)
{
	struct qcow2_run run;
	int r = map_top(blk, rq, &run);

	if (r < 0)
		return r;
	if (run.kind != QCOW2_DATA || run.shared)
		return begin_rewrite(blk, rq, run.len);
	if (meets_rewrite(blk, rq->at, rq->at + run.len))
		return CHAIN_WAIT;
	rq->chain_step = OVERWRITE;
	use_guest(blk, rq, op, 0, run.at, run.len);
	return after_direct(blk, rq, op);
}

/* Zeroes in clusters that the image has: the file system makes them, else they are written. */
static int zero_data(struct blk *blk, struct request *rq, struct op *op, const struct qcow2_run *run)
{
	if (rq->zero_way == ZERO_WRITE && rq->type == T_DISCARD) {
		advance(rq, run->len); /* a discard is advice */
		return CHAIN_AGAIN;
	}
	if (rq->zero_way == ZERO_WRITE && rq->len > ZERO_WRITE_MAX_BYTES)
		return -EOPNOTSUPP;
	rq->chain_step = ZERO;
	if (rq->zero_way == ZERO_WRITE) {
		use_buffer(blk, rq, op, OP_WRITE, 0, zeroes, run->at, least(run->len, ZEROES_BYTES));
		return after_direct(blk, rq, op);
	}
	rq->unsynced = true;
	*op = (struct op){ .kind = OP_ZERO, .off = run->at, .len = run->len, .flags = blk_zero_mode(rq) };
	return CHAIN_OP;
}

/* Zeroes in clusters that the image does not have, or must not write in their place. */
static int zero_absent(struct blk *blk, struct request *rq, const struct qcow2_run *run)
{
	uint64_t cluster = qcow2_cluster(top(blk)), whole = run->len / cluster * cluster;
	bool absent = run->kind == QCOW2_ABSENT;

	if (run->kind == QCOW2_ZERO || (absent && (blk->n_layers == 1 || rq->type == T_DISCARD))) {
		advance(rq, run->len);
		return CHAIN_AGAIN;
	}
	if (rq->at % cluster == 0 && whole > 0 && qcow2_has_zeroes(top(blk))) {
		if (qcow2_is_behind(top(blk)))
			return CHAIN_WAIT;
		int r = qcow2_bind(top(blk), rq->at, whole, 0);
		rq->unsynced = true;
		advance(rq, whole);
		return r < 0 ? r : CHAIN_AGAIN;
	}
	if (rq->type == T_WRITE_ZEROES)
		return begin_rewrite(blk, rq, least(run->len, cluster - rq->at % cluster));
	advance(rq, run->len);
	return CHAIN_AGAIN;
}

static int zero_piece(struct blk *blk, struct request *rq, struct op *op)
{
	struct qcow2_run run;
	int r = map_top(blk, rq, &run);

	if (r < 0)
		return r;
	if (meets_rewrite(blk, rq->at, rq->at + run.len))
		return CHAIN_WAIT;
	return run.kind == QCOW2_DATA && !run.shared ? zero_data(blk, rq, op, &run) : zero_absent(blk, rq, &run);
}

/* Writes the tables, and what they name before; and all the data, of a flush. */
static int begin_commit(struct blk *blk, struct request *rq)
{
	int r;

	if (qcow2_is_committing(top(blk)))
		return CHAIN_WAIT;
	rq->commit = qcow2_commit_begin(top(blk), &r);
	rq->chain_step = rq->commit ? COMMIT : FLUSH;
	return r < 0 ? r : CHAIN_AGAIN;
}

static int commit_step(struct blk *blk, struct request *rq)
{
	int r = qcow2_commit_step(top(blk), rq->commit);

	if (r == 0) {
		end_commit(blk, rq, true);
		rq->chain_step = DONE;
	} else {
		rq->chain_step = COMMIT_SYNC;
	}
	return r < 0 ? r : CHAIN_AGAIN;
}

static int next_piece(struct blk *blk, struct request *rq, struct op *op)
{
	if (rq->type == T_FLUSH)
		return begin_commit(blk, rq);
	if (left(rq) == 0)
		return rq->unsynced && blk_writes_through(blk) ? begin_commit(blk, rq) : CHAIN_END;
	switch (rq->type) {
	case T_IN:
		return read_piece(blk, rq, op);
	case T_OUT:
		return write_piece(blk, rq, op);
	default:
		return zero_piece(blk, rq, op);
	}
}

/* Takes what the buffer got; it is written whole unless all of that is zero. */
static void filled(struct rewrite *w, uint64_t len)
{
	w->whole |= !is_zero(w->buf + (w->filled - w->from), len);
	w->filled += len;
}

/* Fills the buffer with what was in the cluster around the request's own bytes. */
static int fill_step(struct blk *blk, struct request *rq, struct op *op)
{
	struct rewrite *w = &rq->rewrite;
	struct qcow2_run run;
	unsigned layer = 0;
	const uint8_t *cluster;

	if (w->filled == rq->at)
		w->filled = w->end;
	if (w->filled == w->to) {
		rq->chain_step = REWRITE;
		if (w->whole && rq->type == T_OUT)
			iov_to_buf(segments(rq), rq->n_iov, 0, w->buf + (rq->at - w->from), w->end - rq->at);
		else if (w->whole)
			memset(w->buf + (rq->at - w->from), 0, w->end - rq->at);
		return CHAIN_AGAIN;
	}
	uint64_t len = (w->filled < rq->at ? rq->at : w->to) - w->filled;
	int r = blk_map(blk, 0, w->filled, len, &run, &layer);
	if (r < 0)
		return r;
	uint8_t *to = w->buf + (w->filled - w->from);
	w->part = run.len;
	if (run.kind == QCOW2_DATA)
		return use_buffer(blk, rq, op, OP_READ, layer, to, run.at, run.len);
	if (run.kind == QCOW2_COMPRESSED) {
		r = qcow2_read_compressed(blk->layers[layer].qcow2, run.at, &cluster);
		if (r < 0)
			return r;
		memcpy(to, cluster + w->filled % qcow2_cluster(blk->layers[layer].qcow2), run.len);
	} else {
		memset(to, 0, run.len);
	}
	filled(w, run.len);
	return CHAIN_AGAIN;
}

static int rewrite_step(struct blk *blk, struct request *rq, struct op *op)
{
	struct rewrite *w = &rq->rewrite;
	uint64_t bytes = w->to - w->from;

	if (w->whole && w->written < bytes)
		return use_buffer(blk, rq, op, OP_WRITE, 0, w->buf + w->written, w->place + w->written,
				  bytes - w->written);
	if (!w->whole && rq->type == T_OUT && rq->at < w->end)
		return use_guest(blk, rq, op, 0, w->place + (rq->at - w->from), w->end - rq->at);
	if (rq->at < w->end)
		advance(rq, w->end - rq->at);
	if (qcow2_is_behind(top(blk)))
		return CHAIN_WAIT;
	int r = qcow2_bind(top(blk), w->from, bytes, w->place);
	end_rewrite(blk, rq);
	rq->chain_step = START;
	return r < 0 ? r : CHAIN_AGAIN;
}

static int next_step(struct blk *blk, struct request *rq, struct op *op)
{
	if (rq->failed < 0)
		return rq->failed;
	switch (rq->chain_step) {
	case FILL:
		return fill_step(blk, rq, op);
	case REWRITE:
		return rewrite_step(blk, rq, op);
	case COMMIT:
		return commit_step(blk, rq);
	case COMMIT_SYNC:
	case FLUSH:
		*op = (struct op){ .kind = OP_FLUSH };
		return CHAIN_OP;
	case DONE:
		return CHAIN_END;
	default:
		return next_piece(blk, rq, op);
	}
}

void blk_chain_begin(struct request *rq)
{
	rq->chain_step = START;
	rq->unsynced = false;
	rq->failed = 0;
	rq->cut = 0;
	rq->zero_way = ZERO_FIRST;
	rq->at = rq->offset;
}

enum chain_next blk_chain_next(struct blk *blk, struct request *rq, struct op *op, int *ret_res)
{
	int r;

	do
		r = next_step(blk, rq, op);
	while (r == CHAIN_AGAIN);
	rq->size = r == CHAIN_OP ? op->len : 0;
	if (r >= 0 && r != CHAIN_END)
		return (enum chain_next)r;
	if (r < 0 && rq->rewrite.from < rq->rewrite.to)
		qcow2_unreserve(top(blk), rq->rewrite.place, rq->rewrite.to - rq->rewrite.from);
	end_rewrite(blk, rq);
	end_commit(blk, rq, false);
	*ret_res = r < 0 ? r : 0;
	return CHAIN_END;
}

/* ---- results ---- */

static void zero_done(struct request *rq, int res)
{
	bool unsupported = res == -EOPNOTSUPP || res == -ENOSYS;

	rq->chain_step = START;
	if (unsupported && rq->zero_way != ZERO_WRITE)
		rq->zero_way++;
	else if (res < 0 || (res == 0 && rq->zero_way == ZERO_WRITE))
		rq->failed = res < 0 ? res : -EIO;
	else
		advance(rq, rq->zero_way == ZERO_WRITE ? (uint64_t)res : rq->size);
}

/* The file ends before its last cluster does: the rest of that reads as zeroes. */
static void fill_done(struct rewrite *w, int res)
{
	if (res == 0)
		memset(w->buf + (w->filled - w->from), 0, w->part);
	filled(w, res == 0 ? w->part : (uint64_t)res);
}

void blk_chain_done(struct request *rq, int res)
{
	bool writes = rq->chain_step == OVERWRITE || rq->chain_step == REWRITE;

	uncut(rq);
	if (res == -EAGAIN || res == -EINTR)
		return;
	if (res < 0 && rq->chain_step != ZERO) {
		rq->failed = res;
		return;
	}
	if (res == 0 && writes) {
		rq->failed = -EIO;
		return;
	}
	switch (rq->chain_step) {
	case READ:
		rq->chain_step = START;
		if (res == 0)
			give(rq, NULL, rq->size);
		else
			advance(rq, (uint64_t)res);
		break;
	case OVERWRITE:
		rq->chain_step = START;
		advance(rq, (uint64_t)res);
		break;
	case FILL:
		fill_done(&rq->rewrite, res);
		break;
	case REWRITE:
		if (rq->rewrite.whole)
			rq->rewrite.written += (uint64_t)res;
		else
			advance(rq, (uint64_t)res);
		break;
	case ZERO:
		zero_done(rq, res);
		break;
	case COMMIT_SYNC:
		rq->chain_step = COMMIT;
		break;
	case FLUSH:
		rq->chain_step = DONE;
		break;
	default:
		break;
	}
}
