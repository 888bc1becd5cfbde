// SPDX-License-Identifier: Apache-2.0
/*
 * Files that the agent writes for the daemon: whole or not at all. Paths are looked up below a
 * directory descriptor, which is / outside of tests; a leading slash is dropped. The agent's thread.
 */
#ifndef GUEST_PUT_FILE_H
#define GUEST_PUT_FILE_H

#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

struct put_file {
	const char *path;
	const void *bytes;
	size_t len;
	mode_t mode;
	uid_t uid;
	gid_t gid;
};

/*
 * Makes the parents that are missing (0755, root's), writes a temporary file beside the path and
 * renames it. A path that is a mount point cannot be renamed over: its file is written in place.
 * Nothing is synced.
 */
MUST_CHECK int put_file(int root_fd, const struct put_file *file, struct err *err);
/* A text for everybody to read: 0644, root's. */
MUST_CHECK int put_text(int root_fd, const char *path, const char *text, struct err *err);
/*
 * Writes the text into the file that is there, which keeps its mode and owner; without a file, or where
 * it is a link, as put_text(). Readers may see a half of it: for the time in which all others stand
 * still. Making and removing a file waits for the journal of a busy disk; this does not.
 */
MUST_CHECK int rewrite_text(int root_fd, const char *path, const char *text, struct err *err);
/*
 * Reads a regular file of at most size - 1 bytes into `buf`, NUL-terminated. root_fd AT_FDCWD: the
 * path is looked up as it is. Returns the number of
 * bytes, or -errno: -ENOENT; -EFBIG: it is longer.
 */
MUST_CHECK ssize_t get_text(int root_fd, const char *path, char *buf, size_t size);
/* The path as openat() wants it below a root: without leading slashes; "." for / itself. */
const char *path_below(const char *path);
/* Makes the directory (mode, root's) and its parents (0755), as far as they are missing. */
MUST_CHECK int make_dirs(int root_fd, const char *path, mode_t mode, struct err *err);

#endif
