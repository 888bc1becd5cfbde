// SPDX-License-Identifier: Apache-2.0
/*
 * Freezing the file systems of the guest's block devices, for a snapshot that does not save memory:
 * what is on the disk is whole then. They wait for the disk, so they are for jobs; guest/job.h.
 */
#ifndef GUEST_FSFREEZE_H
#define GUEST_FSFREEZE_H

#include "common/err.h"

/*
 * Freezes each file system that is mounted read-write from a device below /dev and can be frozen.
 * Returns their number. On failure all are thawed again.
 */
MUST_CHECK int fs_freeze_all(struct err *err);
/* Thaws each that is frozen. Returns their number. */
MUST_CHECK int fs_thaw_all(struct err *err);

#endif
