// SPDX-License-Identifier: Apache-2.0
/* What a clone costs the host: memory and CPU time by /proc. Any thread. */
#ifndef FORKD_CLONE_STATS_H
#define FORKD_CLONE_STATS_H

#include "forkd/registry/registry.h"

struct proc_stats {
	uint64_t private_dirty_bytes, private_clean_bytes, shared_bytes, swap_bytes, cpu_us;
};
extern const struct field proc_stats_fields[];

/* Zeroes where the process is gone. */
void stats_read(uint32_t pid, struct proc_stats *ret);
/* Looks at one clone of each template, another one each time, and remembers the most private memory seen. */
void stats_sample(struct registry *r);

#endif
