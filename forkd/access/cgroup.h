// SPDX-License-Identifier: Apache-2.0
/*
 * What the control groups (version 2) of this process still allow: the least of the process's own
 * group and the groups above. Nothing is kept between calls.
 */
#ifndef FORKD_ACCESS_CGROUP_H
#define FORKD_ACCESS_CGROUP_H

#include <stdint.h>

#include "common/auto.h"

struct cgroup_room {
	uint64_t bytes;              /* left below memory.max, with inactive file pages; UINT64_MAX: no limit */
	uint64_t pids_now, pids_max; /* of the group with the least left; pids_max UINT64_MAX: no limit */
};

/*
 * `root`: where the hierarchy is mounted ("/sys/fs/cgroup"); `self`: "/proc/self/cgroup". Whatever
 * cannot be read is no limit.
 */
void cgroup_read(const char *root, const char *self, struct cgroup_room *ret);
/* Reads the text of a small file, cut to `size`; "" when the file cannot be read. */
void read_text(const char *path, char *buf, size_t size);

#endif
