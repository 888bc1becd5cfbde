// SPDX-License-Identifier: Apache-2.0
/*
 * On-demand restore: one thread fills guest RAM from memory-ranges. Pages that are touched come first
 * (userfaultfd), the rest comes in the background. Started before the first vCPU runs.
 */
#ifndef VMM_STATE_ONDEMAND_H
#define VMM_STATE_ONDEMAND_H

#include "vmm/core/gmem.h"

struct ondemand;

/*
 * Takes *mem_fd over on success; `mem` must outlive *ret. There is no fallback: a host that forbids
 * userfaultfd is an error.
 */
MUST_CHECK int ondemand_start(const struct gmem *mem, int *mem_fd, struct ondemand **ret, struct err *err);
/* Whether all pages are there. NULL: true. */
bool ondemand_complete(const struct ondemand *od);
/* Ends the thread and frees `od`. Memory that is not there yet never comes. NULL is fine. */
void ondemand_stop(struct ondemand *od);

#endif
