// SPDX-License-Identifier: Apache-2.0
/*
 * The disks that a template's config.json names. All clones share a read-only disk: the template has no copy
 * of it, so it is checked, with the rights of the template's owner, when the template is made, shown,
 * or loaded, and each clone opens it anew. A disk that the guest writes is an image in the store, unless each
 * clone is to bring one.
 */
#ifndef FORKD_TEMPLATE_DISKS_H
#define FORKD_TEMPLATE_DISKS_H

#include "common/ctl.h"
#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "store/images.h"
#include "store/store.h"

/* The image of a disk that is in the store already. */
struct ready_disk {
	const char *id;                 /* borrowed; NULL: it is found by its place */
	char *path;                     /* for whoever made it */
	char image[STORE_ID_CHARS + 1]; /* "": it is not */
};
/* Where the disks that a guest writes come from. */
struct disks_wanted {
	const struct caller *who;       /* whose rights count for paths */
	bool brought;                   /* each clone must bring its own */
	const struct ready_disk *ready; /* whoever lists them keeps the references */
	uint32_t n_ready;
};
/*
 * Writes the disks into the manifest, and copies the images that the store does not have yet.
 * disks_release() must follow, also after a failure: from then on only a sealed template refers to them.
 */
MUST_CHECK int disks_list(struct forkd *d, const struct ctl_template *info, const struct disks_wanted *wanted,
			  struct manifest *m, struct err *err);
void disks_release(struct forkd *d, const struct manifest *m);
/*
 * Checks the shared disks of the manifest. E_DISK_UNUSABLE: a disk is missing, is no file, or is shorter
 * than the guest knows it. E_FORBIDDEN: the owner may not name the disk.
 */
MUST_CHECK int disks_check(const struct forkd *d, const struct manifest *m, struct err *err);
/*
 * Turns E_INVALID about a disk of the template into E_DISK_UNUSABLE: the fault is in the file, not
 * in the request. Returns err->num.
 */
int disks_unusable(struct err *err);

#endif
