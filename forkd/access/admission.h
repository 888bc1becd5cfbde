// SPDX-License-Identifier: Apache-2.0
/*
 * Decides whether the host can hold the VMs of a request, before any of these VMs starts. The VMs
 * that were admitted within the last second count too, because the host's numbers may not show
 * their memory yet. Any thread.
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
	unsigned clones_now; /* clones with a process; each takes descriptors of the daemon */
};
struct admission_host { /* of the host, or of the daemon's control group where that has less left */
	uint64_t available_bytes, reserve_bytes;
	uint64_t threads_now, threads_max;
	uint64_t files_max;
};

enum {
	ADMISSION_CLONE_MIN_BYTES = 4 << 20,
	ADMISSION_THREADS_EXTRA = 3 /* threads of a VM process beside its vCPUs */,
	ADMISSION_FDS_EACH = 2,
	ADMISSION_FDS_OTHER = 256
};

/* reserve_bytes of the host's memory stay available. admission_free() frees *ret. */
MUST_CHECK int admission_new(uint64_t reserve_bytes, struct admission **ret, struct err *err);
void admission_free(struct admission *a);
/*
 * Admits a request; its bytes count as promised for the next second. E_NO_MEMORY: the memory is too
 * little. E_BUSY: the threads or the descriptors are too few. The message has the numbers.
 */
MUST_CHECK int admission_enter(struct admission *a, const struct admission_ask *ask, struct err *err);
/*
 * Decides like admission_enter(), but by given numbers, and promises nothing. `pending_bytes` were
 * promised within the last second.
 */
MUST_CHECK int admission_decide(const struct admission_ask *ask, const struct admission_host *host,
				uint64_t pending_bytes, struct err *err);

#endif
