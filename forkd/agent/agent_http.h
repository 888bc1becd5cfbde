// SPDX-License-Identifier: Apache-2.0
/*
 * One HTTP/1.1 request to a guest's agent, over a stream socket that leads to the agent. The guest
 * may be hostile: whatever comes is bounded, and checked before it is used. Any thread; nothing is
 * shared.
 */
#ifndef FORKD_AGENT_AGENT_HTTP_H
#define FORKD_AGENT_AGENT_HTTP_H

#include <http_parser.h>

#include "common/err.h"
#include "common/json64.h"

enum { AGENT_ANSWER_MAX = 256 * 1024 }; /* bytes of an answer's body */

/* An answer, whose body was JSON. Zeroed before use; released by agent_answer_done(). */
struct agent_answer {
	unsigned status;
	struct strbuf text; /* the body; the JSON points into this text */
	struct json json;
	const struct json_node *body; /* root object; NULL: the body was empty */
};
void agent_answer_done(struct agent_answer *a);
#define autoanswer __attribute__((cleanup(agent_answer_done)))

/*
 * Sends a request, and reads the answer whole. `body` is a JSON object, unless `type` says what else;
 * NULL: none is sent. `fd` is a stream socket that stays the caller's, and may carry several requests,
 * one after the other. E_TIMEOUT: the deadline (CLOCK_MONOTONIC, ns) has passed. E_AGENT: the agent
 * hung up, or has sent what is no answer. A status of 400 and above is no error here.
 */
struct agent_request {
	const char *method, *target;
	const struct strbuf *body;
	uint64_t deadline_ns;
	const char *type;   /* Content-Type of the body; NULL: application/json */
	const char *fields; /* "Name: value\r\n" …; NULL: none */
};
/* The request as it is sent; for a request that is sent in another way. */
void agent_request_text(const struct agent_request *rq, struct strbuf *out);
/*
 * Adds the header field that names the user of a request: "Authorization: …\r\n". `user` NULL or "":
 * nothing is added. E_INVALID: it cannot be a name.
 */
MUST_CHECK int agent_user_field(const char *user, struct strbuf *out, struct err *err);
bool agent_user_is_name(const char *user);
MUST_CHECK int agent_send(int fd, const struct agent_request *rq, struct err *err);
MUST_CHECK int agent_send_text(int fd, const char *text, size_t len, uint64_t deadline_ns, struct err *err);
MUST_CHECK int agent_receive(int fd, uint64_t deadline_ns, struct agent_answer *ret, struct err *err);
/* Both, one after the other. */
MUST_CHECK int agent_exchange(int fd, const struct agent_request *rq, struct agent_answer *ret, struct err *err);
/*
 * Fails with E_AGENT and the answer's own message when the status is not `wanted`. `what` names the
 * request.
 */
MUST_CHECK int agent_want(const struct agent_answer *a, unsigned wanted, const char *what, struct err *err);
/* The guest's `message`, cut and made printable; "" if there is none. Returns `buf`. */
enum { AGENT_SHOWN_BYTES = 300 };
const char *agent_message(const struct json_node *body, char buf[AGENT_SHOWN_BYTES]);

/*
 * An answer that is read piece by piece, as it comes. agent_stream_begin() once, then
 * agent_stream_take() whenever the socket is readable: it takes what is there without a wait, and gives
 * the body to `body`, which returns a negative number to stop. Returns 1: the answer is whole; 0: more
 * is to come; or a negative number: E_AGENT, or the error of `body`.
 */
typedef int agent_body_fn(void *arg, const char *bytes, size_t len, struct err *err);
struct agent_stream {
	struct http_parser parser; /* .status_code: once `body` is called */
	agent_body_fn *body;
	void *arg;
	struct err *err; /* during a call */
	bool whole, stopped;
};
void agent_stream_begin(struct agent_stream *s, agent_body_fn *body, void *arg);
MUST_CHECK int agent_stream_take(struct agent_stream *s, int fd, struct err *err);

#endif
