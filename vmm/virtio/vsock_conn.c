// SPDX-License-Identifier: Apache-2.0
/*
 * A stream between the guest and a unix socket: what a packet does to the stream, and which packet is
 * next.
 */
#include "vmm/virtio/vsock_conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "vmm/virtio/vring.h"

enum { SEGMENTS = 32, TELL_CREDIT = VSOCK_BUF_BYTES / 2 };

_Static_assert(sizeof(struct vsock_header) == VSOCK_HEADER_BYTES, "5.10.6");

unsigned vsock_slice(const struct iovec *iov, unsigned n, size_t off, size_t len, struct iovec *ret, unsigned max)
{
	unsigned k = 0;

	for (unsigned i = 0; i < n && k < max && len > 0; i++) {
		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		size_t part = iov[i].iov_len - off < len ? iov[i].iov_len - off : len;
		ret[k++] = (struct iovec){ .iov_base = (char *)iov[i].iov_base + off, .iov_len = part };
		len -= part;
		off = 0;
	}
	return k;
}

/* ---- credit ---- */

/* The number of bytes that the guest has room for. The guest's numbers may make no sense. */
static uint32_t credit(const struct vsock_conn *c)
{
	uint32_t in_flight = c->sent - c->guest_taken;

	return in_flight < c->guest_alloc ? c->guest_alloc - in_flight : 0;
}

static void note_taken(struct vsock_conn *c, uint32_t bytes)
{
	c->taken += bytes;
	if (c->taken - c->taken_told >= TELL_CREDIT)
		c->owes_credit = true;
}

/* ---- towards the host ---- */

/*
 * Returns the bytes that the socket took; 0: none now. Bytes that nobody will ever read count as
 * taken.
 */
static size_t send_some(struct vsock_conn *c, const struct iovec *iov, unsigned n)
{
	const struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n };
	ssize_t r;

	do
		r = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	if (r < 0 && errno != EAGAIN && errno != ENOBUFS) {
		c->shut |= VSOCK_NO_RECEIVE;
		return iov_bytes(iov, n);
	}
	return r < 0 ? 0 : (size_t)r;
}

/* Appends `len` bytes of the segments to the buffer, which has room. */
static int keep(struct vsock_conn *c, const struct iovec *iov, unsigned n, size_t off, uint32_t len)
{
	if (!c->buf)
		c->buf = malloc(VSOCK_BUF_BYTES);
	if (!c->buf)
		return -ENOMEM;
	uint32_t at = (c->buf_head + c->buf_len) % VSOCK_BUF_BYTES;
	uint32_t first = len < VSOCK_BUF_BYTES - at ? len : VSOCK_BUF_BYTES - at;
	iov_to_buf(iov, n, off, c->buf + at, first);
	iov_to_buf(iov, n, off + first, c->buf, len - first);
	c->buf_len += len;
	return 0;
}

static enum vsock_fate settle_conn(struct vsock_conn *c)
{
	if (c->buf_len > 0)
		return VSOCK_LIVES;
	free(steal_ptr(&c->buf));
	c->buf_head = 0;
	if (c->guest_shut == VSOCK_NEITHER)
		return VSOCK_RESET; /* the answer that ends an orderly close (5.10.6.5) */
	if ((c->guest_shut & VSOCK_NO_SEND) && !c->write_ended) {
		shutdown(c->fd, SHUT_WR);
		c->write_ended = true;
	}
	return VSOCK_LIVES;
}

enum vsock_fate vsock_conn_flush(struct vsock_conn *c)
{
	while (c->buf_len > 0) {
		uint32_t to_end = VSOCK_BUF_BYTES - c->buf_head;
		const struct iovec part = { c->buf + c->buf_head, c->buf_len < to_end ? c->buf_len : to_end };
		uint32_t n = (uint32_t)send_some(c, &part, 1);
		if (n == 0)
			return VSOCK_LIVES;
		c->buf_head = (c->buf_head + n) % VSOCK_BUF_BYTES;
		c->buf_len -= n;
		note_taken(c, n);
	}
	return settle_conn(c);
}

static enum vsock_fate deliver_bytes(struct vsock_conn *c, const struct iovec *iov, unsigned n, size_t off,
				     uint32_t len)
{
	struct iovec slice[SEGMENTS];
	uint32_t done = 0;

	if (c->shut & VSOCK_NO_RECEIVE) { /* sent before the guest knew */
		note_taken(c, len);
		return VSOCK_LIVES;
	}
	if (len > VSOCK_BUF_BYTES - c->buf_len)
		return VSOCK_RESET; /* more than the guest had credit for */
	if (len > 0 && c->buf_len == 0) {
		done = (uint32_t)send_some(c, slice, vsock_slice(iov, n, off, len, slice, SEGMENTS));
		note_taken(c, done);
	}
	if (c->shut & VSOCK_NO_RECEIVE) {
		note_taken(c, len - done);
		return VSOCK_LIVES;
	}
	if (done < len && keep(c, iov, n, off + done, len - done) < 0)
		return VSOCK_RESET;
	return VSOCK_LIVES;
}

/* Sends "OK PORT". A new socket has room for the line. */
static enum vsock_fate greet(struct vsock_conn *c)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "OK %u\n", c->local_port);

	c->state = VSOCK_OPEN;
	return send(c->fd, text, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) == len ? VSOCK_LIVES : VSOCK_RESET;
}

