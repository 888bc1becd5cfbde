// SPDX-License-Identifier: Apache-2.0
/*
 * All streams of one vsock device, and the unix sockets behind the streams. A program of the host
 * connects to the device's socket and sends a line `CONNECT PORT`; when the guest accepts, the program
 * gets a line `OK PORT`. A connection of the guest to port N of the host goes to `<socket>_N`. The
 * owner of the VM dials without the socket, and alone reaches AGENT_PRIVATE_PORT. There are
 * VSOCK_CONNS_MAX streams at most, with VSOCK_BUF_BYTES each. Guarded by the device's lock.
 */
#ifndef VMM_VIRTIO_VSOCK_MUX_H
#define VMM_VIRTIO_VSOCK_MUX_H

#include "common/sock.h"
#include "vmm/virtio/vsock_conn.h"

enum { VSOCK_CONNS_MAX = 1023, VSOCK_HASHES = 1024, VSOCK_RESETS_MAX = 2048, VSOCK_RESETS_FULL = VSOCK_RESETS_MAX / 2 };
/*
 * Streams of an owned VM that are kept: for what the owner dials; and, of these, for
 * AGENT_PRIVATE_PORT.
 */
enum { VSOCK_KEPT = 256, VSOCK_KEPT_PRIVATE = 16 };

/* An RST that the guest has still to get. The connection has ended, or there never was one. */
struct vsock_reset {
	uint64_t cid; /* the RST's src_cid */
	uint32_t local_port, peer_port;
	uint16_t type;
};

struct vsock_mux {
	uint32_t guest_cid;
	const char *path; /* the configuration's */
	struct sock_file file;
	bool bound; /* this process made the socket file, and removes it */
	bool owned; /* the listening socket came from the VM's owner */
	int listen_fd, wake_fd;
	int epoll_fd; /* of the listener, wake_fd and all connections; readable: call vsock_mux_poll() */
	bool listens; /* false: descriptors ran out */
	uint32_t next_port;
	uint32_t n_conns;
	struct vsock_conn *hash[VSOCK_HASHES];      /* connections that have a port of the guest */
	struct vsock_conn *greeting;                /* connections without a port of the guest */
	struct vsock_conn *sender, *last_sender;    /* connections that may have a packet, in turn */
	struct vsock_reset reset[VSOCK_RESETS_MAX]; /* a ring */
	uint32_t reset_head, n_resets;
};

/*
 * Binds `path` or, when listen_fd is not 0, listens on a duplicate of listen_fd. `path` must stay.
 * Release: vsock_mux_done(), also after a failure.
 */
MUST_CHECK int vsock_mux_init(struct vsock_mux *m, uint32_t guest_cid, const char *path, int listen_fd,
			      struct err *err);
void vsock_mux_done(struct vsock_mux *m);
/* The guest's driver begins anew: closes every connection. */
void vsock_mux_clear(struct vsock_mux *m);
/* Serves what became ready; never waits. */
void vsock_mux_poll(struct vsock_mux *m);
/*
 * Connects to a port of the guest for the VM's owner. `fd`, a stream socket, is taken over on success:
 * it gets the line `OK PORT` when the guest accepts, and is closed when the guest refuses. ERR_BUSY:
 * there are too many streams. ERR_INVALID: no stream socket. There is a packet for the guest then.
 */
MUST_CHECK int vsock_mux_dial(struct vsock_mux *m, int fd, uint32_t port, struct err *err);
/* Makes epoll_fd readable, so that the loop calls vsock_mux_poll(). */
void vsock_mux_wake(struct vsock_mux *m);

/* Whether too many RSTs wait for the guest: then no packet of the guest is taken. */
static inline bool vsock_mux_is_full(const struct vsock_mux *m)
{
	return m->n_resets >= VSOCK_RESETS_FULL;
}

/* Takes a packet of the guest, header included, which may be anything. Not to be called when full. */
void vsock_mux_take(struct vsock_mux *m, const struct iovec *iov, unsigned n);

static inline bool vsock_mux_has_packet(const struct vsock_mux *m)
{
	return m->n_resets > 0 || m->sender;
}

/*
 * Makes the next packet for the guest: the header in *h, the payload in the segments. false: there is
 * none after all.
 */
MUST_CHECK bool vsock_mux_next(struct vsock_mux *m, struct vsock_header *h, const struct iovec *iov, unsigned n);

/* Calls fn for each stream that the guest knows: a snapshot has these. */
void vsock_mux_each(const struct vsock_mux *m, void (*fn)(void *opaque, uint32_t local_port, uint32_t peer_port),
		    void *opaque);
/* Takes a stream of the snapshot: the guest will be told that the stream is gone. false: too many. */
MUST_CHECK bool vsock_mux_lose(struct vsock_mux *m, uint32_t local_port, uint32_t peer_port);

#endif
