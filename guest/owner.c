// SPDX-License-Identifier: Apache-2.0
#include "guest/owner.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "guest/users.h"

static bool is_number(const char *text, uint32_t *ret)
{
	size_t digits = strspn(text, "0123456789");
	unsigned long v = digits > 0 && digits < 11 && !text[digits] ? strtoul(text, NULL, 10) : UINT32_MAX;

	if (v >= UINT32_MAX)
		return false;
	*ret = (uint32_t)v;
	return true;
}

static int user_ids(const char *name, uid_t *ret_uid, gid_t *ret_gid, struct err *err)
{
	autouser struct user user = {};

	if (is_number(name, ret_uid)) {
		*ret_gid = *ret_uid;
		return 0;
	}
	if (user_find(name, &user, err) < 0)
		return err->num;
	*ret_uid = user.uid;
	*ret_gid = user.gid;
	return 0;
}

int owner_find(const char *text, uid_t *ret_uid, gid_t *ret_gid, struct err *err)
{
	const char *colon = strchr(text, ':');
	autofree char *name = colon ? strndup(text, (size_t)(colon - text)) : strdup(text);
	uid_t uid = 0;
	gid_t gid = 0;

	if (!name)
		return err_num(err, ERR_INTERNAL, ENOMEM, "owner '%.64s'", text);
	if (user_ids(name, &uid, &gid, err) < 0)
		return err->num;
	if (colon && !is_number(colon + 1, &gid) && group_find(colon + 1, &gid, err) < 0)
		return err->num;
	*ret_uid = uid;
	*ret_gid = gid;
	return 0;
}