enum vsock_fate vsock_conn_take(struct vsock_conn *c, const struct vsock_header *h, const struct iovec *iov, unsigned n,
				size_t off)
{
	c->guest_alloc = h->buf_alloc;
	c->guest_taken = h->fwd_cnt;
	c->asked = c->asked && credit(c) == 0;
	if (h->op == VSOCK_RST)
		return VSOCK_GONE;
	if (h->op == VSOCK_RESPONSE && c->state == VSOCK_REQUESTED && !c->owes_request)
		return greet(c);
	if (c->state != VSOCK_OPEN)
		return VSOCK_RESET;
	switch (h->op) {
	case VSOCK_RW:
		return c->guest_shut & VSOCK_NO_SEND ? VSOCK_RESET : deliver_bytes(c, iov, n, off, h->len);
	case VSOCK_SHUTDOWN:
		c->guest_shut |= h->flags & VSOCK_NEITHER;
		if (c->guest_shut & VSOCK_NO_RECEIVE)
			shutdown(c->fd, SHUT_RD);
		if (c->hung_up)
			vsock_conn_hang_up(c);
		return settle_conn(c);
	case VSOCK_CREDIT_UPDATE:
		return VSOCK_LIVES;
	case VSOCK_CREDIT_REQUEST:
		c->owes_credit = true;
		return VSOCK_LIVES;
	default:
		return VSOCK_RESET;
	}
}

/* ---- towards the guest ---- */

void vsock_conn_hang_up(struct vsock_conn *c)
{
	c->hung_up = c->readable = true;
	if (c->ended || (c->guest_shut & VSOCK_NO_RECEIVE))
		c->shut = VSOCK_NEITHER;
}

bool vsock_conn_is_known(const struct vsock_conn *c)
{
	return c->state == VSOCK_OPEN || (c->state == VSOCK_REQUESTED && !c->owes_request);
}

static bool may_read(const struct vsock_conn *c)
{
	return c->readable && !c->ended && !(c->guest_shut & VSOCK_NO_RECEIVE);
}

bool vsock_conn_has_packet(const struct vsock_conn *c)
{
	if (c->state != VSOCK_OPEN)
		return c->owes_request;
	return c->owes_response || c->owes_credit || (c->shut & ~c->told) ||
	       (may_read(c) && (credit(c) > 0 || !c->asked));
}

/*
 * Reads bytes straight into the guest's memory. Returns their number; 0: none; -errno: the socket
 * broke.
 */
static ssize_t read_some(struct vsock_conn *c, const struct iovec *iov, unsigned n)
{
	struct iovec slice[SEGMENTS];
	struct msghdr msg = { .msg_iov = slice };
	uint32_t max = credit(c) < VSOCK_BUF_BYTES ? credit(c) : VSOCK_BUF_BYTES;
	ssize_t r;

	msg.msg_iovlen = vsock_slice(iov, n, 0, max, slice, SEGMENTS);
	if (msg.msg_iovlen == 0)
		return -EMSGSIZE; /* a buffer with room for the header alone */
	do
		r = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	if (r > 0)
		return r;
	c->readable = false;
	if (r < 0)
		return errno == EAGAIN ? 0 : -errno;
	c->ended = true;
	c->shut |= c->hung_up ? VSOCK_NEITHER : VSOCK_NO_SEND;
	return 0;
}

static enum vsock_op next_op(struct vsock_conn *c)
{
	if (c->owes_request || c->owes_response) {
		enum vsock_op op = c->owes_request ? VSOCK_REQUEST : VSOCK_RESPONSE;
		c->owes_request = c->owes_response = false;
		return op;
	}
	if (c->state != VSOCK_OPEN)
		return 0;
	if (may_read(c) && (credit(c) > 0 || !c->asked)) {
		c->asked = credit(c) == 0;
		return c->asked ? VSOCK_CREDIT_REQUEST : VSOCK_RW;
	}
	if (c->shut & ~c->told) {
		c->told = c->shut;
		return VSOCK_SHUTDOWN;
	}
	return c->owes_credit ? VSOCK_CREDIT_UPDATE : 0;
}

int vsock_conn_next(struct vsock_conn *c, struct vsock_header *h, const struct iovec *iov, unsigned n)
{
	ssize_t len = 0;
	enum vsock_op op = next_op(c);

	if (op == VSOCK_RW) {
		len = read_some(c, iov, n);
		if (len < 0)
			return (int)len;
		if (len == 0) /* no bytes: another packet may be due */
			op = next_op(c);
	}
	if (op == 0)
		return 0;
	c->sent += (uint32_t)len;
	c->taken_told = c->taken;
	c->owes_credit = false;
	*h = (struct vsock_header){
		.src_cid = VSOCK_HOST_CID,
		.src_port = c->local_port,
		.dst_port = c->peer_port,
		.len = (uint32_t)len,
		.type = VSOCK_STREAM,
		.op = (uint16_t)op,
		.flags = op == VSOCK_SHUTDOWN ? c->told : 0,
		.buf_alloc = VSOCK_BUF_BYTES,
		.fwd_cnt = c->taken,
	};
	return 1;
}
