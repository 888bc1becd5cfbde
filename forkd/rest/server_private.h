// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of the REST server share: server.c (connections), request.c (requests), reply.c
 * (answers).
 */
#ifndef FORKD_REST_SERVER_PRIVATE_H
#define FORKD_REST_SERVER_PRIVATE_H

#include "forkd/front/front.h"
#include "forkd/rest/listen.h"
#include "forkd/rest/url.h"

struct http_server {
	struct forkd *d;
	const struct route *routes;
	unsigned n_routes;
	struct metrics *metrics;
	struct http_listen listen;
	struct front *front;
};

/* One request, from its first line until its answer is sent. */
struct exchange {
	struct request rq;
	struct http_server *server;
	struct conn *conn;
	char *target;    /* heap; of the request line; the query is cut into pairs */
	char shown[160]; /* the target's path for messages: ASCII, cut */
	struct url_pair pairs[URL_PAIRS_MAX];
	unsigned n_pairs;
	struct strbuf allow;
	struct err err; /* why the request is refused; code ERR_NONE: the request is not refused */
	size_t text_cap, discarded;
	bool close;
};

/* request.c */

/*
 * Called when the headers have come. Takes the headers and the descriptors, and checks what needs
 * no look into the body. ex->err has the result.
 */
void exchange_begin(struct exchange *ex);
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

/* reply.c */

/* Runs the handler, unless the request is refused already, and answers. */
void exchange_answer(struct exchange *ex);
/* Counts and logs the request, which was answered with this status. */
void exchange_account(const struct exchange *ex, unsigned status);

#endif
