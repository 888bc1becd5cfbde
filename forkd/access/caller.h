// SPDX-License-Identifier: Apache-2.0
/* Who asks for something, and what came with the request beside its body: all that the rooms below REST see of one. Plain data. */
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

/* The caller that a clone's owner is, when its own VM process asks for something; OWNER_REMOTE (registry/record.h) is nobody here. */
struct caller caller_from_owner(uid_t uid, gid_t gid);
/*
 * As whom the daemon opens what the caller names, and whose the files are that it makes for him. *ret_as_caller false: the daemon. That
 * does for its own user, for the token, which is no account here, and for root, who can use files of everybody. All others: the
 * caller; only root's daemon can do so, another one says E_OTHER_USER.
 */
MUST_CHECK int caller_act_as(const struct caller *c, bool *ret_as_caller, struct err *err);

/* Valid during the request. */
struct origin {
	const struct caller *caller;
	uint64_t accepted_ns; /* CLOCK_MONOTONIC at the request's first byte */
	int *fds;             /* descriptors that came with it; whoever keeps one sets it to -1 here */
	uint32_t n_fds;
	bool (*gone)(const void *request); /* nobody waits for the answer any more */
	const void *request;
};
bool origin_gone(const struct origin *o); /* NULL: nobody waits anyway, but nobody went: false */

#endif
