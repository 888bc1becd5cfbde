// SPDX-License-Identifier: Apache-2.0
/*
 * The disks of a VM that is to become a template: copies that the VM writes, sealed when it has ended.
 * What the caller named stays as it is. One thread at a time.
 */
#ifndef FORKD_TEMPLATE_BUILD_DISKS_H
#define FORKD_TEMPLATE_BUILD_DISKS_H

#include "forkd/template/disks.h"
#include "forkd/template/vm_config.h"

struct build_disks {
	struct forkd *d;
	struct written_disk *all; /* in the order of the VmConfig; NULL: none yet */
	struct ready_disk *ready; /* likewise: filled by build_disks_seal(), which keeps the references */
	uint32_t n;
};
/* Copies the images, and lists their descriptors. build_disks_done() must follow, also after a failure. */
MUST_CHECK int build_disks_stage(struct forkd *d, struct vm_needs *needs, struct build_disks *ret, struct err *err);
/* Seals the images as they are now. The VM has ended. */
MUST_CHECK int build_disks_seal(struct build_disks *b, struct err *err);
void build_disks_done(struct build_disks *b);

#endif
