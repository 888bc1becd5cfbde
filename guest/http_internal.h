// SPDX-License-Identifier: Apache-2.0
/*
 * A connection, as the files of the HTTP server see it: server.c accepts and evicts, connection.c reads,
 * writes and goes from one request to the next, request.c reads a request, exchange.c is what services call.
 */
#ifndef GUEST_HTTP_INTERNAL_H
#define GUEST_HTTP_INTERNAL_H

#include <http_parser.h>
#include <sys/uio.h>

#include "common/json64.h"
#include "guest/server.h"

enum answer_state { ANSWER_NONE, ANSWER_BEGUN, ANSWER_ENDED };

struct connection {
	struct watch watch; /* fd owned */
	uint32_t events;    /* what the watch waits for */
	struct server *server;
	struct connection *next, **link;
	struct timer kick; /* the connection has to be looked at, in the next round */
	struct timer linger;
	uint64_t silent_since_ns; /* the client's last byte, in either direction */

	/* the request */
	http_parser parser;
	bool head_done, complete; /* complete: all of it was read */
	bool begun;               /* the route's begin() was called */
	bool paused;              /* by ex_pause_body() */
	struct strbuf url;
	struct strbuf fields; /* name, NUL, value, NUL …; query parameters in the same way */
	struct strbuf query;
	bool in_value;
	struct strbuf body;
	size_t held;            /* bytes of the body, which count in the agent's budget */
	struct strbuf leftover; /* read behind the request's end */
	struct exchange ex;

	/* the answer */
	enum answer_state answer;
	bool chunked, no_body; /* no_body: HEAD */
	int64_t owed;          /* bytes of the promised length that are not written yet; -1: no length */
	bool wants_drain;
	char *out; /* not sent yet: out_len bytes at out + out_at */
	size_t out_at, out_len, out_cap;

	bool hup_seen;    /* the client sends no more; there may be bytes that are not read yet */
	bool half_closed; /* and all is read */
	bool last;        /* close after this answer */
	bool lingering;   /* all is said; what still comes is thrown away */
	bool broken;      /* the connection is of no use any more */
	bool taken;       /* by ex_take_over() */
};

static inline struct connection *connection_of(const struct exchange *ex)
{
	return container_of((struct exchange *)(uintptr_t)ex, struct connection, ex);
}

/* connection.c */
/* Takes `fd` over, also on failure: NULL. */
struct connection *connection_new(struct server *s, int fd);
void connection_free(struct connection *c);
/* Looks at the connection in the next round. */
void connection_kick(struct connection *c);
/* Sends what it can in this round, and buffers the rest. */
void connection_send(struct connection *c, const struct iovec *iov, int n);
/* Sends all at once, before the socket is given away; a client that does not read is cut off. */
void connection_flush(struct connection *c);
/* Could another connection have the place of this one, and since when it waits for its client? */
bool connection_is_idle(const struct connection *c, uint64_t *ret_since_ns);

/* exchange.c */
/* Adds a message for people as a JSON string. Its end may have been cut off; what is no UTF-8 becomes '?'. */
void message_json(struct strbuf *b, char *message);

/* request.c */
/* Gives bytes to the parser: up to the end of one request. How many were taken. */
size_t request_feed(struct connection *c, const char *bytes, size_t len);
/* The request has come whole: hands it to its route, when that is still to be done. */
void request_end(struct connection *c);
/* Makes the connection ready for the next request. */
void request_reset(struct connection *c);

#endif
