// SPDX-License-Identifier: Apache-2.0
/*
 * Sets rings up with restrictions, and cuts bulk reads and writes into pieces that keep the queue
 * full.
 */
#include "common/uring.h"

#include <errno.h>

#include "common/io.h"

enum { DEPTH = 32, PIECE_BYTES = 1 << 20, SUBMIT_TRIES = 1000 };

int uring_open(struct io_uring *ring, unsigned entries, const int *fds, unsigned n_fds, const uint8_t *ops,
	       unsigned n_ops, int event_fd, struct err *err)
{
	struct io_uring_params params = { .flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP };
	struct io_uring_restriction r[16] = {};
	unsigned n = 0;

	int ret = io_uring_queue_init_params(entries, ring, &params);
	if (ret < 0)
		return err_num(err, ERR_INTERNAL, -ret, "make an io_uring of %u entries", entries);
	for (unsigned i = 0; i < n_ops && n < ARRAY_LEN(r) - 1; i++)
		r[n++] = (struct io_uring_restriction){ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = ops[i] };
	r[n++] = (struct io_uring_restriction){ .opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED,
						.sqe_flags = IOSQE_FIXED_FILE };
	ret = io_uring_register_files(ring, fds, n_fds);
	if (ret == 0 && event_fd >= 0)
		ret = io_uring_register_eventfd(ring, event_fd);
	if (ret == 0)
		ret = io_uring_register_restrictions(ring, r, n);
	if (ret == 0)
		ret = io_uring_enable_rings(ring);
	if (ret < 0) {
		io_uring_queue_exit(ring);
		return err_num(err, ERR_INTERNAL, -ret, "set up an io_uring");
	}
	return 0;
}

/*
 * Makes a ring that this thread never closes. When a thread closes its last ring, the kernel ends
 * the workers of that ring; with Linux 6.18 what the next ring hands to them at that moment is
 * lost, and its completions never come.
 */
static void keep_a_ring(void)
{
	static _Thread_local struct io_uring kept;
	static _Thread_local bool tried;

	if (!tried)
		(void)!io_uring_queue_init(1, &kept, 0); /* a host that forbids io_uring has no such workers */
	tried = true;
}

void uring_close(struct io_uring *ring)
{
	keep_a_ring();
	io_uring_queue_exit(ring);
}

/* One transfer in progress: [buf, buf + len) at file offset off. */
struct piece {
	char *buf;
	uint64_t off, len;
};

/* The pieces of a list of extents, one after the other. */
struct pieces {
	const struct extent *ext;
	uint32_t n, at;
	uint64_t done; /* of ext[at] */
};

static bool next_piece(struct pieces *ps, struct piece *ret)
{
	while (ps->at < ps->n && ps->done == ps->ext[ps->at].len) {
		ps->at++;
		ps->done = 0;
	}
	if (ps->at == ps->n)
		return false;
	const struct extent *e = &ps->ext[ps->at];
	uint64_t left = e->len - ps->done;
	*ret = (struct piece){ .buf = (char *)(uintptr_t)e->buf + ps->done,
			       .off = e->off + ps->done,
			       .len = left < PIECE_BYTES ? left : PIECE_BYTES };
	ps->done += ret->len;
	return true;
}

/*
 * Transfers a piece plainly and completely: what a short transfer left, and everything without
 * io_uring.
 */
static int transfer_sync(int fd, struct piece p, bool write, struct err *err)
{
	ssize_t n = write ? io_write(fd, p.buf, p.len, p.off) : io_read(fd, p.buf, p.len, p.off);

	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "%s %llu bytes at %llu", write ? "write" : "read",
			       (unsigned long long)p.len, (unsigned long long)p.off);
	unsigned long long end = p.off + (uint64_t)n;
	if ((uint64_t)n < p.len)
		return err_set(err, ERR_INVALID, "the file ends at byte %llu", end);
	return 0;
}

static void queue_piece(struct io_uring *ring, struct piece *p, bool write)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring); /* never NULL: as many entries as pieces */

	if (write)
		io_uring_prep_write(sqe, 0, p->buf, (unsigned)p->len, p->off);
	else
		io_uring_prep_read(sqe, 0, p->buf, (unsigned)p->len, p->off);
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, p);
}

