// SPDX-License-Identifier: Apache-2.0
/* Callers. */
#include "forkd/access/caller.h"

#include <unistd.h>

#include "forkd/registry/record.h"

struct caller caller_from_owner(uid_t uid, gid_t gid)
{
	return (struct caller){
		.local = uid != OWNER_REMOTE,
		.trusted = uid == 0 || uid == geteuid(),
		.uid = uid,
		.gid = gid,
	};
}

bool origin_gone(const struct origin *o)
{
	return o && o->gone(o->request);
}
