// SPDX-License-Identifier: Apache-2.0
/* Where the REST server listens, and what a TCP client must show: sockets, token, certificate. */
#ifndef FORKD_REST_LISTEN_H
#define FORKD_REST_LISTEN_H

#include "common/sock.h"
#include "forkd/rest/server.h"

struct http_listen {
	struct sock_listener local; /* unix socket; fd -1: none */
	int tcp_fd;                 /* -1: none */
	char *token;                /* heap; set with tcp_fd */
	char *cert, *key;           /* PEM; NULL: plain HTTP */
	char where[512];            /* "unix:/path https://127.0.0.1:8443" */
};

/*
 * Opens the sockets and reads the files of the options. *l must be zeroed. On failure nothing is
 * left open. http_listen_done() closes and frees.
 */
MUST_CHECK int http_listen_open(const struct http_options *opt, struct http_listen *l, struct err *err);
void http_listen_done(struct http_listen *l);
/*
 * Whether this is the value of a right Authorization header. The time that the function takes
 * depends on the length of the given token alone.
 */
bool http_token_right(const struct http_listen *l, const char *authorization);

#endif
