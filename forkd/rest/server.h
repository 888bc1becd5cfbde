// SPDX-License-Identifier: Apache-2.0
/*
 * The REST server: libmicrohttpd with one thread a connection, so that a handler may wait. Connections are accepted here, because
 * descriptors that come with the first byte of a request would be lost in libmicrohttpd's recv(). Checks what needs no look
 * into the body: route, method, token, length, content type. Everything else is the handler's.
 */
#ifndef FORKD_REST_SERVER_H
#define FORKD_REST_SERVER_H

#include <stdint.h>
#include <sys/types.h>

#include "common/json64.h"
#include "forkd/access/caller.h"
#include "forkd/route.h"

struct forkd;
struct metrics;

enum { HTTP_BODY_MAX = 8 << 20, HTTP_PARAM_MAX = 2 };

struct request {
	const char *method, *path; /* path percent-decoded, without the query */
	const struct route *route;
	char param[HTTP_PARAM_MAX][256]; /* what stood for {…}; valid UTF-8 without control characters */
	struct json_node *body;          /* root object; NULL: no body came */
	struct json json;
	char *text; /* of the body; the JSON points into it */
	size_t text_len;
	int *fds; /* came with the request's first byte; those that are not set to -1 are closed afterwards */
	uint32_t n_fds;
	struct caller caller;
	uint64_t accepted_ns; /* CLOCK_MONOTONIC at the request's first byte */
	void *connection;     /* struct MHD_Connection */
};

/* The value of ?key=, percent-decoded, or NULL. Valid during the request. `i`: the i-th one of that name. */
const char *request_query(const struct request *rq, const char *key, unsigned i);
const char *request_header(const struct request *rq, const char *name);
/* Nobody waits for the answer any more: the client closed its connection, or the daemon stops. For handlers that wait. */
bool request_gone(const struct request *rq);
/* What the rooms below see of it. */
struct origin request_origin(const struct request *rq);

struct reply {
	unsigned status;          /* 200 unless set */
	struct strbuf body;       /* JSON unless content_type says otherwise */
	const char *content_type; /* static */
	/*
	 * A stream instead of a body (server-sent events): called from the connection's thread until it returns false or the client
	 * goes; waits itself, 1 s at most a call; adds to `out`.
	 */
	bool (*stream)(void *arg, struct strbuf *out);
	void (*stream_done)(void *arg);
	void *stream_arg;
};

struct http_options {
	const struct route *routes;
	unsigned n_routes;
	struct metrics *metrics; /* counts the requests; NULL: nobody does */
	const char *socket_path; /* NULL: none */
	int socket_fd;           /* inherited listening socket (systemd) instead of socket_path; -1: none */
	const char *listen_addr; /* "ADDR:PORT", NULL: none; "[::1]:80" too */
	const char *token_file, *tls_cert, *tls_key;
	const char *socket_group; /* NULL: the daemon's */
	bool insecure_plain_http; /* listen_addr may be a foreign address without TLS */
	unsigned max_connections; /* of each share (accept.h); 0: 1024, fewer where few files may be open */
	unsigned idle_s;          /* a silent connection is closed after that; 0: 60 */
	unsigned token_s;         /* a TCP connection that has not shown the token is closed after that; 0: 10 */
};

struct http_server;
/* `d` goes to the handlers; `opt` and what it points to are used during the call, but for the routes and the metrics. */
MUST_CHECK int http_start(struct forkd *d, const struct http_options *opt, struct http_server **ret, struct err *err);
/* "unix:/path https://127.0.0.1:8443": where it listens. */
const char *http_where(const struct http_server *server);
/* Stops accepting, lets running handlers end (for 10 s at most; streams are cut), frees. NULL is fine. */
void http_stop(struct http_server *server);

#endif
