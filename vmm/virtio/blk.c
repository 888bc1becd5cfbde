// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-blk over a raw image. The thread that serves the queue (see worker.h) hands requests to an
 * io_uring. That thread answers what completes at once, as from the page cache; an eventfd tells of
 * the rest.
 */
#include "vmm/virtio/blk.h"

#include <limits.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"

enum { BOUNCE_MAX_BYTES = 64 << 20, REQUEST_MAX_BYTES = 1 << 30 };
enum {
	HELD_MAX_BYTES = BOUNCE_MAX_BYTES + (1 << 20)
}; /* one request always fits: the longest list of segments has 512 KiB */

struct request_head {
	uint32_t type, reserved;
	uint64_t sector;
};

struct range_segment {
	uint64_t sector;
	uint32_t num_sectors, flags;
};

/*
 * LATER: other requests have the memory that the request needs. BROKEN: the chain is no request, and
 * the device needs a reset.
 */
enum start { START_DONE, START_LATER, START_BROKEN };
enum { NO_MEMORY = -1 };

/* ---- requests ---- */

static void release(struct blk *blk, struct request *rq)
{
	if (rq->guest_iov != rq->few)
		free(rq->guest_iov);
	free(rq->bounce);
	rq->iov = rq->guest_iov = NULL;
	rq->bounce = NULL;
	blk->held -= rq->held;
	rq->held = 0;
	rq->next = blk->free_list;
	blk->free_list = rq;
}

/* Answers a request and releases it; `written`: bytes put into the guest's buffers, status apart. */
static void answer(struct blk *blk, struct request *rq, uint8_t status, uint64_t written)
{
	*rq->status = status;
	blk->answered |= 1ULL << rq->queue % 64;
	virtio_push(&blk->vdev, rq->queue, rq->head, (uint32_t)written + 1);
	release(blk, rq);
	if (blk->starved)
		(void)!write(blk->done.fd, &(uint64_t){ 1 }, sizeof(uint64_t));
}

/*
 * Takes a part of the memory that all requests of the device may have together; false: the rest is too
 * small.
 */
static bool hold(struct blk *blk, struct request *rq, size_t bytes)
{
	if (bytes > HELD_MAX_BYTES - blk->held)
		return false;
	rq->held += (uint32_t)bytes;
	blk->held += bytes;
	return true;
}

/*
 * Takes the guest's data segments: `c` without the head in front and the status byte at the end.
 * false: no memory.
 */
