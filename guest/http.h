// SPDX-License-Identifier: Apache-2.0
/*
 * HTTP/1.1 for the agent's services: routes, and exchanges, which are one request and its answer
 * (RFC 9112). The server (guest/server.h) owns connections and exchanges. A service gets an exchange
 * in its route's begin() and keeps the pointer until it has called ex_answer(), ex_end(), ex_fail() or
 * ex_take_over(), or on_gone() was called: after each of them the exchange must not be touched any more.
 * The loop's thread. No function here calls back into the service.
 */
#ifndef GUEST_HTTP_H
#define GUEST_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "guest/agent.h"
#include "guest/users.h"

struct exchange;

enum body_mode {
	BODY_NONE,   /* begin() is called at the request's end; a body is thrown away */
	BODY_WHOLE,  /* begin() is called when all of the body is in ex->body */
	BODY_STREAM, /* begin() is called after the head; the body goes to on_body() */
};

/* How errors are told. */
enum style {
	STYLE_PLAIN,  /* {"code": 404, "message": "…"} with that status */
	STYLE_UNARY,  /* a Connect call with one answer; see guest/connect.h */
	STYLE_STREAM, /* a Connect call that is answered by a stream */
};

struct route {
	const char *method, *path; /* the path without a query; method NULL: the end of a table */
	enum body_mode body;
	enum style style;
	size_t body_max; /* of BODY_WHOLE; 0: LIMIT_BODY */
	void (*begin)(struct exchange *ex);
};

struct exchange {
	struct agent *agent;
	const struct route *route;
	char *body; /* BODY_WHOLE: writable, with a NUL behind; never NULL then */
	size_t body_len;
	/* The service's own. Callbacks that are NULL are not called; none is called after the answer's end. */
	void *state;
	void (*on_body)(struct exchange *ex, const char *data, size_t len); /* takes all of it */
	void (*on_body_end)(struct exchange *ex);                           /* the request has come whole */
	void (*on_drain)(struct exchange *ex); /* the answer's buffer, which had no room, is empty again */
	void (*on_gone)(struct exchange *ex);  /* the client is gone, or breaks off its request */
	bool ends_with_client; /* a client that sends no more is gone, though it may still read: for endless answers */
};

/* ---- the request; all strings live as long as the exchange ---- */

/* A header's value; `name` is lower-case. NULL: the header is not there. Of several ones the first. */
const char *ex_header(const struct exchange *ex, const char *name);
/* The n-th header, to look for those with a prefix: its lower-case name, and its value. false: there are no more. */
bool ex_header_at(const struct exchange *ex, size_t n, const char **ret_name, const char **ret_value);
/* A parameter of the query, decoded: valid UTF-8 without NUL. NULL: the parameter is not there. Of several ones the first. */
const char *ex_query(const struct exchange *ex, const char *name);
/* Content-Length, or -1: the length is not known before (chunked). 0: no body. */
int64_t ex_body_length(const struct exchange *ex);
/*
 * The user whom the request is for: by HTTP Basic credentials (RFC 7617; the password is not looked at), by
 * the parameter `username`, or the default user. ERR_NOT_FOUND: there is none of that name; ERR_INVALID: the
 * credentials are malformed.
 */
MUST_CHECK int ex_user(const struct exchange *ex, struct user *ret_user, struct err *err);
/*
 * Stops reading the body. What was read already still goes to on_body(): 64 KiB at most.
 * After ex_resume_body() the body goes on in a later round of the loop.
 */
void ex_pause_body(struct exchange *ex);
void ex_resume_body(struct exchange *ex);

/* ---- the answer ---- */

/* The whole answer. type NULL: no body, for 204 and the like. */
void ex_answer(struct exchange *ex, int status, const char *type, const char *bytes, size_t len);
/* {"code": status, "message": …}, whatever the route's style. */
void ex_fail(struct exchange *ex, int status, const char *fmt, ...) PRINTF_LIKE(3, 4);
/*
 * Begins an answer in pieces. `headers`: whole lines, "Name: value\r\n…", or NULL. `length` bytes follow;
 * -1: chunked.
 */
void ex_begin(struct exchange *ex, int status, const char *type, const char *headers, int64_t length);
/*
 * Sends or buffers a piece. All is taken: a service that writes only while ex_room() is not 0 has at most
 * LIMIT_OUT bytes and one piece buffered. With a length given, no more bytes than that may be written.
 */
void ex_write(struct exchange *ex, const void *bytes, size_t len);
/* The same with two parts of one piece. */
void ex_write2(struct exchange *ex, const void *first, size_t first_len, const void *bytes, size_t len);
/* Bytes that fit into the answer's buffer. 0: on_drain() will be called. */
size_t ex_room(const struct exchange *ex);
/* Lets others come first: on_drain() is called in a later round, when the buffer is empty. */
void ex_yield(struct exchange *ex);
/* Ends the answer. Fewer bytes than were promised: the connection is closed, so that the client sees it. */
void ex_end(struct exchange *ex);
/* Breaks the answer off: the connection is closed, and the client sees an answer that is not whole. */
void ex_abort(struct exchange *ex);
/*
 * Gives the connection away, to speak another protocol on it (after an answer with 101, which the new owner
 * writes). Returns the non-blocking socket, and what the client sent behind the request's head (on the heap,
 * NULL when there is none). For BODY_NONE.
 */
int ex_take_over(struct exchange *ex, char **ret_bytes, size_t *ret_len);

#endif
