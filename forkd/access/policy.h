// SPDX-License-Identifier: Apache-2.0
/*
 * Which host paths a caller may name. Root and the daemon's own user may name any path that the
 * daemon can open. Every other caller may name only paths below the roots of --allow-path. A local
 * user has the rights of the user's own account there. Symbolic links are refused unless a function
 * below says otherwise. The policy is read-only after policy_new(), so every thread may use it.
 */
#ifndef FORKD_ACCESS_POLICY_H
#define FORKD_ACCESS_POLICY_H

#include "common/err.h"
#include "forkd/access/caller.h"

struct policy;

/* Opens the roots. A root that does not exist is an error, whose message names the root. */
MUST_CHECK int policy_new(char *const *roots, uint32_t n_roots, struct policy **ret, struct err *err);
void policy_free(struct policy *p);

/*
 * Opens a path for the caller, like open(path, flags | O_CLOEXEC | O_NOCTTY). With O_CREAT a new
 * file gets mode 0600. The path must be absolute, without "..". E_FORBIDDEN: the path is outside of
 * the roots, or leads through a symbolic link. E_OTHER_USER: the daemon cannot act with the
 * caller's rights. E_INVALID: the path has the wrong shape, is missing, or may not be opened.
 * E_NO_SPACE: the disk or the quota is full. A failed open() returns its -errno.
 */
MUST_CHECK int policy_open(const struct policy *p, const struct caller *c, const char *path, int flags, int *ret_fd,
			   struct err *err);
/*
 * The next two functions open what is only read. Both return a descriptor, or < 0. Symbolic links
 * are followed for callers with an account on this host: root, the daemon's user, and local users.
 * A local user's link must lead below a root again (else E_FORBIDDEN), and the user's account must
 * have the right to read the file.
 *
 * policy_open_source_dir() opens a directory. The descriptor serves policy_open_source() alone: the
 * directory's entries cannot be listed with it.
 */
MUST_CHECK int policy_open_source_dir(const struct policy *p, const struct caller *c, const char *path,
				      struct err *err);
/*
 * Opens a regular file `name` in the directory. E_BAD_SNAPSHOT: the file is missing, or is not a
 * regular file.
 */
MUST_CHECK int policy_open_source(const struct policy *p, const struct caller *c, int dir_fd, const char *name,
				  struct err *err);
/* Opens a directory in which the caller may make files. Errors are those of policy_open(). */
MUST_CHECK int policy_open_dir(const struct policy *p, const struct caller *c, const char *path, int *ret_fd,
			       struct err *err);

#endif
