// SPDX-License-Identifier: Apache-2.0
/*
 * What goes through whole directories and may take long. Runs in a child of the agent
 * (guest/files/helper.h), and waits wherever it has to.
 */
#ifndef GUEST_FILES_TREE_H
#define GUEST_FILES_TREE_H

#include "common/err.h"

enum {
	TREE_NAMES_MAX = 64 << 20, /* bytes of the names in one directory, with 8 for each name */
	TREE_LEVELS_MAX = 16384,   /* directories inside each other that are removed */
};

/*
 * Writes {"entries":[…]} to `out_fd`: what is in the directory, `depth` levels of it, each directory
 * before its content, sorted by name. Symbolic links below `path` are not followed; what vanishes
 * meanwhile is left out. ERR_BUSY: a directory's names are more than TREE_NAMES_MAX.
 */
MUST_CHECK int tree_list(int out_fd, const char *path, unsigned depth, struct err *err);
/*
 * Removes a file, or a directory with all that is in it. Nothing outside of it is touched, whoever
 * moves things meanwhile. Stops at the first thing that cannot be removed.
 */
MUST_CHECK int tree_remove(const char *path, struct err *err);

#endif
