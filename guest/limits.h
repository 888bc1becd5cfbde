// SPDX-License-Identifier: Apache-2.0
/* The bounds of what one client can make the agent hold. docs/limits.md has a row for each of them. */
#ifndef GUEST_LIMITS_H
#define GUEST_LIMITS_H

enum {
	LIMIT_CONNECTIONS = 256, /* of one server; see server.h */
	LIMIT_HEAD = 32 << 10,   /* bytes of a request's line and headers, and of a chunked body's trailers */
	LIMIT_BODY = 4 << 20,    /* bytes of a body that a route wants whole */
	LIMIT_FRAME = 4 << 20,   /* bytes of one message of a Connect stream */
	LIMIT_HELD =
		32 << 20, /* bytes of all bodies that are wanted whole, messages and input for processes together */
	LIMIT_OUT = 256 << 10, /* bytes of an answer that the client has not taken yet; then the service has to wait */
	LIMIT_LEFTOVER = 64 << 10, /* bytes of later requests that came with an earlier one */
	LIMIT_SILENCE_S = 30,      /* a connection that waits for its client so long makes room for another one */
	LIMIT_LINGER_S = 2,        /* a refused client has so long to read the answer */
	LIMIT_PROCESSES = 1024,
	LIMIT_PROCESS_BYTES = 16 << 20, /* of the commands, arguments, variables of all processes, which List shows */
	LIMIT_ARGS = 65536,             /* of one process */
	LIMIT_ENVS = 2048,              /* that one request sets */
	LIMIT_OUTPUT = 64 << 10,        /* bytes of one event */
	LIMIT_WATCHERS = 256,           /* watches that clients have */
	LIMIT_WATCH_EVENTS = 256 << 10, /* bytes of changes that a collecting watch keeps; then the kernel does */
	LIMIT_HELPERS = 16,             /* listings and removals of files that run */
	LIMIT_GROUPS = 256,             /* of one user */
	LIMIT_DATABASE = 1 << 20,       /* bytes of /etc/passwd, of /etc/group */
};

#endif
