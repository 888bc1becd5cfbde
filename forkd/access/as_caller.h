// SPDX-License-Identifier: Apache-2.0
/*
 * Opens and connects with the rights of a caller. A child of the daemon takes the uid, the gid and
 * the groups of the caller, calls one function, and hands back a descriptor. So the kernel decides
 * what the caller may reach, and not a check of the daemon before. Any thread.
 */
#ifndef FORKD_ACCESS_AS_CALLER_H
#define FORKD_ACCESS_AS_CALLER_H

#include <stdint.h>
#include <sys/types.h>

/*
 * What the child does. Returns a descriptor, or -errno. The child is the copy of one thread of
 * many, so the function makes system calls only: no malloc, no lock, no log.
 */
typedef int (*as_caller_fn)(const void *arg);

/*
 * Runs fn(arg) in a child with the rights of `uid`. Returns the descriptor that the child got,
 * close-on-exec, or -errno; whoever called as_caller() closes the descriptor. A child that does not
 * answer for some seconds is killed: -ETIMEDOUT. `uid` itself can neither stop nor end the child.
 * `gid` (gid_t)-1 stands for the group of the account. A daemon that is not root has only its own user's rights:
 * -EPERM for another uid.
 */
int as_caller(uid_t uid, gid_t gid, as_caller_fn fn, const void *arg);

#endif
