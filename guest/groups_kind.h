// SPDX-License-Identifier: Apache-2.0
/* How each version of control groups says what guest/groups.c and guest/freeze.c do with it. */
#ifndef GUEST_GROUPS_KIND_H
#define GUEST_GROUPS_KIND_H

#include <stdbool.h>

#include "common/auto.h"

struct group_kind {
	const char *fs;                 /* as in /proc/self/mounts */
	const char *option;             /* which that mount has; NULL: any */
	const char *file, *stop, *go;   /* the file to write, and the words */
	const char *state, *is_stopped; /* the file to read, and the text in it */
	bool sticks;                    /* a freeze may stay unfinished until it is begun anew */
};

/*
 * Writes the word into a file of the group; "" is the root group. Returns 0 or -errno: -ENOENT,
 * -ENODEV: the group is gone.
 */
MUST_CHECK int group_write(int top_fd, const char *group, const char *file, const char *word);

#endif
