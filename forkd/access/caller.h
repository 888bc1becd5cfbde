// SPDX-License-Identifier: Apache-2.0
/*
 * The caller of a request, and what came with the request beside its body. The rooms below rest/
 * see nothing else of a request. Plain data.
 */
#ifndef FORKD_ACCESS_CALLER_H
#define FORKD_ACCESS_CALLER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

struct caller {
	bool local;   /* unix socket: uid, gid and pid are its peer credentials */
	bool trusted; /* local, and root or the daemon's own user: may name any path */
	uid_t uid;
	gid_t gid;
	pid_t pid;
};

/*
 * The owner of a clone as a caller, for what the clone's VM process asks for. The owner
 * OWNER_REMOTE (registry/record.h) has no account on this host, and is not local.
 */
struct caller caller_from_owner(uid_t uid, gid_t gid);
/*
 * With whose rights the daemon opens what the caller names, and to whom the files belong that the
 * daemon makes for the caller. *ret_as_caller true: the caller's; false: the daemon's. The daemon's
 * rights serve the daemon's own user, root, who can use everybody's files, and the token, which is
 * no account of this host. Every other caller has its own rights. Only a daemon that runs as root
 * can act with another user's rights; any other daemon returns E_OTHER_USER.
 */
MUST_CHECK int caller_act_as(const struct caller *c, bool *ret_as_caller, struct err *err);

/* Valid during the request. */
struct origin {
	const struct caller *caller;
	uint64_t accepted_ns; /* CLOCK_MONOTONIC at the request's first byte */
	int *fds;             /* came with the request; whoever keeps a descriptor sets its entry to -1 */
	uint32_t n_fds;
	bool (*gone)(const void *request); /* nobody waits for the answer any more */
	const void *request;
};
bool origin_gone(const struct origin *o); /* `o` NULL: no caller ever waited, so false */

#endif
