// SPDX-License-Identifier: Apache-2.0
/*
 * The HTTP/1.x server of the per-VM API, on a unix socket and on the main thread's event loop. Answers
 * are Cloud Hypervisor's, to the byte: no reason phrase, the same headers in the same order, and
 * connections stay open whatever the client asks. An error of this layer is answered with a JSON
 * object from "Firecracker API"; then no more requests are taken from the connection.
 * Every byte of a client is checked here. No client can make the loop wait. While a client does not
 * read the answers, the server does not read the client's requests either.
 */
#ifndef VMM_API_HTTP_H
#define VMM_API_HTTP_H

#include "common/json64.h"
#include "common/sock.h"
#include "vmm/core/loop.h"

enum {
	HTTP_CONNECTIONS_MAX = 10, /* a further connection is answered 503 */
	HTTP_LINE_MAX = 1024,      /* bytes of the request line and of each header line, CR LF included */
	HTTP_HEAD_MAX = 80 * 1024, /* all lines together (the parser's own limit) */
	HTTP_BODY_MAX = 4 << 20,
	HTTP_FDS_MAX = 1024, /* descriptors of one request */
};

struct http_request {
	const char *method; /* GET, PUT, PATCH or DELETE */
	const char *path;   /* as sent, a query included; without http://host */
	char *body;         /* body_len bytes and a NUL, writable; NULL when empty */
	size_t body_len;
	int *fds; /* came with the request; closed after the call, except where the handler sets -1 */
	uint32_t n_fds;
};

struct http_response {
	int status;
	struct strbuf body; /* JSON; not sent with 204 */
	bool stops_loop;    /* loop_stop(loop, 0) once this was sent */
};

/* Fills the zeroed response; must not touch the server. The request is valid during the call. */
typedef void http_handler(void *owner, struct http_request *request, struct http_response *response);

struct http_server;

/* `listen_fd` is non-blocking and stays the caller's; it must stay open until http_server_free(). */
struct http_server *http_server_new(struct loop *loop, int listen_fd, http_handler *handler, void *owner,
				    struct err *err);
/* Closes all connections; what was not sent yet is lost. NULL is fine. */
void http_server_free(struct http_server *server);

#endif
