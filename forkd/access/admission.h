// SPDX-License-Identifier: Apache-2.0
/*
 * Whether the host can hold what a request asks for, decided before anything of it starts. What was admitted a moment ago and does not
 * show in the host's numbers yet is counted too. Any thread.
 */
#ifndef FORKD_ACCESS_ADMISSION_H
#define FORKD_ACCESS_ADMISSION_H

#include <stdint.h>

#include "common/err.h"

struct admission;
struct admission_ask {
	unsigned count; /* VMs */
	uint64_t bytes_each;
	unsigned threads_each;
	unsigned clones_now; /* that have a process already: each takes descriptors of the daemon */
};
struct admission_host { /* what the host has, or the control group that the daemon is in */
	uint64_t available_bytes, reserve_bytes;
	uint64_t threads_now, threads_max;
	uint64_t files_max;
};

enum {
	ADMISSION_CLONE_MIN_BYTES = 4 << 20,
	ADMISSION_THREADS_EXTRA = 3 /* of a VM process, beside its vCPUs */,
	ADMISSION_FDS_EACH = 2,
	ADMISSION_FDS_OTHER = 256
};

/* reserve_bytes: stay available. */
MUST_CHECK int admission_new(uint64_t reserve_bytes, struct admission **ret, struct err *err);
void admission_free(struct admission *a);
/* E_NO_MEMORY or E_BUSY with the numbers; else counted for the next second. */
MUST_CHECK int admission_enter(struct admission *a, const struct admission_ask *ask, struct err *err);
/* The same against given numbers. */
MUST_CHECK int admission_decide(const struct admission_ask *ask, const struct admission_host *host,
				uint64_t pending_bytes, struct err *err);

#endif
