// SPDX-License-Identifier: Apache-2.0
/*
 * The disks of a clone's own, one for each image of its template: an overlay in the store that the clone
 * alone writes. Any thread.
 */
#ifndef FORKD_CLONE_CLONE_DISKS_H
#define FORKD_CLONE_CLONE_DISKS_H

#include "forkd/access/handover.h"
#include "forkd/forkd.h"
#include "forkd/registry/record.h"
#include "forkd/template/template_host.h"
#include "store/images.h"

/*
 * Makes disk `i` of the host's template, or takes one that was made ahead, notes it in the record, and lists its descriptors and those of
 * what is behind it. After a failure clone_clear() removes what was made.
 */
MUST_CHECK int clone_disk_make(struct template_host *host, uint32_t i, struct record *r, struct handover *h,
			       struct err *err);
/* Takes the references of a clone that was found, before anybody else knows of it. A failure is logged. */
void clone_disks_found(struct forkd *d, struct record *r);
/* Removes what is left of a clone: its place, its sockets, its network, its disks. May be called again. */
void clone_clear(struct forkd *d, struct record *r);

#endif
