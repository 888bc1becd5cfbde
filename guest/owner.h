// SPDX-License-Identifier: Apache-2.0
/* "user", "user:group", names or numbers, as of chown(1). The loop's thread. */
#ifndef GUEST_OWNER_H
#define GUEST_OWNER_H

#include <sys/types.h>

#include "common/err.h"

/* Without a group: the user's own; a number that is no user's: the group of that number. */
MUST_CHECK int owner_find(const char *text, uid_t *ret_uid, gid_t *ret_gid, struct err *err);

#endif
