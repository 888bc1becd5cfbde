// SPDX-License-Identifier: Apache-2.0
/* Makes templates from clones, in the thread of the request. */
#ifndef FORKD_CLONE_CLONE_SNAPSHOT_H
#define FORKD_CLONE_CLONE_SNAPSHOT_H

#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

struct snapshot_wanted {
	char *name;
	bool allow_secrets;
};
/*
 * Makes template `name` from the clone, as a child of the clone's own template. The clone goes on.
 * *ret_paused_us is how long the clone's vCPUs stood still. E_BAD_STATE: the clone runs and has a
 * writable disk, and must be paused until the disk is copied; or it is not itself yet. E_SECRETS: the
 * clone was given values that nobody else may see.
 */
MUST_CHECK int clone_snapshot(struct forkd *d, struct clone *c, const struct snapshot_wanted *wanted,
			      const struct origin *from, uint64_t *ret_paused_us, struct err *err);

#endif
