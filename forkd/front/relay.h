// SPDX-License-Identifier: Apache-2.0
/*
 * A request that is passed through to a server behind a stream socket, such as an agent in a guest, and
 * that server's response. Bytes go both ways in the threads of the pool, through two buffers of
 * RELAY_BYTES; who is too slow holds the other side up. Both messages are read, and framed anew: what
 * could be read in two ways reaches nobody, and ends both connections. The server is not trusted. A
 * connection to it carries one request.
 * In the thread of the connection's source.
 */
#ifndef FORKD_FRONT_RELAY_H
#define FORKD_FRONT_RELAY_H

#include "forkd/front/conn.h"

enum {
	RELAY_BYTES = 64 * 1024,
	RELAY_HEAD_MAX = 32 * 1024, /* status line and headers of a response */
	RELAY_INTERIM_MAX = 16,     /* responses of status 1xx before the last one */
};

enum step relay_step(struct conn *c);
/* The relay of the connection, if there is one, ends. */
void relay_end(struct conn *c);

#endif
