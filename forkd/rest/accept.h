// SPDX-License-Identifier: Apache-2.0
/*
 * Accepting connections: one thread waits for them and for their first byte, looks at it without taking it, and keeps the
 * descriptors that came with it. Then the connection is another's. So a silent client costs a descriptor, not a thread.
 *
 * Connections are counted in three shares, so that none takes the others': local callers who are trusted, other local callers, and
 * TCP. In the last two one peer (a user, an IPv4 address, an IPv6 network of 64 bits) may have half of the share. A connection is
 * unproven until its first byte is there (unix socket) or the token was right (TCP); it has a deadline for that. When a peer or a
 * share is full, its oldest unproven connection is closed for the new one; when there is none, the new one is turned away.
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
	uint32_t had_fds; /* how many came; also when they have gone to a request since */
	bool lost_fds;    /* some came that could not be taken */
	bool named;       /* its thread has a name */
	bool tls;
	uint64_t first_ns; /* CLOCK_MONOTONIC: accepted, then: first byte */
	struct acceptor *acceptor;

	/* accept.c's, under its lock */
	enum share share;
	uint64_t who;   /* the user or the address; equal: one peer */
	bool spoken;    /* the connection is another's */
	bool unproven;  /* in the share's list of those, oldest first */
	bool given_up;  /* shut down and not counted any more; it ends soon */
	uint64_t at_ns; /* accepted */
	TAILQ_ENTRY(peer) link;
};
/* The connection has shown the token. */
void peer_proven(struct peer *peer);
/* Closes the descriptors that came, and makes room for another connection; never closes `fd`. NULL is fine. */
void peer_free(struct peer *peer);

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
	/* Called in the accept thread: the peer and its descriptor are the callee's. */
	void (*spoken)(void *arg, struct peer *peer);
	void *arg;
};

MUST_CHECK int acceptor_start(const struct accept_options *opt, struct acceptor **ret, struct err *err);
/* Ends the thread and the connections that have not spoken. The listeners stay open. */
void acceptor_stop(struct acceptor *a);
/* Only when no peer is left. NULL is fine. */
void acceptor_free(struct acceptor *a);

#endif
