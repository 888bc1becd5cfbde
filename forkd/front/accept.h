// SPDX-License-Identifier: Apache-2.0
/*
 * Accepting connections, in the threads of the pool. A connection waits for its first byte, and keeps
 * the descriptors that came with the byte. Then the connection is handed over (accept_options.spoken).
 *
 * Connections are counted in three shares, so that no share takes room from the others: trusted
 * local callers, other local callers, and TCP. In the last two shares one peer (a user, an IPv4
 * address, an IPv6 network of 64 bits) may have half of the share. A connection is unproven until
 * its first byte has come (unix socket) or the token was right (TCP); there is a deadline for both.
 * When a peer or a share is full, the oldest unproven connection of this peer or share is closed
 * for the new connection. When there is no unproven connection, the new connection is turned away.
 */
#ifndef FORKD_FRONT_ACCEPT_H
#define FORKD_FRONT_ACCEPT_H

#include "forkd/access/caller.h"
#include "forkd/front/pool.h"

struct acceptor;

enum share { SHARE_TRUSTED, SHARE_LOCAL, SHARE_REMOTE, N_SHARES };

/* A connection. */
struct peer {
	struct source source; /* runs in accept.c until the connection is handed over */
	int fd;
	struct caller caller;
	int *fds; /* came with the first byte */
	uint32_t n_fds;
	uint32_t had_fds; /* how many descriptors came, wherever they are now */
	bool lost_fds;    /* descriptors came that could not be taken */
	bool tls;
	char first;        /* of a local connection: the first byte, which is read already */
	uint64_t first_ns; /* CLOCK_MONOTONIC of accept(), later of the first byte */
	struct acceptor *acceptor;
	void *user; /* of whom the connection was handed over to */

	/* for accept.c alone, under the acceptor's lock */
	enum share share;
	uint64_t who;   /* the user or the address; equal numbers: one peer */
	bool unproven;  /* in the share's list `unproven`, oldest first */
	bool given_up;  /* shut down and not counted any more; ends soon */
	uint64_t at_ns; /* CLOCK_MONOTONIC of accept() */
	TAILQ_ENTRY(peer) link;
};
/* The connection has shown the token. */
void peer_proven(struct peer *peer);
/* Whether the client has left. A client on TCP leaves with its half of the connection. */
bool peer_gone(const struct peer *peer);
/*
 * Closes the connection and the descriptors that came, throws away what was not read, makes room for
 * another connection, and frees the peer. In the thread of its source.
 */
void peer_close(struct peer *peer);

enum { ACCEPT_LISTENERS_MAX = 2 };

struct accept_listener {
	int fd;
	bool local, tls; /* a unix socket; its connections speak TLS */
};

struct accept_options {
	struct pool *pool;
	struct accept_listener listeners[ACCEPT_LISTENERS_MAX];
	unsigned n_listeners;
	unsigned max_connections; /* of each share */
	unsigned idle_s, token_s; /* how long a connection may be unproven: on the unix socket, on TCP */
	/*
	 * Called in the thread of the peer's source, to which all that comes next belongs. The callee sets
	 * peer->source.ready, and returns what that function would.
	 */
	bool (*spoken)(void *arg, struct peer *peer);
	void *arg;
};

MUST_CHECK int acceptor_new(const struct accept_options *opt, struct acceptor **ret, struct err *err);
/* Begins to accept. */
MUST_CHECK int acceptor_start(struct acceptor *a, struct err *err);
/* No more connections are accepted. */
void acceptor_stop(struct acceptor *a);
/* Gives up what was unproven for too long: pool_options.expire. */
uint64_t acceptor_expire(struct acceptor *a, uint64_t now_ns);
/* To be called when no peer is left. The listeners stay open. NULL is fine. */
void acceptor_free(struct acceptor *a);

#endif
