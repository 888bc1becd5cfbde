// SPDX-License-Identifier: Apache-2.0
/* virtio-blk: input and output, through the ring or by system calls. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>

#include "common/clock.h"
#include "common/log.h"
#include "vmm/virtio/blk.h"

enum { CACHED_WRITE_MAX_BYTES = 256 << 10 };

static void prepare_io(struct request *rq, const struct op *op, struct io_uring_sqe *sqe)
{
	int file = (int)op->file;

	switch (op->kind) {
	case OP_READ:
		io_uring_prep_readv(sqe, file, op->iov, op->n_iov, op->off);
		break;
	case OP_WRITE:
		io_uring_prep_writev(sqe, file, op->iov, op->n_iov, op->off);
		sqe->rw_flags = op->flags;
		break;
	case OP_FLUSH:
		io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
		break;
	case OP_ZERO:
		io_uring_prep_fallocate(sqe, file, op->flags, (off_t)op->off, (off_t)op->len);
	}
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, rq);
}

static int execute(const struct blk *blk, const struct op *op)
{
	int fd = blk_file(blk, op->file);
	ssize_t n = -1;

	switch (op->kind) {
	case OP_READ:
		n = preadv(fd, op->iov, (int)op->n_iov, (off_t)op->off);
		break;
	case OP_WRITE:
		n = pwritev2(fd, op->iov, (int)op->n_iov, (off_t)op->off, op->flags);
		break;
	case OP_FLUSH:
		n = fdatasync(fd);
		break;
	case OP_ZERO:
		n = fallocate(fd, op->flags, (off_t)op->off, (off_t)op->len);
	}
	return n < 0 ? -errno : (int)n;
}

/*
 * Does the rest of a transfer that came back short, which is rare, by system calls. A read of whole
 * blocks may stop at the end of the image, when the bytes that the guest asked for are there.
 */
static bool finish_transfer(const struct blk *blk, const struct request *rq, uint64_t done)
{
	uint64_t from = blk_down(blk, rq->offset), end = rq->offset + rq->len;
	uint64_t needed = (rq->type == T_IN ? end : blk_up(blk, end)) - from;

	if (done >= needed)
		return true;
	while (done < needed) {
		uint64_t begin = blk_down(blk, done), skip = begin;
		unsigned i = 0;
		while (skip >= rq->iov[i].iov_len)
			skip -= rq->iov[i++].iov_len;
		char *p = (char *)rq->iov[i].iov_base + skip;
		size_t len = rq->iov[i].iov_len - skip;
		ssize_t n = rq->type == T_IN ? pread(blk->fd, p, len, (off_t)(from + begin))
					     : pwrite(blk->fd, p, len, (off_t)(from + begin));
		if (n <= 0 || begin + (uint64_t)n <= done)
			return false;
		done = begin + (uint64_t)n;
	}
	return rq->type == T_IN || !blk_writes_through(blk) || fdatasync(blk->fd) == 0;
}

/*
 * Cuts the image to its size, after whole blocks were written at the end of an image that ends within
 * a block.
 */
static bool cut_to_size(const struct blk *blk, const struct request *rq)
{
	return !rq->partial || blk_up(blk, rq->offset + rq->len) <= blk->bytes ||
	       ftruncate(blk->fd, (off_t)blk->bytes) == 0;
}

uint8_t blk_status(struct blk *blk, const struct request *rq, int res)
{
	bool ok = res >= 0, unsupported = res == -EOPNOTSUPP || res == -ENOSYS;

	if (rq->type == T_WRITE_ZEROES && unsupported)
		return S_UNSUPP;
	if (blk->layers) {
		/* blk_chain.c has done all */
	} else if (rq->type == T_IN || rq->type == T_OUT) {
		if (ok || res == -EAGAIN || res == -EINTR)
			ok = finish_transfer(blk, rq, ok ? (uint64_t)res : 0);
	} else if (rq->type == T_DISCARD && unsupported) {
		ok = true; /* a discard is advice */
	}
	ok = (blk->layers || cut_to_size(blk, rq)) && ok;
	uint64_t *failed = &blk->vdev.counters.disk_failed_ops;
	if (!ok && log_deserves(failed))
		log_warn("disk '%s': request type %u at %llu failed: errno %d; failure %llu", blk->vdev.id, rq->type,
			 (unsigned long long)rq->offset, res < 0 ? -res : EIO, (unsigned long long)*failed);
	return ok ? S_OK : S_IOERR;
}

