// SPDX-License-Identifier: Apache-2.0
/*
 * One HTTP/1.1 request to a guest's agent, over a stream socket that leads to the agent. The guest
 * may be hostile: whatever comes is bounded, and checked before it is used. Any thread; nothing is
 * shared.
 */
#ifndef FORKD_AGENT_AGENT_HTTP_H
#define FORKD_AGENT_AGENT_HTTP_H

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
 * Sends a request, and reads the answer whole. `body` is a JSON object; NULL: none is sent. `fd` is
 * a stream socket that stays the caller's, and may carry several requests, one after the other.
 * E_TIMEOUT: the deadline (CLOCK_MONOTONIC, ns) has passed. E_AGENT: the agent hung up, or has sent
 * what is no answer. A status of 400 and above is no error here.
 */
struct agent_request {
	const char *method, *target;
	const struct strbuf *body;
	uint64_t deadline_ns;
};
MUST_CHECK int agent_send(int fd, const struct agent_request *rq, struct err *err);
MUST_CHECK int agent_receive(int fd, uint64_t deadline_ns, struct agent_answer *ret, struct err *err);
/* Both, one after the other. */
MUST_CHECK int agent_exchange(int fd, const struct agent_request *rq, struct agent_answer *ret, struct err *err);
/*
 * Fails with E_AGENT and the answer's own message, cut and made printable, when the status is not
 * `wanted`. `what` names the request.
 */
MUST_CHECK int agent_want(const struct agent_answer *a, unsigned wanted, const char *what, struct err *err);

#endif
