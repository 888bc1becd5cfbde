// SPDX-License-Identifier: Apache-2.0
/*
 * Accepting connections: one thread waits for them and for their first byte, looks at it without taking it, and keeps the
 * descriptors that came with it. Then the connection is another's. So a silent client costs a descriptor, not a thread.
 */
#ifndef FORKD_REST_ACCEPT_H
#define FORKD_REST_ACCEPT_H

#include "forkd/rest/server.h"

struct acceptor;

/* A connection. */
struct peer {
	int fd;
	struct caller caller;
	int *fds; /* came with the first byte */
	uint32_t n_fds;
	bool had_fds;  /* also when they have gone to a request since */
	bool lost_fds; /* some came that could not be taken */
	bool named;    /* its thread has a name */
	bool tls;
	uint64_t first_ns; /* CLOCK_MONOTONIC: accepted, then: first byte */
	struct acceptor *acceptor;
	struct peer *prev, *next; /* of those that have not spoken, oldest first */
};
/* Closes the descriptors that came, and makes room for another connection; never closes `fd`. */
void peer_free(struct peer *peer);

enum { ACCEPT_LISTENERS_MAX = 2 };

struct accept_listener {
	int fd;
	bool local, tls; /* a unix socket; its connections speak TLS */
};

struct accept_options {
	struct accept_listener listeners[ACCEPT_LISTENERS_MAX];
	unsigned n_listeners, max_connections, idle_s;
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