/*
 * A write into the page cache is a copy, done at once: io_uring would hand the write to a thread of
 * the kernel, which takes longer than the copy. When the host throttles, the copying thread waits: a
 * vCPU or the device's worker (the main thread only for what was left at a pause).
 */
static bool is_cached_write(const struct blk *blk, const struct request *rq)
{
	return rq->type == T_OUT && !blk->direct && !blk_writes_through(blk) && rq->len <= CACHED_WRITE_MAX_BYTES;
}

static void queue_op(struct blk *blk, struct request *rq, const struct op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&blk->ring);

	assert(sqe); /* there is an entry for each request */
	prepare_io(rq, op, sqe);
	rq->running = true;
	blk->in_flight++;
}

static void queue_request(struct blk *blk, struct request *rq)
{
	const struct op op = blk_next_op(blk, rq);

	queue_op(blk, rq, &op);
}

/* ---- requests of a qcow2 image ---- */

static void go_on(struct blk *blk, struct request *rq)
{
	bool at_once = !blk->has_ring || is_cached_write(blk, rq);
	struct op op;
	int res;

	for (;;) {
		switch (blk_chain_next(blk, rq, &op, &res)) {
		case CHAIN_WAIT:
			rq->next = blk->waiting;
			blk->waiting = rq;
			return;
		case CHAIN_END:
			blk_complete(blk, rq, res);
			return;
		default:
			break;
		}
		if (!at_once && op.file != 1) {
			queue_op(blk, rq, &op);
			return;
		}
		blk_chain_done(rq, execute(blk, &op));
	}
}

/* Looks again at the requests that waited, in the order in which they came. */
static void wake(struct blk *blk)
{
	while (blk->wake) {
		struct request *list = NULL, *rq;
		blk->wake = false;
		while ((rq = blk->waiting)) {
			blk->waiting = rq->next;
			rq->next = list;
			list = rq;
		}
		while ((rq = list)) {
			list = rq->next;
			go_on(blk, rq);
		}
	}
}

/* ---- writes that are not aligned, one at a time ---- */

static bool overlap(const struct blk *blk, const struct request *a, const struct request *b)
{
	return blk_down(blk, a->offset) < blk_up(blk, b->offset + b->len) &&
	       blk_down(blk, b->offset) < blk_up(blk, a->offset + a->len);
}

static bool meets_running(const struct blk *blk, const struct request *rq)
{
	for (unsigned i = 0; i < blk->n_requests; i++) {
		const struct request *other = &blk->requests[i];
		if (other->running && other != rq && blk_is_write(other) && overlap(blk, rq, other))
			return true;
	}
	return false;
}

/*
 * An unaligned write reads blocks and writes them whole: meanwhile no other write may touch the
 * blocks. Unaligned writes go one after the other, through the lane. The first write of the lane waits
 * for the writes under way in its blocks. Later writes to these blocks wait behind that first write.
 */
static void advance_lane(struct blk *blk)
{
	for (struct request *rq = blk->lane; rq && !rq->running; rq = blk->lane) {
		if (rq->partial && meets_running(blk, rq))
			return;
		queue_request(blk, rq);
		if (!rq->partial)
			blk->lane = rq->next;
	}
}

static void enter_lane(struct blk *blk, struct request *rq)
{
	struct request **end = blk->lane ? &blk->lane_last->next : &blk->lane;

	*end = blk->lane_last = rq;
	rq->next = NULL;
	advance_lane(blk);
}

static void finish(struct blk *blk, struct request *rq, int res)
{
	rq->running = false;
	if (blk->lane == rq)
		blk->lane = rq->next;
	blk_complete(blk, rq, res);
	advance_lane(blk);
}

void blk_run(struct blk *blk, struct request *rq)
{
	int res;

	rq->began_ns = monotonic_ns();
	if (blk->layers) {
		blk_chain_begin(rq);
		go_on(blk, rq);
		wake(blk);
		return;
	}
	blk_begin(blk, rq);
	if (blk->has_ring && !is_cached_write(blk, rq)) {
		if (rq->partial || (blk->lane && blk_is_write(rq) && overlap(blk, rq, blk->lane)))
			enter_lane(blk, rq);
		else
			queue_request(blk, rq);
		return;
	}
	do {
		const struct op op = blk_next_op(blk, rq);
		res = execute(blk, &op);
	} while (blk_has_next_op(blk, rq, &res));
	blk_complete(blk, rq, res);
}

