// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-blk over a raw image. Requests go to an io_uring on the thread that serves the queue (see worker.h); what completes at
 * once, as from the page cache, is answered there and then, the rest through an eventfd.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/uring.h"
#include "vmm/core/host_open.h"
#include "vmm/core/loop.h"
#include "vmm/virtio/kinds.h"

enum {
	SECTOR_SHIFT = 9,
	SECTOR_BYTES = 512,
	ID_BYTES = 20,
	INLINE_SEGMENTS = 4,
	RING_MAX = 1024,
	BOUNCE_MAX_BYTES = 64 << 20,
	REQUEST_MAX_BYTES = 1 << 30,
	CACHED_WRITE_MAX_BYTES = 256 << 10,
	ZERO_PIECE_BYTES = 1 << 20,
	ZERO_WRITE_MAX_BYTES = 64 << 20
};
enum {
	F_SEG_MAX = 2,
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_FLUSH = 9,
	F_TOPOLOGY = 10,
	F_CONFIG_WCE = 11,
	F_MQ = 12,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14
};
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { WRITE_ZEROES_UNMAP = 1 };
#define QCOW2_MAGIC "QFI\xfb"

struct geometry {
	uint16_t cylinders;
	uint8_t heads, sectors;
};

/* virtio 1.2, 5.2.4; names as in state.json. */
struct blk_space {
	uint64_t capacity; /* sectors */
	uint32_t size_max, seg_max;
	struct geometry geometry;
	uint32_t blk_size;
	uint8_t physical_block_exp, alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback, unused;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
};
enum { SPACE_BYTES = 60 };

struct blk_state {
	char *disk_path;
	uint64_t disk_nsectors, avail_features, acked_features;
	struct blk_space config;
};

struct request_head {
	uint32_t type, reserved;
	uint64_t sector;
};

struct range_segment {
	uint64_t sector;
	uint32_t num_sectors, flags;
};

struct request {
	struct request *next_free;
	uint8_t *status;      /* in guest RAM */
	uint64_t offset, len; /* in the image; len: bytes of data */
	struct iovec *iov;    /* data segments: own, or `few` */
	unsigned n_iov;
	struct iovec few[INLINE_SEGMENTS];
	void *bounce;            /* see make_bounce() */
	struct iovec *guest_iov; /* with a bounce buffer: the guest's own */
	unsigned n_guest_iov;
	uint32_t type, flags;
	unsigned zero_way; /* enum zero_way: of write zeroes */
	uint64_t zeroed;   /* bytes; ZERO_WRITE only */
	uint16_t head, queue;
	uint64_t began_ns;
};

/* Write zeroes: tried one after the other, until the file system has one. The guest's wish decides what FIRST is. */
enum zero_way { ZERO_FIRST, ZERO_SECOND, ZERO_WRITE };

static _Alignas(GUEST_PAGE) char zero_piece[ZERO_PIECE_BYTES]; /* never written: no memory is behind it */

struct blk {
	struct virtio_dev vdev;
	struct blk_space space;
	const struct device_env *env;
	char *path;
	char serial[ID_BYTES];
	int fd;
	int lock_fd; /* the lock's own open file: a ring lets go of its files only some time after we ended */
	bool readonly, direct, no_uring, has_ring;
	uint8_t lock_granularity;
	struct io_uring ring;
	struct source done; /* eventfd of completions that were not immediate */
	struct loop *loop;  /* which waits for them */
	struct request *requests, *free_list;
	unsigned in_flight, n_requests;
};

static const struct field geometry_fields[] = {
	F(struct geometry, cylinders),
	F(struct geometry, heads),
	F(struct geometry, sectors),
	F_END,
};

