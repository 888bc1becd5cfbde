// SPDX-License-Identifier: Apache-2.0
/*
 * A clone's own disks in its snapshot. At the pause each gets a new overlay over the one that the clone has
 * written, which becomes an image of the store afterwards, while the clone runs on. The record names the new
 * overlay before the clone hears of it, so nothing is lost when the daemon ends in between. The caller
 * holds the clone's `life`.
 */
#ifndef FORKD_CLONE_SNAPSHOT_DISKS_H
#define FORKD_CLONE_SNAPSHOT_DISKS_H

#include "forkd/access/handover.h"
#include "forkd/registry/registry.h"
#include "forkd/template/disks.h"

struct snapshot_disks {
	struct forkd *d;
	struct clone *c;
	struct handover fds; /* for the request, behind the directory's descriptor */
	struct ready_disk *ready;
	uint32_t n;
};

/*
 * Makes the new overlays. snapshot_disks_done() must follow, also after a failure. E_BAD_STATE: a disk has
 * so many images behind it that one more would be too many.
 */
MUST_CHECK int snapshot_disks_begin(struct snapshot_disks *s, struct err *err);
/* The clone has put them in use: what it wrote before becomes images, to which s->ready refers. */
MUST_CHECK int snapshot_disks_seal(struct snapshot_disks *s, struct err *err);
void snapshot_disks_done(struct snapshot_disks *s);
/* Forgets an overlay that the clone, which lives, has never put in use. */
void snapshot_disks_resolve(struct forkd *d, struct clone *c);

#endif
