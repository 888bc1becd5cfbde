// SPDX-License-Identifier: Apache-2.0
/*
 * The agent's private port: what the daemon alone may ask, in HTTP with JSON. docs/identity.md has
 * the table. Bodies with unknown members are refused. The loop's thread.
 */
#ifndef GUEST_PRIVATE_H
#define GUEST_PRIVATE_H

#include "guest/generation.h"
#include "guest/groups.h"
#include "guest/http.h"
#include "guest/job.h"
#include "guest/personalize.h"
#include "guest/tunnel.h"

struct field;

enum { PRIVATE_PROTOCOL = 1, PRIVATE_BODY_MAX = 1 << 20 };

struct freeze_request {
	bool sync, fsfreeze;
};

/* What the private port needs; one for the agent. */
struct private
{
	int root_fd; /* / */
	bool is_init;
	bool after_pending; /* an identity was applied without a thaw: hooks are still to be run */
	struct groups groups;
	struct tunnels tunnels;
	struct generation generation;
	struct personalize personalize;
	struct job job;               /* freeze, fsthaw */
	struct exchange *job_ex;      /* who waits for it; NULL: the client is gone */
	struct freeze_request freeze; /* the last one */
};

#define PRIVATE_NONE                                                    \
	{                                                               \
		.root_fd = -1, .groups = {.top_fd = -1, .user_fd = -1 } \
	}

extern const struct route private_routes[];

/* Takes up what an earlier agent has left: frozen groups and the generation's file. */
MUST_CHECK int private_open(struct private *private, bool is_init, struct err *err);
void private_close(struct private *private);
/* false: an identity, a freeze or the like is under way, and that was answered (409). */
MUST_CHECK bool private_free(struct exchange *ex);
/* The HTTP status for an error. */
int private_status(const struct err *err);

/*
 * Loads the JSON object in the request's body with a field table; *obj is initialised by it. An
 * empty body is an empty object. false: it was wrong, and that was answered.
 */
MUST_CHECK bool private_body(struct exchange *ex, const struct field *rows, void *obj);

#endif