static const struct field space_fields[] = {
	F(struct blk_space, capacity, .flags = F_REQUIRED, .max = INT64_MAX >> SECTOR_SHIFT),
	F(struct blk_space, size_max, .flags = F_REQUIRED),
	F(struct blk_space, seg_max, .flags = F_REQUIRED),
	F_OBJ(struct blk_space, geometry, geometry_fields, .flags = F_REQUIRED),
	F(struct blk_space, blk_size, .flags = F_REQUIRED),
	F(struct blk_space, physical_block_exp, .flags = F_REQUIRED),
	F(struct blk_space, alignment_offset, .flags = F_REQUIRED),
	F(struct blk_space, min_io_size, .flags = F_REQUIRED),
	F(struct blk_space, opt_io_size, .flags = F_REQUIRED),
	F(struct blk_space, writeback, .flags = F_REQUIRED),
	F(struct blk_space, unused, .flags = F_REQUIRED),
	F(struct blk_space, num_queues, .flags = F_REQUIRED),
	F(struct blk_space, max_discard_sectors, .flags = F_REQUIRED),
	F(struct blk_space, max_discard_seg, .flags = F_REQUIRED),
	F(struct blk_space, discard_sector_alignment, .flags = F_REQUIRED),
	F(struct blk_space, max_write_zeroes_sectors, .flags = F_REQUIRED),
	F(struct blk_space, max_write_zeroes_seg, .flags = F_REQUIRED),
	F(struct blk_space, write_zeroes_may_unmap, .flags = F_REQUIRED),
	F_ARRAY(struct blk_space, unused1, .flags = F_REQUIRED),
	F_END,
};

static const struct field blk_state_fields[] = {
	F(struct blk_state, disk_path, .flags = F_REQUIRED),
	F(struct blk_state, disk_nsectors, .flags = F_REQUIRED),
	F(struct blk_state, avail_features, .flags = F_REQUIRED),
	F(struct blk_state, acked_features, .flags = F_REQUIRED),
	F_OBJ(struct blk_state, config, space_fields, .flags = F_REQUIRED),
	F_END,
};

/* ---- requests ---- */

static void release(struct blk *blk, struct request *rq)
{
	if (rq->iov != rq->few && rq->iov != rq->guest_iov)
		free(rq->iov);
	if (rq->guest_iov != rq->few)
		free(rq->guest_iov);
	free(rq->bounce);
	rq->iov = rq->guest_iov = NULL;
	rq->bounce = NULL;
	rq->next_free = blk->free_list;
	blk->free_list = rq;
}

/* Answers a request and releases it; `written`: bytes put into the guest's buffers, status apart. */
static void answer(struct blk *blk, struct request *rq, uint8_t status, uint64_t written)
{
	*rq->status = status;
	virtio_push(&blk->vdev, rq->queue, rq->head, (uint32_t)written + 1);
	release(blk, rq);
}

/* The guest's data segments: `c` less the head in front and the status byte at the end. */
static bool take_segments(struct request *rq, const struct chain *c, bool fill)
{
	const struct iovec *from = fill ? c->iov + c->n_read : c->iov;
	unsigned n = fill ? c->n_write : c->n_read;
	size_t skip = fill ? 0 : sizeof(struct request_head);

	rq->guest_iov = n <= INLINE_SEGMENTS ? rq->few : malloc(n * sizeof(*rq->guest_iov));
	rq->n_guest_iov = 0;
	rq->len = 0;
	for (unsigned i = 0; rq->guest_iov && i < n; i++) {
		struct iovec v = from[i];
		size_t cut = skip < v.iov_len ? skip : v.iov_len;
		v.iov_base = (char *)v.iov_base + cut;
		v.iov_len -= cut;
		skip -= cut;
		if (fill && i == n - 1)
			v.iov_len--; /* the status */
		if (v.iov_len == 0)
			continue;
		rq->guest_iov[rq->n_guest_iov++] = v;
		rq->len += v.iov_len;
	}
	rq->iov = rq->guest_iov;
	rq->n_iov = rq->n_guest_iov;
	return rq->guest_iov;
}

/* O_DIRECT wants aligned memory, and no system call takes more than IOV_MAX segments; guests mostly keep to both. */
static bool make_bounce(const struct blk *blk, struct request *rq)
{
	uintptr_t bits = 0;

	for (unsigned i = 0; i < rq->n_guest_iov; i++)
		bits |= (uintptr_t)rq->guest_iov[i].iov_base | rq->guest_iov[i].iov_len;
	if ((!blk->direct || bits % SECTOR_BYTES == 0) && rq->n_guest_iov <= IOV_MAX)
		return true;
	if (rq->len > BOUNCE_MAX_BYTES || posix_memalign(&rq->bounce, GUEST_PAGE, rq->len) != 0)
		return false;
	rq->iov = malloc(sizeof(*rq->iov));
	if (!rq->iov)
		return false;
	*rq->iov = (struct iovec){ .iov_base = rq->bounce, .iov_len = rq->len };
	rq->n_iov = 1;
	if (rq->type == T_OUT)
		iov_to_buf(rq->guest_iov, rq->n_guest_iov, 0, rq->bounce, rq->len);
	return true;
}

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

