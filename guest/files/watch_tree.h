// SPDX-License-Identifier: Apache-2.0
/*
 * Changes in a directory, or in a directory and all below it, by inotify. One inotify instance and
 * one descriptor for each tree. The loop's thread; each call does a bounded piece of the work.
 *
 * A directory that appears below a recursive tree is watched from then on; what it has by then is
 * reported as created. A directory that is moved inside of the tree keeps its watch.
 */
#ifndef GUEST_FILES_WATCH_TREE_H
#define GUEST_FILES_WATCH_TREE_H

#include <stdbool.h>

#include "common/err.h"

enum {
	WATCH_DIRS_MAX = 65536, /* directories of all trees; the kernel needs about 1 KiB for each */
	WATCH_TURN = 1024,      /* entries of directories that one call looks at; to watch one is as much as 8 */
};

enum watch_event { WATCH_CREATE, WATCH_WRITE, WATCH_REMOVE, WATCH_RENAME, WATCH_CHMOD };

struct watch_tree;

/*
 * Watches the directory at the absolute path. ERR_NOT_FOUND, ERR_INVALID: there is none; or it is on
 * a network file system, whose other users make no events, and `network` is false. ERR_BUSY: more
 * than WATCH_DIRS_MAX directories, or the kernel's own limits.
 */
MUST_CHECK int watch_tree_new(const char *path, bool recursive, bool network, struct watch_tree **ret_tree,
			      struct err *err);
/* Goes on to watch what is below. 1: there is more to do; 0: all of the tree is watched. Errors as above. */
MUST_CHECK int watch_tree_grow(struct watch_tree *tree, struct err *err);
void watch_tree_free(struct watch_tree *tree);
/* Becomes readable when there are events; the tree's. */
int watch_tree_fd(const struct watch_tree *tree);

/*
 * Reports some of what has happened; `name` is relative to the tree's directory, "." is the
 * directory itself, and is valid during the call. 1: there is more to report, call again; 0: all was
 * reported. ERR_BUSY: events were lost; the tree is of no more use.
 */
MUST_CHECK int watch_tree_read(struct watch_tree *tree,
			       void (*report)(void *ctx, enum watch_event event, const char *name), void *ctx,
			       struct err *err);

#endif