static bool take_segments(struct blk *blk, struct request *rq, const struct chain *c, bool fill)
{
	const struct iovec *from = fill ? c->iov + c->n_read : c->iov;
	unsigned n = fill ? c->n_write : c->n_read;
	size_t skip = fill ? 0 : sizeof(struct request_head), bytes = n * sizeof(*rq->guest_iov);
	rq->guest_iov = n <= INLINE_SEGMENTS ? rq->few : hold(blk, rq, bytes) ? malloc(bytes) : NULL;
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

/*
 * O_DIRECT wants addresses, lengths and offset aligned, and no system call takes more than IOV_MAX
 * segments. Most requests need no bounce buffer.
 */
static bool needs_bounce(const struct blk *blk, const struct request *rq)
{
	uintptr_t addresses = 0, lengths = rq->offset;

	for (unsigned i = 0; i < rq->n_guest_iov; i++) {
		addresses |= (uintptr_t)rq->guest_iov[i].iov_base;
		lengths |= rq->guest_iov[i].iov_len;
	}
	return (addresses & (blk->align.mem - 1)) || blk_inside(blk, lengths) || rq->n_guest_iov > IOV_MAX;
}

/* Makes the bounce buffer: for all blocks of a read or a write, for one block at an edge of zeroes. */
static int make_bounce(struct blk *blk, struct request *rq)
{
	uint64_t bytes = blk->align.io;

	if (rq->type != T_WRITE_ZEROES)
		bytes = blk_up(blk, rq->offset + rq->len) - blk_down(blk, rq->offset);
	if (bytes > BOUNCE_MAX_BYTES)
		return S_IOERR;
	if (!hold(blk, rq, bytes) || posix_memalign(&rq->bounce, GUEST_PAGE, bytes) != 0)
		return NO_MEMORY;
	rq->iov = &rq->one;
	rq->n_iov = 1;
	return S_OK;
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

void blk_complete(struct blk *blk, struct request *rq, int res)
{
	uint8_t status = blk_status(blk, rq, res);
	bool filled = status == S_OK && rq->type == T_IN;

	if (filled && rq->bounce)
		iov_from_buf(rq->guest_iov, rq->n_guest_iov, 0, (char *)rq->bounce + blk_inside(blk, rq->offset),
			     rq->len);
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

/* Leaves the whole blocks of a discard. A discard is advice: the parts of blocks stay. */
static void keep_whole_blocks(const struct blk *blk, struct request *rq)
{
	uint64_t mask = blk->align.zero - 1, end = (rq->offset + rq->len) & ~mask;

	rq->offset = (rq->offset + mask) & ~mask;
	rq->len = end > rq->offset ? end - rq->offset : 0;
}

/*
 * Checks a request to discard or to write zeroes, and replaces the request's data by the range that
 * the data name.
 */
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
	if (!in_range(blk, r.sector, rq->len) || rq->len == 0)
		return S_IOERR;
	if (rq->type == T_DISCARD)
		keep_whole_blocks(blk, rq);
	return S_OK;
}

/* Checks a request. S_OK: the request is to be done; anything else is the answer to the guest. */
static int check(const struct blk *blk, struct request *rq, uint64_t sector)
{
	if (blk_is_write(rq) && blk->readonly)
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
 * Checks a request and takes the memory for it. S_OK: the request is to be done. Anything else is the
 * answer, or NO_MEMORY.
 */
static int prepare(struct blk *blk, struct request *rq, const struct chain *c, uint64_t sector)
{
	if (!take_segments(blk, rq, c, rq->type == T_IN || rq->type == T_GET_ID))
		return NO_MEMORY;
	int status = check(blk, rq, sector);
	if (status != S_OK)
		return status;
	if (blk->layers)
		return S_OK;
	bool transfers = rq->type == T_IN || rq->type == T_OUT;
	rq->partial = (rq->type == T_OUT || rq->type == T_WRITE_ZEROES) && blk_inside(blk, rq->offset | rq->len);
	return (transfers && needs_bounce(blk, rq)) || rq->partial ? make_bounce(blk, rq) : S_OK;
}

/* Takes one chain. */
static enum start start(struct blk *blk, unsigned queue, const struct chain *c)
{
	struct request_head head;
	struct request *rq = blk->free_list;

	if (c->n_write == 0 || c->iov[c->n_read + c->n_write - 1].iov_len == 0 ||
	    iov_to_buf(c->iov, c->n_read, 0, &head, sizeof(head)) < sizeof(head))
		return START_BROKEN;
	blk->free_list = rq->next;
	const struct iovec *last = &c->iov[c->n_read + c->n_write - 1];
	rq->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	rq->type = head.type;
	rq->head = c->head;
	rq->queue = (uint16_t)queue;
	int status = prepare(blk, rq, c, head.sector);
	if (status == NO_MEMORY && blk->held > rq->held) {
		release(blk, rq);
		return START_LATER;
	}
	if (status == NO_MEMORY)
		status = S_IOERR;
	if (status != S_OK || (rq->len == 0 && rq->type != T_FLUSH)) {
		answer(blk, rq, (uint8_t)status, 0);
	} else if (rq->type == T_GET_ID) {
		get_id(blk, rq);
	} else {
		blk_run(blk, rq);
	}
	return START_DONE;
}

/* Takes the chains that wait in a queue, until requests or memory are used up. */
static void take(struct blk *blk, unsigned queue)
{
	struct virtio_dev *vdev = &blk->vdev;
	enum start started = START_DONE;
	struct chain c;

	while (started == START_DONE && blk->free_list && virtio_pop(vdev, queue, &c))
		started = start(blk, queue, &c);
	if (started == START_LATER)
		vring_unpop(&vdev->queue[queue]);
	if (started == START_BROKEN)
		virtio_break(vdev, queue, "a request without head or status");
	if (started == START_LATER || !blk->free_list)
		blk->starved = true;
}

static void blk_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);

	do {
		take(blk, queue);
		blk_submit(blk);
	} while (!blk->starved && virtio_more(vdev, queue));
	blk_interrupt(blk);
}

/* ---- life ---- */

/* Writes what of a qcow2 image's tables is only in memory. */
static void write_tables(struct blk *blk)
{
	int r = blk->layers && blk->layers[0].qcow2 ? qcow2_commit(blk->layers[0].qcow2) : 0;

	if (r < 0)
		log_error("disk '%s': the tables of '%s' cannot be written: errno %d", blk->vdev.id, blk->path, -r);
}

/* From the pause on, who copies the image's files has all that the guest wrote. */
static void blk_pause(struct virtio_dev *vdev)
{
	blk_drain(vdev);
	write_tables(container_of(vdev, struct blk, vdev));
}

/*
 * Makes the requests and the ring when the driver is ready. A device that no guest has touched costs
 * nothing.
 */
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
	if (!blk->no_uring && blk_open_ring(blk, &err) < 0)
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

static void blk_free(struct virtio_dev *vdev)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);

	if (blk->loop) /* also when a worker's loop has `done`: the main loop may have an event of `done` still */
		loop_del(blk->env->loop, &blk->done);
	if (blk->has_ring) {
		blk_drain(vdev);
		uring_close(&blk->ring);
	}
	virtio_done(vdev);
	write_tables(blk);
	blk_close_image(blk);
	if (blk->done.fd >= 0)
		close(blk->done.fd);
	free(blk->requests);
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
	VIRTIO_COUNTER("failed_ops", disk_failed_ops, .flags = F_OMIT),
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
	.reset = blk_drain,
	.notify = blk_notify,
	.use_loop = blk_use_loop,
	.write_config = blk_write_config,
	.pause = blk_pause,
	.counters = blk_counters,
	.save = blk_save,
	.load = blk_load,
	.free = blk_free,
};

int virtio_blk_new(const struct device_env *env, struct disk_config *cfg, struct virtio_dev **ret, struct err *err)
{
	struct blk *blk = calloc(1, sizeof(*blk));

	if (!blk)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make disk '%s'", cfg->path);
	blk->env = env;
	blk->fd = blk->lock_fd = blk->done.fd = -1;
	int r = blk_open_image(blk, cfg, err);
	if (r == 0)
		r = virtio_init(&blk->vdev, &blk_ops, env->mem, cfg->id, cfg->num_queues, cfg->queue_size, err);
	return virtio_made(&blk->vdev, &blk_ops, r, ret);
}