static uint8_t status_of(const struct blk *blk, const struct request *rq, int res)
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
	if (!ok)
		log_warn("disk '%s': request type %u at %llu failed: errno %d", blk->vdev.id, rq->type,
			 (unsigned long long)rq->offset, res < 0 ? -res : EIO);
	return ok ? S_OK : S_IOERR;
}

static void count(struct virtio_op_counters *c, const struct request *rq)
{
	uint64_t us = (monotonic_ns() - rq->began_ns) / 1000;

	c->latency_min = us < c->latency_min ? us : c->latency_min;
	c->latency_max = c->ops == 0 || us > c->latency_max ? us : c->latency_max;
	c->ops++;
	c->latency_sum += us;
	c->latency_avg = c->latency_sum / c->ops;
}

static void complete(struct blk *blk, struct request *rq, int res)
{
	uint8_t status = status_of(blk, rq, res);
	bool filled = status == S_OK && rq->type == T_IN;

	if (filled && rq->bounce)
		iov_from_buf(rq->guest_iov, rq->n_guest_iov, 0, rq->bounce, rq->len);
	blk->vdev.counters.disk_ops++;
	if (filled) {
		blk->vdev.counters.disk_read_bytes += rq->len;
		count(&blk->vdev.counters.disk_read, rq);
	} else if (status == S_OK && rq->type == T_OUT) {
		blk->vdev.counters.disk_written_bytes += rq->len;
		count(&blk->vdev.counters.disk_write, rq);
	}
	answer(blk, rq, status, filled ? rq->len : 0);
}

static void get_id(struct blk *blk, struct request *rq)
{
	size_t n = rq->len < ID_BYTES ? rq->len : ID_BYTES;

	iov_from_buf(rq->guest_iov, rq->n_guest_iov, 0, blk->serial, n);
	answer(blk, rq, S_OK, n);
}

static bool in_range(const struct blk *blk, uint64_t sector, uint64_t bytes)
{
	uint64_t sectors = bytes >> SECTOR_SHIFT;

	return bytes % SECTOR_BYTES == 0 && sector <= blk->space.capacity && sectors <= blk->space.capacity - sector;
}

/* Checks a discard or write-zeroes request and replaces its data by the range it names. */
static int take_range(const struct blk *blk, struct request *rq)
{
	struct range_segment r;
	unsigned feature = rq->type == T_DISCARD ? F_DISCARD : F_WRITE_ZEROES;

	if (!virtio_has(&blk->vdev, feature))
		return S_UNSUPP;
	if (rq->len != sizeof(r))
		return S_IOERR;
	iov_to_buf(rq->guest_iov, rq->n_guest_iov, 0, &r, sizeof(r));
	if (r.flags & ~(rq->type == T_WRITE_ZEROES ? WRITE_ZEROES_UNMAP : 0U))
		return S_UNSUPP;
	rq->offset = r.sector << SECTOR_SHIFT;
	rq->len = (uint64_t)r.num_sectors << SECTOR_SHIFT;
	rq->flags = r.flags;
	return in_range(blk, r.sector, rq->len) && rq->len > 0 ? S_OK : S_IOERR;
}

/* S_OK: to be done; anything else is the answer. */
static int check(const struct blk *blk, struct request *rq, uint64_t sector)
{
	bool writes = rq->type == T_OUT || rq->type == T_DISCARD || rq->type == T_WRITE_ZEROES;

	if (writes && blk->readonly)
		return S_IOERR;
	switch (rq->type) {
	case T_IN:
	case T_OUT:
		if (rq->len > REQUEST_MAX_BYTES)
			return S_IOERR;
		rq->offset = sector << SECTOR_SHIFT;
		return in_range(blk, sector, rq->len) ? S_OK : S_IOERR;
	case T_FLUSH:
	case T_GET_ID:
		return S_OK;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		return take_range(blk, rq);
	default:
		return S_UNSUPP;
	}
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

static void run(struct blk *blk, struct request *rq)
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
	complete(blk, rq, res);
}

