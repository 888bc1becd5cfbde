// SPDX-License-Identifier: Apache-2.0
/*
 * The Connect protocol, version 1, with its JSON codec and without compression: calls with one request
 * message, answered by one message (STYLE_UNARY, application/json) or by a stream of them (STYLE_STREAM,
 * application/connect+json). Messages of a stream are framed: 1 byte of flags, 4 bytes of length, big-endian.
 * The last frame has flag 2 and tells how the call has ended; the HTTP status of a stream is always 200.
 * The loop's thread.
 */
#ifndef GUEST_CONNECT_H
#define GUEST_CONNECT_H

#include "common/json64.h"
#include "guest/http.h"

enum connect_code {
	CONNECT_CANCELED,
	CONNECT_UNKNOWN,
	CONNECT_INVALID_ARGUMENT,
	CONNECT_DEADLINE_EXCEEDED,
	CONNECT_NOT_FOUND,
	CONNECT_ALREADY_EXISTS,
	CONNECT_PERMISSION_DENIED,
	CONNECT_RESOURCE_EXHAUSTED,
	CONNECT_FAILED_PRECONDITION,
	CONNECT_UNIMPLEMENTED,
	CONNECT_INTERNAL,
	CONNECT_UNAVAILABLE,
	CONNECT_UNAUTHENTICATED,
};

/*
 * The request's message, which is an object, from the whole body: as it is (STYLE_UNARY), or the one frame in
 * it (STYLE_STREAM). `json` holds the nodes and starts zeroed. NULL: it was none, and that was answered.
 */
MUST_CHECK const struct json_node *connect_request(struct exchange *ex, struct json *json);
/* Has the request the content type of its route's style, and no compression? false: that was answered. */
MUST_CHECK bool connect_is_call(struct exchange *ex);
/*
 * The call's deadline, from now, by the header Connect-Timeout-Ms. 0: there is none; 0 ms are none. false: the header is
 * malformed, and that was answered.
 */
MUST_CHECK bool connect_timeout(struct exchange *ex, uint64_t *ret_ns);

/* How often a stream has to say that it is there: by the header Keepalive-Ping-Interval, in seconds; or 90 s. */
uint64_t connect_keepalive_ns(const struct exchange *ex);

/* Answers a unary call with an object. */
void connect_reply(struct exchange *ex, const char *json, size_t len);
/* Answers any call with an error; a stream may have begun. */
void connect_fail(struct exchange *ex, enum connect_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The same with what `err` says; the code is the one that fits its. */
void connect_fail_err(struct exchange *ex, const struct err *err);

/* Begins the answer of a STYLE_STREAM call. A client that sends no more is taken for gone from now on. */
void stream_begin(struct exchange *ex);
/* One message; it may be more than ex_room() says. */
void stream_message(struct exchange *ex, const char *json, size_t len);
/* Ends the stream well; connect_fail() ends it with an error. */
void stream_end(struct exchange *ex);

#endif