void blk_interrupt(struct blk *blk)
{
	for (unsigned q = 0; blk->answered && q < blk->vdev.n_queues; q++)
		if (blk->answered >> q % 64 & 1)
			virtio_interrupt(&blk->vdev, q);
	blk->answered = 0;
}

/*
 * Answers the requests that are done, and queues the next operation of other requests. Interrupts each
 * queue at most once.
 */
static void reap(struct blk *blk)
{
	struct io_uring_cqe *cqe;

	while (blk->has_ring && blk->in_flight > 0 && io_uring_peek_cqe(&blk->ring, &cqe) == 0) {
		struct request *rq = io_uring_cqe_get_data(cqe);
		int res = cqe->res;
		io_uring_cqe_seen(&blk->ring, cqe);
		blk->in_flight--;
		if (blk->layers) {
			rq->running = false;
			blk->wake |= blk->direct; /* a write through the page cache may wait for this one */
			blk_chain_done(rq, res);
			go_on(blk, rq);
		} else if (blk_has_next_op(blk, rq, &res)) {
			queue_request(blk, rq);
		} else {
			finish(blk, rq, res);
		}
	}
	wake(blk);
	blk_interrupt(blk);
}

/*
 * Submits the queued operations once. What completes meanwhile is taken here, without a signal. false:
 * the ring failed.
 */
static bool submit_once(struct blk *blk)
{
	bool ok = true;

	(void)io_uring_cq_eventfd_toggle(&blk->ring, false);
	while (ok && io_uring_sq_ready(&blk->ring) > 0) {
		int r = io_uring_submit(&blk->ring);
		reap(blk);
		ok = r >= 0 || r == -EINTR || r == -EAGAIN || r == -EBUSY;
		if (!ok && log_deserves(&blk->ring_faults))
			log_error("disk '%s': io_uring_submit: errno %d", blk->vdev.id, -r);
	}
	(void)io_uring_cq_eventfd_toggle(&blk->ring, true);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* reap() sees completions before the switch; later ones signal */
	reap(blk);
	return ok;
}

/* Submits again while there is something: the last look at completions may have queued a next step. */
void blk_submit(struct blk *blk)
{
	while (blk->has_ring && io_uring_sq_ready(&blk->ring) > 0 && submit_once(blk))
		;
}

void blk_on_done(struct source *s, uint32_t events)
{
	struct blk *blk = container_of(s, struct blk, done);
	uint64_t n;

	(void)events;
	if (read(s->fd, &n, sizeof(n)) < 0)
		return;
	pthread_mutex_lock(&blk->vdev.lock);
	reap(blk);
	blk_submit(blk);
	bool starved = blk->starved;
	blk->starved = false;
	for (unsigned q = 0; starved && q < blk->vdev.n_queues; q++)
		virtio_notify(&blk->vdev, q);
	pthread_mutex_unlock(&blk->vdev.lock);
}

void blk_drain(struct virtio_dev *vdev)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct io_uring_cqe *cqe;

	while (blk->in_flight > 0) {
		int r = io_uring_submit_and_wait(&blk->ring, 1);
		if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY) {
			if (log_deserves(&blk->ring_faults))
				log_error("disk '%s': drain: errno %d", vdev->id, -r);
			return;
		}
		if (io_uring_peek_cqe(&blk->ring, &cqe) == 0)
			reap(blk);
	}
}

int blk_open_ring(struct blk *blk, struct err *err)
{
	static const uint8_t ops[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE };
	unsigned entries = blk->n_requests < RING_MAX ? blk->n_requests : RING_MAX;
	int fds[1 + LAYERS_MAX];

	for (unsigned i = 0; i <= blk->n_layers; i++)
		fds[i] = blk_file(blk, i == 1 ? 0 : i);
	if (uring_open(&blk->ring, entries, fds, 1 + blk->n_layers, ops, ARRAY_LEN(ops), blk->done.fd, err) < 0)
		return err->num;
	blk->has_ring = true;
	return 0;
}
