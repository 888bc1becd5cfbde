// SPDX-License-Identifier: Apache-2.0
/* What the files of the REST server share: server.c (connections), request.c (what came), reply.c (what goes). */
#ifndef FORKD_REST_SERVER_PRIVATE_H
#define FORKD_REST_SERVER_PRIVATE_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "forkd/rest/accept.h"
#include "forkd/rest/listen.h"
#include "forkd/rest/url.h"

struct http_server {
	struct forkd *d;
	const struct route *routes;
	unsigned n_routes, idle_s;
	struct metrics *metrics;
	struct http_listen listen;
	struct acceptor *acceptor;
	struct MHD_Daemon *plain, *tls;
	char mhd_says[256]; /* while it starts */
	atomic_bool serving, stopping;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t idle;
	unsigned n_running;  /* requests, streams not */
	struct peer **peers; /* by descriptor: handed over to libmicrohttpd */
	unsigned n_peers;
};

/* One request, from its first line until its answer is sent. */
struct exchange {
	struct request rq;
	struct http_server *server;
	struct peer *peer;
	char *target;    /* of the request line; its query is cut into pairs */
	char shown[160]; /* the target's path for messages: ASCII, cut */
	struct url_pair pairs[URL_PAIRS_MAX];
	unsigned n_pairs;
	struct strbuf allow;
	struct err err; /* it is refused; code ERR_NONE: it is not */
	size_t text_cap, discarded;
	bool begun, running, close;
};

/* request.c */

/* The headers are there: takes them and the descriptors, and checks what needs no look into the body; ex->err has the result. */
void exchange_begin(struct exchange *ex, struct MHD_Connection *connection, const char *method);
/* A part of the body; it is dropped when the request is refused. False: the connection is to be cut. */
bool exchange_take(struct exchange *ex, const char *data, size_t len);
/* The body is there: parses it. */
MUST_CHECK int exchange_parse(struct exchange *ex, struct err *err);
/* May a refusal go before the body? Only a client that waits for "100 Continue" reads it then. */
bool exchange_asks_first(const struct exchange *ex);
/* What the request holds, but not its memory. */
void exchange_done(struct exchange *ex);
/* Has the other end of that socket gone? */
bool http_hung_up(int fd);

/* reply.c */

/* Runs the handler, unless the request is refused already, and queues the answer. */
enum MHD_Result exchange_answer(struct exchange *ex);
/* The handler has ended; the server may stop. */
void exchange_not_running(struct exchange *ex);

#endif
