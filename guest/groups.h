// SPDX-License-Identifier: Apache-2.0
/*
 * The control groups of the guest: one for the agent itself, one for the processes that the agent
 * starts, and the freezing of all others. Version 2 of cgroups, or the freezer of version 1 where
 * there is no other. The agent's thread, but for groups_freeze(), which waits.
 *
 * The agent begins in the group B that init has put it into. It makes B/agent and B/user there, or
 * forkd/agent and forkd/user when B is the root, and goes to the former. To freeze is to go down the
 * path from the root to the agent's group and to freeze all that lies beside the path, but for
 * init.scope, where systemd itself is. The root cannot be frozen: processes that are in it go to the
 * group forkd.loose first, except PID 1 and the kernel's.
 */
#ifndef GUEST_GROUPS_H
#define GUEST_GROUPS_H

#include <limits.h>
#include <stdint.h>

#include "common/err.h"
#include "common/json64.h"

enum { GROUPS_MAX = 1024 }; /* that are frozen at a time */

struct group_kind; /* how a version of cgroups says it */

struct groups {
	const struct group_kind *kind; /* NULL: the guest has none; nothing can be frozen */
	int top_fd;                    /* the hierarchy's root */
	int user_fd;                   /* cgroup.procs of the group of those that the agent starts; -1: none */
	int root_fd;                   /* /, for the list that outlives the agent; the caller's */
	int agent_pid;
	char own[PATH_MAX], user[PATH_MAX]; /* the two groups, below top_fd */
	struct strbuf frozen;               /* paths below top_fd, each with a newline; empty: nothing is frozen */
};

/*
 * Finds the hierarchy, makes the groups and enters them. Without a hierarchy this succeeds with kind
 * NULL. What an earlier agent has frozen counts as frozen.
 */
MUST_CHECK int groups_open(struct groups *groups, int root_fd, struct err *err);
void groups_close(struct groups *groups);

/* Whether anything is frozen. */
bool groups_frozen(const struct groups *groups);
/*
 * For a child that is to run a program: enters the group for started processes. The child stands
 * still in there while the group is frozen. Calls write() alone. Returns 0 or -errno.
 */
MUST_CHECK int groups_enter_user(const struct groups *groups);

/*
 * Freezes, and waits until every process stands still, until CLOCK_MONOTONIC is deadline_ns at most.
 * What is frozen already counts. Returns the number of groups. On failure all that was frozen is thawed again. May be called in a
 * child of the agent: groups_read() then tells the agent.
 */
MUST_CHECK int groups_freeze(struct groups *groups, uint64_t deadline_ns, struct err *err);
/* Takes the list of what is frozen from the file that groups_freeze() left. */
MUST_CHECK int groups_read(struct groups *groups, struct err *err);
/* Thaws what is frozen. A group that is gone is none. On failure the rest is thawed nevertheless. */
MUST_CHECK int groups_thaw(struct groups *groups, struct err *err);

#endif
