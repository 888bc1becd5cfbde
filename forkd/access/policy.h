// SPDX-License-Identifier: Apache-2.0
/*
 * Which host paths a caller may name: root and the daemon's own user any that the daemon can open; everybody else only those below
 * the roots of --allow-path, with the rights of his own account, and without a symbolic link on the way unless it is said here. Read-only
 * after its start, so safe from every thread.
 */
#ifndef FORKD_ACCESS_POLICY_H
#define FORKD_ACCESS_POLICY_H

#include "common/err.h"
#include "forkd/access/caller.h"

struct policy;

/* Opens the roots. One that does not exist is an error that names it. */
MUST_CHECK int policy_new(char *const *roots, uint32_t n_roots, struct policy **ret, struct err *err);
void policy_free(struct policy *p);

/*
 * open(path, flags | O_CLOEXEC) for that caller; with O_CREAT the file gets mode 0600. The path must be absolute, without "..".
 * E_FORBIDDEN outside of the roots, E_OTHER_USER where the daemon has not the caller's rights to use, E_INVALID for a path of the wrong shape, E_NOT_FOUND never: what is missing below a
 * root is the caller's E_INVALID.
 */
MUST_CHECK int policy_open(const struct policy *p, const struct caller *c, const char *path, int flags, int *ret_fd,
			   struct err *err);
/*
 * What is only read. Links are followed for who has rights of his own here: root, the daemon's user, and a local user, whose link
 * must lead below a root again (E_FORBIDDEN); he may read what his account may. A descriptor, or < 0.
 *
 * A directory: for policy_open_source() alone, it cannot be read itself.
 */
MUST_CHECK int policy_open_source_dir(const struct policy *p, const struct caller *c, const char *path,
				      struct err *err);
/* A regular file `name` of it; E_BAD_SNAPSHOT: it is missing, or something else. */
MUST_CHECK int policy_open_source(const struct policy *p, const struct caller *c, int dir_fd, const char *name,
				  struct err *err);
/* A directory in which the caller may make files. */
MUST_CHECK int policy_open_dir(const struct policy *p, const struct caller *c, const char *path, int *ret_fd,
			       struct err *err);

#endif
