// SPDX-License-Identifier: Apache-2.0
/*
 * On-demand restore: guest RAM is filled from memory-ranges page by page as it is touched (userfaultfd), the rest in the
 * background by the same thread. Made before the first vCPU runs.
 */
#ifndef VMM_STATE_ONDEMAND_H
#define VMM_STATE_ONDEMAND_H

#include "vmm/core/gmem.h"

struct ondemand;

/* Takes *mem_fd over on success. No fallback: a host that forbids userfaultfd is an error. */
MUST_CHECK int ondemand_start(const struct gmem *mem, int *mem_fd, struct ondemand **ret, struct err *err);
/* All pages are there. */
bool ondemand_complete(const struct ondemand *od);
/* Ends the thread; memory that is not there yet never comes. */
void ondemand_stop(struct ondemand *od);

#endif
