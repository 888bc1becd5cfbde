// SPDX-License-Identifier: Apache-2.0
/* What a clone costs the host: memory and CPU time by /proc. Any thread. */
#ifndef FORKD_CLONE_STATS_H
#define FORKD_CLONE_STATS_H

#include "forkd/registry/registry.h"

struct proc_stats {
	uint64_t private_dirty_bytes, private_clean_bytes, shared_bytes, swap_bytes, cpu_us;
};
extern const struct field proc_stats_fields[];

/* Reads the numbers of a process; zeroes when the process is gone. */
void stats_read(uint32_t pid, struct proc_stats *ret);
/*
 * Looks at one running clone of each template, mostly another clone each time, and keeps the most
 * private memory seen for the template. In the watcher's thread.
 */
void stats_sample(struct registry *r);

#endif
