// SPDX-License-Identifier: Apache-2.0
/* The bounds of what one client can make the agent hold. docs/limits.md has a row for each of them. */
#ifndef GUEST_LIMITS_H
#define GUEST_LIMITS_H

enum {
	LIMIT_CONNECTIONS = 256, /* of one server; see server.h */
	LIMIT_HEAD = 32 << 10,   /* bytes of a request's line and headers, and of a chunked body's trailers */
	LIMIT_BODY = 4 << 20,    /* bytes of a body that a route wants whole */
	LIMIT_FRAME = 4 << 20,   /* bytes of one message of a Connect stream */
	LIMIT_OUT = 256 << 10, /* bytes of an answer that the client has not taken yet; then the service has to wait */
	LIMIT_LEFTOVER = 64 << 10, /* bytes of later requests that came with an earlier one */
	LIMIT_SILENCE_S = 30,      /* a connection that waits for its client so long makes room for another one */
	LIMIT_LINGER_S = 2,        /* a refused client has so long to read the answer */
	LIMIT_GROUPS = 256,        /* of one user */
	LIMIT_DATABASE = 1 << 20,  /* bytes of /etc/passwd, of /etc/group */
};

#endif
