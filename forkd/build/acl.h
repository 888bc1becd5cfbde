// SPDX-License-Identifier: Apache-2.0
/* Access control lists of an archive's entries, which are text there, as the attributes that Linux has for them. One thread. */
#ifndef FORKD_BUILD_ACL_H
#define FORKD_BUILD_ACL_H

#include <archive_entry.h>

#include "forkd/build/entry.h"
#include "forkd/build/limits.h"

/* A list as system.posix_acl_access and system.posix_acl_default have it. */
struct acl {
	unsigned char bytes[IMAGE_XATTR_BYTES_MAX];
	uint32_t n; /* 0: the entry has none */
};

/*
 * Fills both lists from the archive's entry, and puts the mask into the group's bits of *mode, where Linux has it. ERR_INVALID: a list
 * that Linux cannot have, or one that names somebody whose number the archive does not say.
 */
MUST_CHECK int acl_read(struct archive_entry *ae, struct acl *ret_access, struct acl *ret_default, uint32_t *mode,
			struct err *err);

#endif
