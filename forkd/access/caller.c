// SPDX-License-Identifier: Apache-2.0
/* Whom the daemon trusts, and with whose rights the daemon acts. */
#include "forkd/access/caller.h"

#include <unistd.h>

#include "forkd/errors.h"
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

int caller_act_as(const struct caller *c, bool *ret_as_caller, struct err *err)
{
	const uid_t own = geteuid();

	*ret_as_caller = c->local && !c->trusted;
	if (!*ret_as_caller || own == 0)
		return 0;
	return fail(
		err, E_OTHER_USER,
		"forkd runs as user %u: it can neither open files with the rights of user %u nor give that user files",
		own, c->uid);
}

bool origin_gone(const struct origin *o)
{
	return o && o->gone(o->request);
}
