// SPDX-License-Identifier: Apache-2.0
/*
 * Opening and connecting with somebody else's rights: a child of the daemon takes the uid, the gid and the groups of the caller, does the
 * one thing, and hands back a descriptor. So the kernel decides what the caller may reach, and not a check of ours before. Any thread.
 */
#ifndef FORKD_ACCESS_AS_CALLER_H
#define FORKD_ACCESS_AS_CALLER_H

#include <stdint.h>
#include <sys/types.h>

/*
 * What the child does: a descriptor, or -errno. It is the copy of one thread of many, so it calls nothing but system calls: no malloc, no
 * lock, no log.
 */
typedef int (*as_caller_fn)(const void *arg);

/* The descriptor that the child got, close-on-exec and the caller's; or -errno. `gid` (gid_t)-1: that of the account.
 * A daemon that is not root has no rights but its
 * own: -EPERM for another uid. */
int as_caller(uid_t uid, gid_t gid, as_caller_fn fn, const void *arg);

#endif
