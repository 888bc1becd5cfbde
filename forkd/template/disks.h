// SPDX-License-Identifier: Apache-2.0
/*
 * The read-only disks that a template's config.json names. All clones of the template share these
 * disks, and the template has no copies. So the disks are checked, with the rights of the
 * template's owner, when the template is made, shown, or loaded. Each clone opens the disks anew.
 */
#ifndef FORKD_TEMPLATE_DISKS_H
#define FORKD_TEMPLATE_DISKS_H

#include "common/ctl.h"
#include "forkd/forkd.h"
#include "store/store.h"

/* Writes the disks into the manifest. */
MUST_CHECK int disks_list(const struct ctl_template *info, struct manifest *m, struct err *err);
/*
 * Checks the disks of the manifest. E_DISK_UNUSABLE: a disk is missing, is no file, or is shorter
 * than the guest knows it. E_FORBIDDEN: the owner may not name the disk.
 */
MUST_CHECK int disks_check(const struct forkd *d, const struct manifest *m, struct err *err);
/*
 * Turns E_INVALID about a disk of the template into E_DISK_UNUSABLE: the fault is in the file, not
 * in the request. Returns err->num.
 */
int disks_unusable(struct err *err);

#endif