/* Takes one chain; false: not a request at all, the device needs a reset. */
static bool start(struct blk *blk, unsigned queue, const struct chain *c)
{
	struct request_head head;
	struct request *rq = blk->free_list;

	if (c->n_write == 0 || c->iov[c->n_read + c->n_write - 1].iov_len == 0 ||
	    iov_to_buf(c->iov, c->n_read, 0, &head, sizeof(head)) < sizeof(head))
		return false;
	blk->free_list = rq->next_free;
	const struct iovec *last = &c->iov[c->n_read + c->n_write - 1];
	rq->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	rq->type = head.type;
	rq->head = c->head;
	rq->queue = (uint16_t)queue;
	bool fill = head.type == T_IN || head.type == T_GET_ID;
	int status = take_segments(rq, c, fill) ? check(blk, rq, head.sector) : S_IOERR;
	if (status == S_OK && (rq->type == T_IN || rq->type == T_OUT) && !make_bounce(blk, rq))
		status = S_IOERR;
	if (status != S_OK || ((rq->type == T_IN || rq->type == T_OUT) && rq->len == 0)) {
		answer(blk, rq, (uint8_t)status, 0);
	} else if (rq->type == T_GET_ID) {
		get_id(blk, rq);
	} else {
		run(blk, rq);
	}
	return true;
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
		complete(blk, rq, res);
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
		if (!ok)
			log_error("disk '%s': io_uring_submit: errno %d", blk->vdev.id, -r);
	}
	(void)io_uring_cq_eventfd_toggle(&blk->ring, true);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* a completion before the switch is seen here, one after it signals */
	reap(blk);
	return ok;
}

/* The last look at the completions may have queued a next step. */
static void submit(struct blk *blk)
{
	while (blk->has_ring && io_uring_sq_ready(&blk->ring) > 0 && submit_once(blk))
		;
}

static void blk_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct chain c;

	do {
		while (blk->free_list && virtio_pop(vdev, queue, &c)) {
			if (start(blk, queue, &c))
				continue;
			virtio_break(vdev, queue, "a request without head or status");
			break;
		}
		submit(blk);
	} while (blk->free_list && virtio_more(vdev, queue));
	virtio_interrupt(vdev, queue);
}

static void on_done(struct source *s, uint32_t events)
{
	struct blk *blk = container_of(s, struct blk, done);
	uint64_t n;

	(void)events;
	if (read(s->fd, &n, sizeof(n)) < 0)
		return;
	pthread_mutex_lock(&blk->vdev.lock);
	bool starved = !blk->free_list;
	reap(blk);
	submit(blk);
	for (unsigned q = 0; starved && q < blk->vdev.n_queues; q++)
		virtio_notify(&blk->vdev, q);
	pthread_mutex_unlock(&blk->vdev.lock);
}

static void drain(struct virtio_dev *vdev)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct io_uring_cqe *cqe;

	while (blk->in_flight > 0) {
		int r = io_uring_submit_and_wait(&blk->ring, 1);
		if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY) {
			log_error("disk '%s': drain: errno %d", vdev->id, -r);
			return;
		}
		if (io_uring_peek_cqe(&blk->ring, &cqe) == 0)
			reap(blk);
	}
}

/* ---- life ---- */

static int open_ring(struct blk *blk, struct err *err)
{
	static const uint8_t ops[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_WRITE, IORING_OP_FSYNC,
				       IORING_OP_FALLOCATE };
	unsigned entries = blk->n_requests < RING_MAX ? blk->n_requests : RING_MAX;

	if (uring_open(&blk->ring, entries, &blk->fd, 1, ops, ARRAY_LEN(ops), blk->done.fd, err) < 0)
		return err->num;
	blk->has_ring = true;
	return 0;
}

/* The requests of a device that no guest has touched cost nothing: all this is made when its driver is ready. */
static void blk_activate(struct virtio_dev *vdev)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct err err = {};
	char line[256];

	if (blk->loop)
		return;
	unsigned n = 0;
	for (unsigned i = 0; i < vdev->n_queues; i++)
		n += vdev->queue[i].s.max_size;
	blk->n_requests = n < RING_MAX ? n : RING_MAX;
	blk->requests = calloc(blk->n_requests, sizeof(*blk->requests));
	if (!blk->requests || loop_add(blk->env->loop, &blk->done, EPOLLIN, &err) < 0) {
		free(steal_ptr(&blk->requests));
		virtio_break(vdev, 0, "no memory for its requests");
		return;
	}
	blk->loop = blk->env->loop;
	for (unsigned i = 0; i < blk->n_requests; i++)
		release(blk, &blk->requests[i]);
	if (!blk->no_uring && open_ring(blk, &err) < 0)
		log_warn("disk '%s': plain reads and writes instead of io_uring: %s", vdev->id,
			 err_line(&err, line, sizeof(line)));
}

