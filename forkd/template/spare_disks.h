// SPDX-License-Identifier: Apache-2.0
/*
 * Disks for clones, made ahead of their requests: as many of each disk of a template as the template host
 * keeps clones parked. A thread of its own makes them when nothing was taken for some milliseconds, so that it
 * delays no request. A daemon that is killed leaves them for the next one's store_collect().
 */
#ifndef FORKD_TEMPLATE_SPARE_DISKS_H
#define FORKD_TEMPLATE_SPARE_DISKS_H

#include "common/ctl.h"
#include "forkd/forkd.h"
#include "store/images.h"

struct template_host;
struct spare_maker;
MUST_CHECK int spare_maker_start(struct forkd *d, struct spare_maker **ret, struct err *err);
void spare_maker_stop(struct spare_maker *m); /* after the last use of a template host; NULL is fine */

/* The spare disks of a template host. One lock of its own. */
struct spare_disks;
/* One set for the `n` chains, of which some are NULL. NULL: no memory, or nothing to make. */
struct spare_disks *spare_disks_new(struct forkd *d, struct store_chain *const *chains, uint32_t n, unsigned each);
/* Removes what was not taken. NULL is fine. */
void spare_disks_free(struct spare_disks *s);
/* Has the thread make what is missing. The host lives at least until then. */
void spare_disks_fill(struct template_host *h);
/* Takes a disk that begins as chain `i`; false: there is none. The caller has it as if it were made by store_overlay_make(). */
bool spare_disks_take(struct template_host *h, uint32_t i, struct store_overlay *ret);

#endif
