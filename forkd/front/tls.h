// SPDX-License-Identifier: Apache-2.0
/*
 * TLS 1.3 and 1.2 for connections that come in, by GnuTLS, on non-blocking sockets. A session is used
 * by one thread at a time.
 */
#ifndef FORKD_FRONT_TLS_H
#define FORKD_FRONT_TLS_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/err.h"

struct tls_server;
struct tls;

/* `cert` and `key` are PEM texts, borrowed during the call. */
MUST_CHECK int tls_server_new(const char *cert, const char *key, struct tls_server **ret, struct err *err);
/* No session may be left. NULL is fine. */
void tls_server_free(struct tls_server *server);

/* A session on a connected socket, which stays the caller's. */
MUST_CHECK int tls_new(struct tls_server *server, int fd, struct tls **ret, struct err *err);
/* NULL is fine. */
void tls_free(struct tls *t);
/* 0: done; -EAGAIN: wait for the socket as tls_wants_write() says, and call again; else it has failed. */
MUST_CHECK int tls_handshake(struct tls *t);
bool tls_wants_write(const struct tls *t);
/* As recv() and send() without a wait: bytes; 0: the client has ended its side; -EAGAIN; -errno. */
MUST_CHECK ssize_t tls_recv(struct tls *t, void *buf, size_t size);
/* After -EAGAIN the next call must be with the same bytes, or more. */
MUST_CHECK ssize_t tls_send(struct tls *t, const void *buf, size_t len);
/* Whether bytes have been read from the socket that tls_recv() has not given yet. */
bool tls_has_more(const struct tls *t);
/* Says that nothing more will be sent, if that can be said without a wait. */
void tls_end(struct tls *t);

#endif
