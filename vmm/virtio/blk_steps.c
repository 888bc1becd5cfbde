// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-blk: what is to be done for one request, operation by operation.
 * A read, a write or a flush is one operation. Zeroes are made piece by piece. A write that is not
 * aligned to the image's blocks first reads the blocks at the write's edges into the bounce buffer,
 * then writes whole blocks. Meanwhile blk_io.c keeps other writes away.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include "vmm/virtio/blk.h"

enum { ZERO_PIECE_BYTES = 1 << 20 };

static _Alignas(GUEST_PAGE) char zero_piece[ZERO_PIECE_BYTES]; /* never written: takes no memory */

static bool makes_zeroes(const struct request *rq)
{
	return rq->type == T_WRITE_ZEROES || rq->type == T_DISCARD;
}

/*
 * Whether the piece begins or ends within a block of the image: then fallocate() cannot make zeroes.
 */
static bool is_edge(const struct blk *blk, const struct request *rq)
{
	return ((rq->at | rq->size) & (blk->align.zero - 1)) != 0;
}

/* Whether the zeroes of the piece are written, not made by fallocate(). */
static bool is_written(const struct blk *blk, const struct request *rq)
{
	return rq->zero_way == ZERO_WRITE || is_edge(blk, rq);
}

int blk_zero_mode(const struct request *rq)
{
	bool punch = rq->type == T_DISCARD || !(rq->flags & WRITE_ZEROES_UNMAP) == (rq->zero_way == ZERO_SECOND);

	return (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
}

/* Puts the data to be written over what was read. The bounce buffer has the blocks of the piece. */
static void fill_bounce(const struct blk *blk, const struct request *rq)
{
	char *data = (char *)rq->bounce + blk_inside(blk, rq->at);

	if (rq->type == T_OUT)
		iov_to_buf(rq->guest_iov, rq->n_guest_iov, 0, data, rq->len);
	else if (rq->type == T_WRITE_ZEROES && is_edge(blk, rq))
		memset(data, 0, rq->size);
}

static enum step step_after(const struct blk *blk, const struct request *rq)
{
	uint64_t end = rq->at + rq->size;
	bool one_block = blk_up(blk, end) - blk_down(blk, rq->at) == blk->align.io;

	if (rq->partial && rq->step == STEP_NONE && blk_inside(blk, rq->at))
		return STEP_READ_FIRST;
	if (rq->partial && rq->step != STEP_READ_LAST && blk_inside(blk, end) &&
	    !(rq->step == STEP_READ_FIRST && one_block))
		return STEP_READ_LAST;
	return STEP_MAIN;
}

static void next_step(const struct blk *blk, struct request *rq)
{
	rq->step = step_after(blk, rq);
	if (rq->step == STEP_MAIN && rq->bounce)
		fill_bounce(blk, rq);
}

/* Begins the next piece, at rq->at. */
static void begin_piece(const struct blk *blk, struct request *rq)
{
	uint64_t grain = blk->align.zero, left = rq->offset + rq->len - rq->at, off = rq->at & (grain - 1);

	rq->size = left;
	if (makes_zeroes(rq) && off)
		rq->size = grain - off < left ? grain - off : left;
	else if (makes_zeroes(rq) && left > grain)
		rq->size = left & ~(grain - 1);
	if (makes_zeroes(rq) && rq->zero_way == ZERO_WRITE && rq->size > ZERO_PIECE_BYTES)
		rq->size = ZERO_PIECE_BYTES;
	rq->step = STEP_NONE;
	next_step(blk, rq);
}

void blk_begin(const struct blk *blk, struct request *rq)
{
	rq->zero_way = ZERO_FIRST;
	rq->at = rq->offset;
	begin_piece(blk, rq);
}

/*
 * Writes are on stable storage when they are answered, unless the guest can flush and wants a cache
 * (virtio 1.2, 5.2.6.2).
 */
bool blk_writes_through(const struct blk *blk)
{
	return !virtio_has(&blk->vdev, F_FLUSH) || (virtio_has(&blk->vdev, F_CONFIG_WCE) && !blk->space.writeback);
}

/*
 * Makes rq->one the part of the bounce buffer for `bytes` from `off` of the image on. The bounce
 * buffer begins with the piece's first block.
 */
static void use_bounce(const struct blk *blk, struct request *rq, uint64_t off, uint64_t bytes)
{
	rq->one = (struct iovec){ (char *)rq->bounce + (off - blk_down(blk, rq->at)), bytes };
}

static struct op zero_op(const struct blk *blk, struct request *rq)
{
	struct op op = { OP_ZERO, NULL, 0, rq->at, rq->size, blk_zero_mode(rq), 0 };

	if (!is_written(blk, rq))
		return op;
	rq->one = (struct iovec){ zero_piece, rq->size };
	if (is_edge(blk, rq) && rq->partial) {
		op.off = blk_down(blk, rq->at);
		use_bounce(blk, rq, op.off, blk->align.io);
	}
	return (struct op){ OP_WRITE, &rq->one, 1, op.off, rq->one.iov_len, blk_writes_through(blk) ? RWF_DSYNC : 0, 0 };
}

struct op blk_next_op(const struct blk *blk, struct request *rq)
{
	uint64_t from = blk_down(blk, rq->at), to = blk_up(blk, rq->at + rq->size), block = blk->align.io;

	if (rq->step == STEP_READ_FIRST || rq->step == STEP_READ_LAST) {
		uint64_t off = rq->step == STEP_READ_FIRST ? from : to - block;
		use_bounce(blk, rq, off, block);
		return (struct op){ OP_READ, &rq->one, 1, off, block, 0, 0 };
	}
	if (makes_zeroes(rq) && rq->step != STEP_SYNC)
		return zero_op(blk, rq);
	if (rq->type == T_FLUSH || rq->step == STEP_SYNC)
		return (struct op){ .kind = OP_FLUSH };
	if (rq->bounce)
		use_bounce(blk, rq, from, to - from);
	if (rq->type == T_IN)
		return (struct op){ OP_READ, rq->iov, rq->n_iov, from, to - from, 0, 0 };
	return (struct op){ OP_WRITE, rq->iov, rq->n_iov, from, to - from, blk_writes_through(blk) ? RWF_DSYNC : 0, 0 };
}

/*
 * Takes a block that was read for an edge: whole, or up to the end of the image and zeroes behind.
 * false: the read failed.
 */
static bool took_block(const struct blk *blk, struct request *rq, int res)
{
	const struct op op = blk_next_op(blk, rq);
	uint64_t there = blk->bytes > op.off ? blk->bytes - op.off : 0;

	if (res < 0 || ((uint64_t)res < op.len && (uint64_t)res < there))
		return false;
	memset((char *)rq->one.iov_base + res, 0, op.len - (uint64_t)res);
	return true;
}

/*
 * Goes on with zeroes: by the next way, or with the next piece. A pause waits for what is written
 * here. So large zeroes are not written here: the guest is told to write the zeroes itself.
 */
static bool has_next_piece(const struct blk *blk, struct request *rq, int *res)
{
	bool unsupported = *res == -EOPNOTSUPP || *res == -ENOSYS, edge = is_edge(blk, rq);

	if (unsupported && !is_written(blk, rq)) {
		if (rq->type == T_DISCARD || (rq->zero_way == ZERO_SECOND && rq->len > ZERO_WRITE_MAX_BYTES))
			return false;
		rq->zero_way++;
		begin_piece(blk, rq);
		return true;
	}
	if (*res < 0)
		return false;
	uint64_t done = rq->size;
	if (is_written(blk, rq) && edge && rq->partial)
		done = (uint64_t)*res == blk->align.io ? rq->size : 0;
	else if (is_written(blk, rq))
		done = (uint64_t)*res;
	rq->at += done;
	if (done == 0)
		*res = -EIO;
	if (done > 0 && rq->at < rq->offset + rq->len) {
		begin_piece(blk, rq);
		return true;
	}
	rq->step = STEP_SYNC; /* what fallocate() made is not durable, nor will it be by RWF_DSYNC */
	return done > 0 && rq->type == T_WRITE_ZEROES && blk_writes_through(blk);
}

bool blk_has_next_op(const struct blk *blk, struct request *rq, int *res)
{
	bool reads_block = rq->step != STEP_MAIN && rq->step != STEP_SYNC, again = *res == -EAGAIN || *res == -EINTR;

	if (again && (reads_block || makes_zeroes(rq)))
		return true;
	if (rq->step == STEP_SYNC)
		return false;
	if (!reads_block)
		return makes_zeroes(rq) && has_next_piece(blk, rq, res);
	if (!took_block(blk, rq, *res)) {
		*res = *res < 0 ? *res : -EIO;
		return false;
	}
	next_step(blk, rq);
	return true;
}