static void blk_use_loop(struct virtio_dev *vdev, struct loop *loop)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct err err = {};

	if (blk->loop && loop_move(blk->loop, loop, &blk->done, EPOLLIN, &err) == 0)
		blk->loop = loop;
}

static void blk_write_config(struct virtio_dev *vdev, unsigned off, const void *data, unsigned len)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);

	if (off == offsetof(struct blk_space, writeback) && len == 1 && virtio_has(vdev, F_CONFIG_WCE))
		blk->space.writeback = *(const uint8_t *)data & 1;
}

static void blk_save(struct virtio_dev *vdev, struct strbuf *out)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct blk_state s = {
		.disk_path = blk->path,
		.disk_nsectors = blk->space.capacity,
		.avail_features = vdev->avail_features,
		.acked_features = vdev->acked_features,
		.config = blk->space,
	};

	fields_save(blk_state_fields, &s, out);
}

static int blk_load(struct virtio_dev *vdev, const struct json_node *state, struct err *err)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct blk_state s = {};

	if (fields_load(blk_state_fields, &s, state, vdev->id, err) < 0)
		return err_wrap(err, "state.json");
	free(s.disk_path);
	if (s.config.capacity > blk->space.capacity)
		return err_set(err, ERR_INVALID, "disk image '%s' has %llu sectors, the guest was told %llu", blk->path,
			       (unsigned long long)blk->space.capacity, (unsigned long long)s.config.capacity);
	if (blk->readonly && !(s.avail_features >> F_RO & 1))
		return err_set(err, ERR_INVALID, "disk '%s' is read-only now, the guest was told that it is not",
			       vdev->id);
	blk->space = s.config;
	return virtio_load_features(vdev, s.avail_features, s.acked_features, err);
}

static void blk_free(struct virtio_dev *vdev)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);

	if (blk->loop) /* also when a worker had it: the main loop may have seen it before */
		loop_del(blk->env->loop, &blk->done);
	if (blk->has_ring) {
		drain(vdev);
		uring_close(&blk->ring);
	}
	virtio_done(vdev);
	if (blk->done.fd >= 0)
		close(blk->done.fd);
	if (blk->fd >= 0)
		close(blk->fd);
	if (blk->lock_fd >= 0)
		close(blk->lock_fd);
	free(blk->requests);
	free(blk->path);
	free(blk);
}

static const struct field blk_counters[] = {
	VIRTIO_COUNTER("read_bytes", disk_read_bytes),
	VIRTIO_COUNTER("read_ops", disk_read.ops),
	VIRTIO_COUNTER("read_latency_min", disk_read.latency_min),
	VIRTIO_COUNTER("read_latency_max", disk_read.latency_max),
	VIRTIO_COUNTER("read_latency_avg", disk_read.latency_avg),
	VIRTIO_COUNTER("write_bytes", disk_written_bytes),
	VIRTIO_COUNTER("write_ops", disk_write.ops),
	VIRTIO_COUNTER("write_latency_min", disk_write.latency_min),
	VIRTIO_COUNTER("write_latency_max", disk_write.latency_max),
	VIRTIO_COUNTER("write_latency_avg", disk_write.latency_avg),
	F_END,
};

static const struct virtio_device_ops blk_ops = {
	.name = "block",
	.type = VIRTIO_ID_BLOCK,
	.pci_class = 0x018000,
	.bar32 = true,
	.hotplug = true,
	.config_bytes = SPACE_BYTES,
	.activate = blk_activate,
	.reset = drain,
	.notify = blk_notify,
	.use_loop = blk_use_loop,
	.write_config = blk_write_config,
	.pause = drain,
	.counters = blk_counters,
	.save = blk_save,
	.load = blk_load,
	.free = blk_free,
};

