// SPDX-License-Identifier: Apache-2.0
/* virtio-blk: input and output, through the ring or plainly, and the ways to make zeroes. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

#include "common/clock.h"
#include "common/log.h"
#include "vmm/virtio/blk.h"

enum { CACHED_WRITE_MAX_BYTES = 256 << 10, ZERO_PIECE_BYTES = 1 << 20, ZERO_WRITE_MAX_BYTES = 64 << 20 };

static _Alignas(GUEST_PAGE) char zero_piece[ZERO_PIECE_BYTES]; /* never written: no memory is behind it */

/* virtio 1.2, 5.2.6.2: writes are on stable storage when answered, unless the guest can flush and wants a cache. */
static bool write_through(const struct blk *blk)
{
	return !virtio_has(&blk->vdev, F_FLUSH) || (virtio_has(&blk->vdev, F_CONFIG_WCE) && !blk->space.writeback);
}

static int zero_mode(const struct request *rq)
{
	bool punch = rq->type == T_DISCARD || !(rq->flags & WRITE_ZEROES_UNMAP) == (rq->zero_way == ZERO_SECOND);

	return (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
}

static unsigned next_zeroes(const struct request *rq)
{
	uint64_t left = rq->len - rq->zeroed;

	return (unsigned)(left < ZERO_PIECE_BYTES ? left : ZERO_PIECE_BYTES);
}

/*
 * After a step of a request came back with `res`: whether it takes another one. Write zeroes may: the next way, the next
 * piece. But a pause has to wait for it, so much is not written here: the guest is told to write its zeroes itself.
 */
static bool has_next_step(struct request *rq, int res)
{
	if (rq->type != T_WRITE_ZEROES && rq->type != T_DISCARD)
		return false;
	if (res == -EAGAIN || res == -EINTR)
		return true;
	if (rq->zero_way == ZERO_WRITE) {
		rq->zeroed += res > 0 ? (uint64_t)res : 0;
		return res > 0 && rq->zeroed < rq->len;
	}
	if (rq->type == T_DISCARD || (res != -EOPNOTSUPP && res != -ENOSYS))
		return false;
	if (rq->zero_way == ZERO_SECOND && rq->len > ZERO_WRITE_MAX_BYTES)
		return false;
	rq->zero_way++;
	return true;
}

static void prepare(const struct blk *blk, struct request *rq, struct io_uring_sqe *sqe)
{
	switch (rq->type) {
	case T_IN:
		io_uring_prep_readv(sqe, 0, rq->iov, rq->n_iov, rq->offset);
		break;
	case T_OUT:
		io_uring_prep_writev(sqe, 0, rq->iov, rq->n_iov, rq->offset);
		sqe->rw_flags = write_through(blk) ? RWF_DSYNC : 0;
		break;
	case T_FLUSH:
		io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
		break;
	default:
		if (rq->zero_way == ZERO_WRITE) {
			io_uring_prep_write(sqe, 0, zero_piece, next_zeroes(rq), rq->offset + rq->zeroed);
			sqe->rw_flags = write_through(blk) ? RWF_DSYNC : 0;
		} else {
			io_uring_prep_fallocate(sqe, 0, zero_mode(rq), (off_t)rq->offset, (off_t)rq->len);
		}
	}
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, rq);
}

static int execute(const struct blk *blk, const struct request *rq)
{
	ssize_t n;

	switch (rq->type) {
	case T_IN:
		n = preadv(blk->fd, rq->iov, (int)rq->n_iov, (off_t)rq->offset);
		break;
	case T_OUT:
		n = pwritev2(blk->fd, rq->iov, (int)rq->n_iov, (off_t)rq->offset, write_through(blk) ? RWF_DSYNC : 0);
		break;
	case T_FLUSH:
		n = fdatasync(blk->fd);
		break;
	default:
		if (rq->zero_way == ZERO_WRITE) {
			struct iovec v = { .iov_base = zero_piece, .iov_len = next_zeroes(rq) };
			n = pwritev2(blk->fd, &v, 1, (off_t)(rq->offset + rq->zeroed),
				     write_through(blk) ? RWF_DSYNC : 0);
		} else {
			n = fallocate(blk->fd, zero_mode(rq), (off_t)rq->offset, (off_t)rq->len);
		}
	}
	return n < 0 ? -errno : (int)n;
}

