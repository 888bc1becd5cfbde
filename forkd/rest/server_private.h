// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of the REST server share: server.c (connections), request.c (requests), reply.c
 * (answers).
 */
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
	char mhd_says[256]; /* libmicrohttpd's last message while the server starts */
	atomic_bool serving, stopping;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t idle;
	unsigned n_running;  /* requests at work, without streams */
	struct peer **peers; /* by descriptor; the connections that libmicrohttpd has */
	unsigned n_peers;
};

/* One request, from its first line until its answer is sent. */
struct exchange {
	struct request rq;
	struct http_server *server;
	struct peer *peer;
	char *target;    /* heap; of the request line; the query is cut into pairs */
	char shown[160]; /* the target's path for messages: ASCII, cut */
	struct url_pair pairs[URL_PAIRS_MAX];
	unsigned n_pairs;
	struct strbuf allow;
	struct err err; /* why the request is refused; code ERR_NONE: the request is not refused */
	size_t text_cap, discarded;
	bool begun, running, close;
};

/* request.c */

/*
 * Called when the headers have come. Takes the headers and the descriptors, and checks what needs
 * no look into the body. ex->err has the result.
 */
void exchange_begin(struct exchange *ex, struct MHD_Connection *connection, const char *method);
/*
 * Takes a part of the body, or drops the part when the request is refused. False: the connection is
 * to be cut.
 */
bool exchange_take(struct exchange *ex, const char *data, size_t len);
/* Parses the body, which has come whole. */
MUST_CHECK int exchange_parse(struct exchange *ex, struct err *err);
/*
 * Whether a refusal may be sent before the body has come. Only a client that waits for "100
 * Continue" reads such an answer.
 */
bool exchange_asks_first(const struct exchange *ex);
/* Releases what the exchange holds, but does not free *ex. */
void exchange_done(struct exchange *ex);
/* Whether the other end of the socket is gone. */
bool http_hung_up(int fd);

/* reply.c */

/*
 * Runs the handler, unless the request is refused already, and queues the answer. MHD_NO: the
 * connection is to be cut.
 */
enum MHD_Result exchange_answer(struct exchange *ex);
/* Called when the handler has ended: the server need not wait for this request when it stops. */
void exchange_not_running(struct exchange *ex);

#endif