static int lock_image(const struct blk *blk, uint64_t bytes, struct err *err)
{
	struct flock lock = {
		.l_type = blk->readonly ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
		.l_len = blk->lock_granularity == LOCK_FULL ? 0 : (off_t)bytes,
	};

	if (fcntl(blk->lock_fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno != EAGAIN && errno != EACCES)
		return err_sys(err, ERR_INTERNAL, "lock disk image '%s'", blk->path);
	err_set(err, ERR_INTERNAL, "The file is already locked");
	err_wrap(err, "Failed to get %s lock for disk image: %s", blk->readonly ? "Read" : "Write", blk->path);
	err_wrap(err, "Cannot lock images of all block devices");
	bool hot = blk->env->hot;
	return err_wrap(err, hot ? "Error from device manager"
				 : "Error locking disk images: Another instance likely holds a lock");
}

static int image_bytes(const struct blk *blk, const struct stat *st, uint64_t *ret_bytes, struct err *err)
{
	uint64_t bytes = (uint64_t)st->st_size;

	if (S_ISBLK(st->st_mode) && ioctl(blk->fd, BLKGETSIZE64, &bytes) < 0)
		return err_sys(err, ERR_INTERNAL, "size of block device '%s'", blk->path);
	if (!S_ISBLK(st->st_mode) && !S_ISREG(st->st_mode))
		return err_set(err, ERR_INVALID, "disk image '%s' is neither a file nor a block device", blk->path);
	if (bytes == 0 || bytes % SECTOR_BYTES)
		return err_set(err, ERR_INVALID, "disk image '%s' has %llu bytes: not a positive multiple of %d",
			       blk->path, (unsigned long long)bytes, SECTOR_BYTES);
	*ret_bytes = bytes;
	return 0;
}

/* We never guess formats; but an image of another one, used raw by mistake, would be destroyed. */
static int check_format(const struct blk *blk, struct disk_config *cfg, struct err *err)
{
	char magic[4];

	if (cfg->image_type == IMAGE_UNKNOWN && pread(blk->fd, magic, sizeof(magic), 0) == sizeof(magic) &&
	    memcmp(magic, QCOW2_MAGIC, sizeof(magic)) == 0)
		return err_set(
			err, ERR_INVALID,
			"disk image '%s' looks like qcow2, which is not supported (image_type=raw to use it as it is)",
			blk->path);
	cfg->image_type = IMAGE_RAW;
	return 0;
}

static void set_serial(struct blk *blk, const struct disk_config *cfg, const struct stat *st)
{
	char text[80];

	if (cfg->serial)
		snprintf(text, sizeof(text), "%s", cfg->serial);
	else
		snprintf(text, sizeof(text), "%llu%llu%llu", (unsigned long long)st->st_dev,
			 (unsigned long long)st->st_rdev, (unsigned long long)st->st_ino);
	memcpy(blk->serial, text, strnlen(text, sizeof(blk->serial)));
}

/* What Cloud Hypervisor shows of a disk that did nothing; it counts averages in ten thousandths. */
static const struct virtio_op_counters no_ops = {
	.latency_min = UINT64_MAX,
	.latency_max = UINT64_MAX,
	.latency_avg = UINT64_MAX / 10000,
};

static void set_space(struct blk *blk, const struct disk_config *cfg, uint64_t bytes)
{
	bool writes = !cfg->readonly, discards = writes && cfg->sparse;

	blk->space = (struct blk_space){
		.capacity = bytes >> SECTOR_SHIFT,
		.seg_max = cfg->queue_size - 2U,
		.blk_size = SECTOR_BYTES,
		.min_io_size = 1,
		.writeback = 1,
		.num_queues = cfg->num_queues > 1 ? (uint16_t)cfg->num_queues : 0,
		.max_discard_sectors = discards ? UINT32_MAX : 0,
		.max_discard_seg = discards,
		.discard_sector_alignment = discards,
		.max_write_zeroes_sectors = writes ? UINT32_MAX : 0,
		.max_write_zeroes_seg = writes,
		.write_zeroes_may_unmap = discards,
	};
	blk->vdev.counters.disk_read = blk->vdev.counters.disk_write = no_ops;
	blk->vdev.config = &blk->space;
	blk->vdev.avail_features = 1ULL << F_SEG_MAX | 1ULL << F_BLK_SIZE | 1ULL << F_FLUSH | 1ULL << F_TOPOLOGY |
				   1ULL << F_CONFIG_WCE | 1ULL << VIRTIO_F_INDIRECT_DESC | 1ULL << VIRTIO_F_EVENT_IDX |
				   (discards ? 1ULL << F_DISCARD : 0) | (writes ? 1ULL << F_WRITE_ZEROES : 0) |
				   (cfg->readonly ? 1ULL << F_RO : 0) | (cfg->num_queues > 1 ? 1ULL << F_MQ : 0);
}

/* `given`: this descriptor instead of the path. */
static int open_once(const struct disk_config *cfg, int given)
{
	if (given > 0)
		return fcntl(given, F_DUPFD_CLOEXEC, 3);
	return host_open(cfg->path, (cfg->readonly ? O_RDONLY : O_RDWR) | O_NONBLOCK, 0);
}

static int no_image(const struct disk_config *cfg, struct err *err)
{
	err_sys(err, ERR_INTERNAL, "I/O error (path=%s op=open)", cfg->path);
	err_wrap(err, "Cannot open disk path");
	return err_wrap(err, "Error from device manager");
}

static int open_image(struct blk *blk, struct disk_config *cfg, struct err *err)
{
	struct stat st;
	uint64_t bytes = 0;

	blk->path = strdup(cfg->path);
	blk->readonly = cfg->readonly;
	blk->direct = cfg->direct;
	blk->lock_granularity = cfg->lock_granularity;
	blk->no_uring = cfg->disable_io_uring;
	if (!blk->path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open disk '%s'", cfg->path);
	blk->fd = open_once(cfg, cfg->fd);
	blk->lock_fd = open_once(cfg, cfg->lock_fd);
	if (blk->fd < 0 || blk->lock_fd < 0)
		return no_image(cfg, err);
	if (fstat(blk->fd, &st) < 0)
		return err_sys(err, ERR_INTERNAL, "stat disk image '%s'", cfg->path);
	if (image_bytes(blk, &st, &bytes, err) < 0 || check_format(blk, cfg, err) < 0 ||
	    lock_image(blk, bytes, err) < 0)
		return err->num;
	if (fcntl(blk->fd, F_SETFL, cfg->direct ? O_DIRECT : 0) < 0)
		return err_sys(err, ERR_INTERNAL, "disk image '%s' with direct=on", cfg->path);
	set_serial(blk, cfg, &st);
	set_space(blk, cfg, bytes);
	blk->done = (struct source){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_done };
	return blk->done.fd < 0 ? err_sys(err, ERR_INTERNAL, "make an eventfd") : 0;
}

int virtio_blk_new(const struct device_env *env, struct disk_config *cfg, struct virtio_dev **ret, struct err *err)
{
	struct blk *blk = calloc(1, sizeof(*blk));

	if (!blk)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make disk '%s'", cfg->path);
	blk->env = env;
	blk->fd = blk->lock_fd = blk->done.fd = -1;
	int r = open_image(blk, cfg, err);
	if (r == 0)
		r = virtio_init(&blk->vdev, &blk_ops, env->mem, cfg->id, cfg->num_queues, cfg->queue_size, err);
	if (r < 0) {
		blk_free(&blk->vdev);
		return r;
	}
	*ret = &blk->vdev;
	return 0;
}

static int resize(struct blk *blk, uint64_t bytes, struct err *err)
{
	if (bytes % SECTOR_BYTES)
		return err_set(err, ERR_INTERNAL, "Disk image size is not a multiple of %d", SECTOR_BYTES);
	if (bytes > INT64_MAX) {
		err_set(err, ERR_INTERNAL, "out of range integral type conversion attempted");
		err_wrap(err, "Resize failed");
	} else if (lock_image(blk, bytes, err) < 0) {
		return err->num;
	} else if (ftruncate(blk->fd, (off_t)bytes) < 0) {
		err_sys(err, ERR_INTERNAL, "Resize failed");
	} else {
		return 0;
	}
	err_wrap(err, "I/O error");
	return err_wrap(err, "Disk resize failed");
}

int virtio_blk_resize(struct virtio_dev *vdev, uint64_t bytes, struct err *err)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);

	pthread_mutex_lock(&vdev->lock);
	int r = resize(blk, bytes, err);
	if (r == 0) {
		blk->space.capacity = bytes >> SECTOR_SHIFT;
		if (vdev->active)
			virtio_pci_interrupt(vdev->transport, VIRTIO_CONFIG_CHANGE);
	}
	pthread_mutex_unlock(&vdev->lock);
	return r;
}
