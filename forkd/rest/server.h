// SPDX-License-Identifier: Apache-2.0
/*
 * The REST server on top of the front, which has the connections. A handler runs in a thread of the
 * front's pool and may wait. The server checks what needs no look into the body: route, method, token,
 * length, content type. The handler checks all else.
 */
#ifndef FORKD_REST_SERVER_H
#define FORKD_REST_SERVER_H

#include <stdint.h>
#include <sys/types.h>

#include "common/json64.h"
#include "forkd/front/front.h"
#include "forkd/route.h"

struct forkd;
struct metrics;

enum { HTTP_BODY_MAX = 8 << 20, HTTP_PARAM_MAX = 2 };

struct request {
	const char *method, *path; /* path: percent-decoded, without the query */
	const struct route *route;
	char param[HTTP_PARAM_MAX][256]; /* what stood for {…}; valid UTF-8 without control characters */
	const char *tail;       /* of a route that streams: the rest of the target, undecoded, with its '/' and query */
	struct json_node *body; /* root object; NULL: no body came */
	struct json json;
	char *text; /* text of the body; the JSON points into this text */
	size_t text_len;
	int *fds; /* came with the first byte; the server closes those that the handler does not set to -1 */
	uint32_t n_fds;
	struct caller caller;
	uint64_t accepted_ns; /* CLOCK_MONOTONIC at the request's first byte */
};

/* The i-th value of ?key=, percent-decoded, or NULL. Valid during the request. */
const char *request_query(const struct request *rq, const char *key, unsigned i);
const char *request_header(const struct request *rq, const char *name);
/* For which user of a guest the request is: X-Forkd-User, else ?username=, else NULL. */
const char *request_user(const struct request *rq);
const struct message *request_message(const struct request *rq);
/*
 * Whether nobody waits for the answer any more: the client has closed the connection, or the daemon
 * stops. For handlers that wait.
 */
bool request_gone(const struct request *rq);
/* What the rooms below rest/ see of the request. Valid during the request. */
struct origin request_origin(const struct request *rq);

struct reply {
	unsigned status;          /* 200 unless set */
	struct strbuf body;       /* JSON unless content_type says otherwise */
	const char *content_type; /* static */
	/*
	 * A stream instead of a body (server-sent events). `stream` adds to `out` what is new, without
	 * waiting; false: the stream ends. The front calls `stream` after each event and every few seconds,
	 * in any of its threads, until the client goes. `stream_done` frees `stream_arg`.
	 */
	bool (*stream)(void *arg, struct strbuf *out);
	void (*stream_done)(void *arg);
	void *stream_arg;
	/* Only for routes that stream: the request is passed on, and the answer is the other server's. */
	bool relays;
	struct relay_options relay; /* its head is released in any case */
};

struct http_options {
	const struct route *routes;
	unsigned n_routes;
	struct metrics *metrics; /* counts the requests; NULL: requests are not counted */
	const char *socket_path; /* NULL: none */
	int socket_fd;           /* inherited listening socket (systemd) instead of socket_path; -1: none */
	const char *listen_addr; /* "ADDR:PORT", NULL: none; "[::1]:80" too */
	const char *token_file, *tls_cert, *tls_key;
	const char *socket_group; /* NULL: the daemon's */
	bool insecure_plain_http; /* listen_addr may be a foreign address without TLS */
	unsigned max_connections; /* of each share (front/accept.h); 0: 1024, fewer where few files may be open */
	unsigned idle_s;          /* a silent connection is closed after so many seconds; 0: 60 */
	unsigned token_s;         /* a TCP connection must show the token within so many seconds; 0: 10 */
};

struct http_server;
/*
 * Starts the server. `d` goes to the handlers. `opt` is borrowed during the call; the routes and
 * the metrics that `opt` points to are borrowed until http_stop().
 */
MUST_CHECK int http_start(struct forkd *d, const struct http_options *opt, struct http_server **ret, struct err *err);
/* Where the server listens: "unix:/path https://127.0.0.1:8443". */
const char *http_where(const struct http_server *server);
/*
 * Stops accepting, waits 10 s at most for running handlers, cuts streams, and frees the server.
 * NULL is fine.
 */
void http_stop(struct http_server *server);

#endif