/* Takes one completion. A short transfer is finished plainly. */
static int finish_one(struct io_uring *ring, int fd, bool write, struct piece **ret_free, struct err *err)
{
	struct io_uring_cqe *cqe;
	int r;

	do
		r = io_uring_wait_cqe(ring, &cqe);
	while (r == -EINTR);
	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "wait for an io_uring");
	struct piece *p = io_uring_cqe_get_data(cqe);
	int res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	*ret_free = p;
	if (res < 0 && res != -EAGAIN && res != -EINTR)
		return err_num(err, ERR_INTERNAL, -res, "%s %llu bytes at %llu", write ? "write" : "read",
			       (unsigned long long)p->len, (unsigned long long)p->off);
	uint64_t got = res > 0 ? (uint64_t)res : 0;
	struct piece rest = { p->buf + got, p->off + got, p->len - got };
	return transfer_sync(fd, rest, write, err);
}

/*
 * Hands what is queued to the kernel, which may be short of memory for a moment. While transfers
 * are under way, the caller waits for their completions first; when none is, the kernel is asked
 * again a few times here.
 */
static int submit(struct io_uring *ring, unsigned *under_way, struct err *err)
{
	int r = io_uring_submit(ring);

	for (unsigned tries = 0; r <= 0 && *under_way == 0 && tries < SUBMIT_TRIES; tries++) {
		usleep(1000);
		r = io_uring_submit(ring);
	}
	if (r <= 0 && (*under_way == 0 || (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)))
		return err_num(err, ERR_INTERNAL, r < 0 ? -r : EAGAIN, "submit to an io_uring");
	*under_way += r > 0 ? (unsigned)r : 0;
	return 0;
}

static int transfer_ring(struct io_uring *ring, int fd, struct pieces *ps, bool write, struct err *err)
{
	struct piece slot[DEPTH], *idle[DEPTH];
	unsigned n_idle = DEPTH, under_way = 0;
	bool more = true;
	int ret = 0, r;

	for (unsigned i = 0; i < DEPTH; i++)
		idle[i] = &slot[i];
	while (more || n_idle < DEPTH) { /* also after a failure: the kernel still uses the buffers */
		while (more && n_idle > 0) {
			more = ret == 0 && next_piece(ps, idle[n_idle - 1]);
			if (more)
				queue_piece(ring, idle[--n_idle], write);
		}
		if (n_idle == DEPTH)
			break;
		if (submit(ring, &under_way, err) < 0)
			return err->num;
		struct piece *free_slot = NULL;
		struct err one = {};
		r = finish_one(ring, fd, write, &free_slot, &one);
		if (r < 0 && ret == 0) {
			*err = one;
			ret = r;
		}
		if (!free_slot)
			return ret;
		under_way--;
		idle[n_idle++] = free_slot;
		more = more && ret == 0;
	}
	return ret;
}

void uring_file_init(struct uring_file *f, int fd)
{
	const uint8_t ops[] = { IORING_OP_READ, IORING_OP_WRITE };
	struct err ignored = {};

	f->fd = fd;
	f->has_ring = uring_open(&f->ring, DEPTH, &fd, 1, ops, ARRAY_LEN(ops), -1, &ignored) == 0;
}

void uring_file_done(struct uring_file *f)
{
	if (f->has_ring)
		uring_close(&f->ring);
	f->has_ring = false;
}

static int transfer(struct uring_file *f, const struct extent *ext, uint32_t n, bool write, struct err *err)
{
	struct pieces ps = { .ext = ext, .n = n };
	struct piece p;

	if (f->has_ring)
		return transfer_ring(&f->ring, f->fd, &ps, write, err);
	while (next_piece(&ps, &p))
		if (transfer_sync(f->fd, p, write, err) < 0)
			return err->num;
	return 0;
}

int uring_write(struct uring_file *f, const struct extent *ext, uint32_t n, struct err *err)
{
	return transfer(f, ext, n, true, err);
}

int uring_read(struct uring_file *f, const struct extent *ext, uint32_t n, struct err *err)
{
	return transfer(f, ext, n, false, err);
}
