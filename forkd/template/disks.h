// SPDX-License-Identifier: Apache-2.0
/*
 * The read-only disks that a template's config.json names: all clones share them, and nobody copied them. So they are looked at when the
 * template is made, when it is shown, and when the daemon loads it, with the rights of its owner; and opened for each clone.
 */
#ifndef FORKD_TEMPLATE_DISKS_H
#define FORKD_TEMPLATE_DISKS_H

#include "common/ctl.h"
#include "forkd/forkd.h"
#include "store/store.h"

/* Writes them into the manifest. */
MUST_CHECK int disks_list(const struct ctl_template *info, struct manifest *m, struct err *err);
/* E_DISK_UNUSABLE: one is missing, is no file, or is shorter than the guest knows it; E_FORBIDDEN: the owner may not name it. */
MUST_CHECK int disks_check(const struct forkd *d, const struct manifest *m, struct err *err);
/* Gives an error about such a disk its row: what is wrong with the file is not wrong with the request. Returns err->num. */
int disks_unusable(struct err *err);

#endif
