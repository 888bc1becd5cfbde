// SPDX-License-Identifier: Apache-2.0
/*
 * Accepting connections. One thread waits for connections and for the first byte of each, looks at
 * this byte without taking it, and keeps the descriptors that came with the byte. Then the thread
 * hands the connection over (accept_options.spoken). So a silent client costs a descriptor, not a
 * thread.
 *
 * Connections are counted in three shares, so that no share takes room from the others: trusted
 * local callers, other local callers, and TCP. In the last two shares one peer (a user, an IPv4
 * address, an IPv6 network of 64 bits) may have half of the share. A connection is unproven until
 * its first byte has come (unix socket) or the token was right (TCP); there is a deadline for both.
 * When a peer or a share is full, the oldest unproven connection of this peer or share is closed
 * for the new connection. When there is no unproven connection, the new connection is turned away.
 */
#ifndef FORKD_REST_ACCEPT_H
#define FORKD_REST_ACCEPT_H

#include <sys/queue.h>

#include "forkd/rest/server.h"

struct acceptor;

enum share { SHARE_TRUSTED, SHARE_LOCAL, SHARE_REMOTE, N_SHARES };

/* A connection. */
struct peer {
	int fd;
	struct caller caller;
	int *fds; /* came with the first byte */
	uint32_t n_fds;
	uint32_t had_fds; /* how many descriptors came, wherever they are now */
	bool lost_fds;    /* descriptors came that could not be taken */
	bool named;       /* the connection's thread has a name */
	bool tls;
	uint64_t first_ns; /* CLOCK_MONOTONIC of accept(), later of the first byte */
	struct acceptor *acceptor;

	/* for accept.c alone, under the acceptor's lock */
	enum share share;
	uint64_t who;   /* the user or the address; equal numbers: one peer */
	bool spoken;    /* the connection was handed over */
	bool unproven;  /* in the share's list `unproven`, oldest first */
	bool given_up;  /* shut down and not counted any more; ends soon */
	uint64_t at_ns; /* CLOCK_MONOTONIC of accept() */
	TAILQ_ENTRY(peer) link;
};
/* The connection has shown the token. */
void peer_proven(struct peer *peer);
/*
 * Frees the peer, closes the descriptors that came, and makes room for another connection. `fd` is
 * not closed. NULL is fine.
 */
void peer_free(struct peer *peer);
/* Throws away what came over a local connection and was not read. To be called before `fd` is closed. */
void peer_discard(const struct peer *peer);

enum { ACCEPT_LISTENERS_MAX = 2 };

struct accept_listener {
	int fd;
	bool local, tls; /* a unix socket; its connections speak TLS */
};

struct accept_options {
	struct accept_listener listeners[ACCEPT_LISTENERS_MAX];
	unsigned n_listeners;
	unsigned max_connections; /* of each share */
	unsigned idle_s, token_s; /* how long a connection may be unproven: on the unix socket, on TCP */
	/* Called in the accept thread. The peer and its descriptor belong to the callee from then on. */
	void (*spoken)(void *arg, struct peer *peer);
	void *arg;
};

MUST_CHECK int acceptor_start(const struct accept_options *opt, struct acceptor **ret, struct err *err);
/* Ends the thread, and the connections that have sent no byte. The listeners stay open. */
void acceptor_stop(struct acceptor *a);
/* To be called when no peer is left. NULL is fine. */
void acceptor_free(struct acceptor *a);

#endif
