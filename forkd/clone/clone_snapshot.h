// SPDX-License-Identifier: Apache-2.0
/* Templates from clones. In the thread of the request. */
#ifndef FORKD_CLONE_CLONE_SNAPSHOT_H
#define FORKD_CLONE_CLONE_SNAPSHOT_H

#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

/*
 * The clone, which goes on, becomes template `name`, a child of its own template. How long its vCPUs stood still is in *ret_paused_us.
 * E_BAD_STATE for one that runs and has a writable disk: it must be paused until the disk is copied.
 */
MUST_CHECK int clone_snapshot(struct forkd *d, struct clone *c, const char *name, const struct origin *from,
			      uint64_t *ret_paused_us, struct err *err);

#endif
