// SPDX-License-Identifier: Apache-2.0
/*
 * Paths that a client names, and the errors of what is done to them. Any thread; nothing is kept.
 *
 * The agent acts on paths with its own rights, which are root's. The user of a request says where a
 * relative path begins, and who owns what is made.
 */
#ifndef GUEST_PATH_H
#define GUEST_PATH_H

#include <sys/types.h>

#include "common/err.h"

enum { PATH_BYTES_MAX = 4095, PATH_LINKS_MAX = 40 }; /* PATH_MAX without its NUL; MAXSYMLINKS of Linux */

/*
 * Makes `path` absolute: "~" and "~/…" are in `home`, and so is what does not begin with '/', also
 * the empty path. "//", "/./", "/../" and a '/' at the end go away by the text alone, so that the
 * last part is the name of a file. A string on the heap; ERR_INVALID: "~name", or the result is
 * longer than PATH_BYTES_MAX.
 */
MUST_CHECK int path_resolve(const char *path, const char *home, char **ret_path, struct err *err);
/* The last part of an absolute path; "/" of the root. */
const char *path_name(const char *path);

/* The code of an error for the positive errno `num` of a system call with a client's path. */
enum err_code path_code(int num);

struct owner_ids {
	uid_t uid;
	gid_t gid;
};
/*
 * Opens the directory at the absolute path, as O_PATH. What is missing on the way is made with mode
 * 0755 for that owner; owner NULL: is an error. Symbolic links are followed. A descriptor, or
 * -errno.
 */
MUST_CHECK int path_open_dir(const char *path, const struct owner_ids *owner, struct err *err);
/*
 * The same for the directory that `path` is in; a relative path begins at the directory `at_fd`.
 * *ret_name is the last part of `path`, on the heap. ERR_INVALID: the path is the root.
 */
MUST_CHECK int path_open_parent(int at_fd, const char *path, const struct owner_ids *owner, char **ret_name,
				struct err *err);

#endif
