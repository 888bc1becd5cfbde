// SPDX-License-Identifier: Apache-2.0
/*
 * What makes a clone itself: the daemon's side of the identity contract (docs/identity.md). The
 * daemon sends the guest's agent a new identity after the clone has resumed. The agent applies the
 * identity while all other processes are frozen, and proves with the nonce of this very request
 * that it has. Any thread; nothing is shared.
 */
#ifndef FORKD_AGENT_IDENTITY_H
#define FORKD_AGENT_IDENTITY_H

#include "common/agent_ports.h"
#include "common/field.h"
#include "forkd/agent/dial.h"

enum { AGENT_PROTOCOL = 1, NONCE_HEX = 32 }; /* AGENT_PROTOCOL: what is spoken on AGENT_PRIVATE_PORT */

/* overrides.identity: what a request wants of the guest; NULL members: the daemon's choice, or nothing. */
struct identity_wish {
	bool given; /* the request has the object */
	char *hostname, *machine_id, *default_user;
	char *env, *files; /* JSON text of an object, and of an array */
};
/*
 * Loads and checks overrides.identity; `node` NULL: nothing is wished. E_BAD_OVERRIDE names the
 * member, never its value. identity_wish_done() frees *ret, also after a failure, and wipes values
 * that may be secret.
 */
MUST_CHECK int identity_wish_load(const struct json_node *node, struct identity_wish *ret, struct err *err);
void identity_wish_done(struct identity_wish *w);
MUST_CHECK int identity_wish_copy(const struct identity_wish *from, struct identity_wish *ret, struct err *err);
/* Whether the wish has values that nobody else may see: env and files. */
bool identity_wish_is_secret(const struct identity_wish *w);

/* What the agent says of itself. */
struct agent_hello {
	char *agent; /* its version; printable */
	uint32_t protocol;
};
extern const struct field agent_hello_fields[];
/* What asks the agent who it is, on its private port; and that as what is dialled, but for the time. */
extern const char agent_hello_request[];
extern const struct dial_to agent_hello_to;
/*
 * Reads the answer to agent_hello_request, which was sent on `fd`. E_VERSION: it speaks another
 * protocol. fields_free(agent_hello_fields, ret) frees what *ret holds.
 */
MUST_CHECK int agent_hello(int fd, uint64_t deadline_ns, struct agent_hello *ret, struct err *err);
/* Has every process but the agent's own stopped, and the guest's files written. */
MUST_CHECK int agent_freeze(int fd, uint64_t deadline_ns, struct err *err);
/* Sets the guest's wall clock and lets the processes go on. */
MUST_CHECK int agent_thaw(int fd, uint64_t deadline_ns, struct err *err);

/*
 * Sends a new identity: random bits for the kernel, ids, the wall clock, what the wish says.
 * `hostname` unless the wish has one. `thaw` false: the processes stay frozen. ret_nonce: for
 * identity_await().
 */
MUST_CHECK int identity_send(int fd, const char *hostname, const struct identity_wish *w, bool thaw,
			     uint64_t deadline_ns, char ret_nonce[NONCE_HEX + 1], struct err *err);
/* Waits until the agent has acknowledged with the nonce. An error names the step that failed in the guest. */
MUST_CHECK int identity_await(int fd, const char *nonce, uint64_t deadline_ns, struct err *err);

#endif
