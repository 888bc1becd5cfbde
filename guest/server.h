// SPDX-License-Identifier: Apache-2.0
/*
 * The agent's HTTP server: listening sockets, connections, and what of them is bounded. A connection is kept
 * for further requests, which are answered one after the other (RFC 9112, section 9.3). The loop's thread.
 *
 * A client can make nobody wait but itself. When LIMIT_CONNECTIONS are there, a new one takes the place of the
 * connection that has been waiting longest for its client: between two requests, or silent for LIMIT_SILENCE_S
 * in the middle of one. When there is none, the new one is answered 503.
 */
#ifndef GUEST_SERVER_H
#define GUEST_SERVER_H

#include "guest/http.h"
#include "guest/limits.h"

struct connection;

enum { SERVER_LISTENERS = 2 };

struct listener {
	struct watch watch;
	struct server *server;
	bool host_only; /* vsock: only the host may connect */
};

struct server {
	struct agent *agent;
	const struct route *routes; /* ends with a row without a method */
	struct listener listeners[SERVER_LISTENERS];
	unsigned n_listeners;
	struct connection *connections; /* a list */
	unsigned n_connections;
	int spare_fd; /* closed for a moment to refuse a client when no descriptor number is left */
};

void server_init(struct server *s, struct agent *agent, const struct route *routes);
/* Listens on a vsock port (vsock(7)). Connections that do not come from the host, CID 2, are closed at once. */
MUST_CHECK int server_listen_vsock(struct server *s, unsigned port, struct err *err);
/* Listens at a unix socket's path, for its owner alone; a socket that is there is replaced. */
MUST_CHECK int server_listen_unix(struct server *s, const char *path, struct err *err);
/* Takes over a connected stream socket. For listeners, and for tests. */
void server_accept(struct server *s, int fd);
/* Closes all. A server that is zeroed or done already is no error. */
void server_done(struct server *s);

#endif