/* The rest of a transfer that came back short: plainly, it is rare. */
static bool finish_short(const struct blk *blk, const struct request *rq, uint64_t done)
{
	while (done < rq->len) {
		uint64_t skip = done;
		unsigned i = 0;
		while (skip >= rq->iov[i].iov_len)
			skip -= rq->iov[i++].iov_len;
		char *p = (char *)rq->iov[i].iov_base + skip;
		size_t len = rq->iov[i].iov_len - skip;
		ssize_t n = rq->type == T_IN ? pread(blk->fd, p, len, (off_t)(rq->offset + done))
					     : pwrite(blk->fd, p, len, (off_t)(rq->offset + done));
		if (n <= 0)
			return false;
		done += (uint64_t)n;
	}
	return rq->type == T_IN || !write_through(blk) || fdatasync(blk->fd) == 0;
}

uint8_t blk_status(struct blk *blk, const struct request *rq, int res)
{
	bool ok = res >= 0, unsupported = res == -EOPNOTSUPP || res == -ENOSYS;

	if (rq->type == T_IN || rq->type == T_OUT) {
		if ((ok && (uint64_t)res < rq->len) || res == -EAGAIN || res == -EINTR)
			ok = finish_short(blk, rq, ok ? (uint64_t)res : 0);
	} else if (rq->type == T_DISCARD && unsupported) {
		ok = true; /* it was advice */
	} else if (rq->type == T_WRITE_ZEROES && unsupported) {
		return S_UNSUPP;
	} else if (rq->zero_way == ZERO_WRITE) {
		ok = ok && rq->zeroed == rq->len;
	}
	uint64_t *failed = &blk->vdev.counters.disk_failed_ops;
	if (!ok && log_deserves(failed))
		log_warn("disk '%s': request type %u at %llu failed: errno %d; %llu failed by now", blk->vdev.id,
			 rq->type, (unsigned long long)rq->offset, res < 0 ? -res : EIO, (unsigned long long)*failed);
	return ok ? S_OK : S_IOERR;
}

/*
 * A write into the page cache is a copy: io_uring would hand it to a thread of the kernel's, which takes longer than the copy.
 * When the host throttles, it waits: that is a vCPU or the device's worker (the main thread only for what was left at a pause).
 */
static bool is_cached_write(const struct blk *blk, const struct request *rq)
{
	return rq->type == T_OUT && !blk->direct && !write_through(blk) && rq->len <= CACHED_WRITE_MAX_BYTES;
}

static void queue_request(struct blk *blk, struct request *rq)
{
	prepare(blk, rq, io_uring_get_sqe(&blk->ring)); /* an entry for each request: never NULL */
	blk->in_flight++;
}

void blk_run(struct blk *blk, struct request *rq)
{
	int res;

	rq->zero_way = ZERO_FIRST;
	rq->zeroed = 0;
	rq->began_ns = monotonic_ns();
	if (blk->has_ring && !is_cached_write(blk, rq)) {
		queue_request(blk, rq);
		return;
	}
	do
		res = execute(blk, rq);
	while (has_next_step(rq, res));
	blk_complete(blk, rq, res);
}

/* Answers what is done, and queues the next step of what is not; interrupts each queue at most once. */
static void reap(struct blk *blk)
{
	struct io_uring_cqe *cqe;
	uint64_t queues = 0;

	while (blk->has_ring && blk->in_flight > 0 && io_uring_peek_cqe(&blk->ring, &cqe) == 0) {
		struct request *rq = io_uring_cqe_get_data(cqe);
		int res = cqe->res;
		io_uring_cqe_seen(&blk->ring, cqe);
		blk->in_flight--;
		if (has_next_step(rq, res)) {
			queue_request(blk, rq);
			continue;
		}
		queues |= 1ULL << rq->queue % 64;
		blk_complete(blk, rq, res);
	}
	for (unsigned q = 0; queues && q < blk->vdev.n_queues; q++)
		if (queues >> q % 64 & 1)
			virtio_interrupt(&blk->vdev, q);
}

/* What completes while we are here is taken here: no signal for that. false: the ring failed. */
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
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* a completion before the switch is seen here, one after it signals */
	reap(blk);
	return ok;
}

/* The last look at the completions may have queued a next step. */
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
	static const uint8_t ops[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_WRITE, IORING_OP_FSYNC,
				       IORING_OP_FALLOCATE };
	unsigned entries = blk->n_requests < RING_MAX ? blk->n_requests : RING_MAX;

	if (uring_open(&blk->ring, entries, &blk->fd, 1, ops, ARRAY_LEN(ops), blk->done.fd, err) < 0)
		return err->num;
	blk->has_ring = true;
	return 0;
}
