// SPDX-License-Identifier: Apache-2.0
/*
 * One stream between a port of the guest and a unix socket of the host: the stream's state, its credit
 * (virtio 1.2, 5.10.6.3) and the bytes that the host has not taken yet. Towards the guest nothing is
 * buffered: bytes stay in the socket until the guest has both credit and a buffer. Guarded by the
 * device's lock.
 */
#ifndef VMM_VIRTIO_VSOCK_CONN_H
#define VMM_VIRTIO_VSOCK_CONN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/auto.h"

enum { VSOCK_HOST_CID = 2, VSOCK_STREAM = 1, VSOCK_HEADER_BYTES = 44, VSOCK_BUF_BYTES = 64 << 10 };
enum vsock_op {
	VSOCK_REQUEST = 1,
	VSOCK_RESPONSE,
	VSOCK_RST,
	VSOCK_SHUTDOWN,
	VSOCK_RW,
	VSOCK_CREDIT_UPDATE,
	VSOCK_CREDIT_REQUEST
};
enum {
	VSOCK_NO_RECEIVE = 1,
	VSOCK_NO_SEND = 2,
	VSOCK_NEITHER = 3
}; /* flags of VSOCK_SHUTDOWN: what its sender will not do */

/* Before each packet (5.10.6); little endian, like the hosts that this program runs on. */
struct vsock_header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

enum vsock_state {
	VSOCK_GREETING,  /* the host has not said which port it wants */
	VSOCK_REQUESTED, /* by the host; the guest has not answered */
	VSOCK_OPEN,
};

struct vsock_conn {
	struct vsock_conn *next; /* of the same hash */
	struct vsock_conn *next_sender;
	bool is_sender; /* in the queue of connections that may have a packet for the guest */
	uint8_t state;  /* enum vsock_state */
	int fd;
	uint32_t local_port, peer_port; /* the host's, the guest's */
	/* Towards the guest. */
	bool owes_request, owes_response, owes_credit;
	bool readable;      /* the socket may have bytes, or its end */
	bool ended;         /* the end of the socket's bytes was read */
	bool hung_up;       /* the host closed the socket */
	bool asked;         /* the guest was asked for credit */
	uint8_t shut, told; /* VSOCK_NO_…: what the host does not do any more, and what of that the guest was told */
	uint32_t guest_alloc, guest_taken, sent; /* the guest's buffer, and bytes modulo 2^32 */
	/* Towards the host. */
	uint8_t guest_shut;  /* VSOCK_NO_… */
	bool waits_to_write; /* the mux waits for EPOLLOUT */
	bool write_ended;    /* the socket is shut down for writing */
	char *buf;           /* a ring of VSOCK_BUF_BYTES; NULL: empty */
	uint32_t buf_head, buf_len;
	uint32_t taken, taken_told; /* bytes modulo 2^32 */
};

/* What became of a connection. */
enum vsock_fate { VSOCK_LIVES, VSOCK_RESET /* the guest is to be told */, VSOCK_GONE };

/*
 * Takes a packet of the guest. The payload of h->len bytes begins `off` bytes into the segments, and
 * is there.
 */
MUST_CHECK enum vsock_fate vsock_conn_take(struct vsock_conn *c, const struct vsock_header *h, const struct iovec *iov,
					   unsigned n, size_t off);
/* The socket takes bytes again. */
MUST_CHECK enum vsock_fate vsock_conn_flush(struct vsock_conn *c);
/* The host closed its end. */
void vsock_conn_hang_up(struct vsock_conn *c);
/* Whether there may be a packet for the guest. */
bool vsock_conn_has_packet(const struct vsock_conn *c);
/*
 * Makes the next packet for the guest: the header in *h, all but dst_cid; the payload in the segments.
 * 1: a packet; 0: there is none after all; -errno: the socket broke.
 */
MUST_CHECK int vsock_conn_next(struct vsock_conn *c, struct vsock_header *h, const struct iovec *iov, unsigned n);
/* Whether the guest knows of the connection. */
bool vsock_conn_is_known(const struct vsock_conn *c);

/*
 * Gives the part of the segments from `off` on, of `len` bytes at most, as at most `max` segments.
 * Returns the number of segments.
 */
unsigned vsock_slice(const struct iovec *iov, unsigned n, size_t off, size_t len, struct iovec *ret, unsigned max);

#endif
