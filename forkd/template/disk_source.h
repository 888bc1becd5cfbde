// SPDX-License-Identifier: Apache-2.0
/*
 * The image of a disk that a caller has named, with the files behind it, on its way into the store. All
 * files are opened with the caller's rights, and locked against writers until disk_source_free(). Any
 * thread, one at a time for one source.
 */
#ifndef FORKD_TEMPLATE_DISK_SOURCE_H
#define FORKD_TEMPLATE_DISK_SOURCE_H

#include "common/ctl.h"
#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "store/images.h"

struct disk_source;
/*
 * Opens the image at disk->path, and what its header names if the disk may have backing files. E_INVALID: it
 * is no usable image, or shorter than disk->bytes. E_CONFLICT: a VM writes it. E_FORBIDDEN and others as policy_open().
 */
MUST_CHECK int disk_source_open(const struct forkd *d, const struct caller *who, const struct ctl_disk *disk,
				struct disk_source **ret, struct err *err);
void disk_source_free(struct disk_source *s); /* NULL is fine */
/* Copies all files into the store. The caller has a reference to the image ret_id then. E_CONFLICT: a file changed meanwhile. */
MUST_CHECK int disk_source_import(struct forkd *d, struct disk_source *s, char ret_id[STORE_ID_CHARS + 1],
				  struct err *err);
/*
 * Makes an image that a VM can write before it is sealed: a copy of a raw one, or an empty one over
 * a qcow2 image. *ret_behind is what is behind it; if that is not empty, the caller has a reference to its first
 * image.
 */
MUST_CHECK int disk_source_stage(struct forkd *d, struct disk_source *s, struct staged_image **ret,
				 struct store_chain *ret_behind, struct err *err);

#endif
