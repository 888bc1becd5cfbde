// SPDX-License-Identifier: Apache-2.0
/*
 * Users and groups of the system, read from /etc/passwd and /etc/group directly at each call: no other
 * source of users is asked, and a change of the files counts at once. The loop's thread.
 */
#ifndef GUEST_USERS_H
#define GUEST_USERS_H

#include <stddef.h>
#include <sys/types.h>

#include "common/err.h"
#include "guest/limits.h"

struct user {
	char *name, *home, *shell; /* the home is absolute: "/" when the user has none */
	uid_t uid;
	gid_t gid;
	gid_t groups[LIMIT_GROUPS]; /* the user's own is the first; those beyond LIMIT_GROUPS are left out */
	size_t n_groups;
	char *text; /* holds the strings */
};

/* The user of that name. ERR_NOT_FOUND: there is none. */
MUST_CHECK int user_find(const char *name, struct user *ret_user, struct err *err);
/* The same with other files, for tests. A group file that is missing has no groups. */
MUST_CHECK int user_find_in(const char *passwd, const char *group, const char *name, struct user *ret_user,
			    struct err *err);
/*
 * As the configuration of an image says it: NAME, UID, or either with :GROUP or :GID. A number that no line has is
 * a user without a home, of group 0. With a group the user is in no other.
 */
MUST_CHECK int user_find_spec(const char *spec, struct user *ret_user, struct err *err);
MUST_CHECK int user_find_spec_in(const char *passwd, const char *group, const char *spec, struct user *ret_user,
				 struct err *err);
/* The user may be zeroed. */
void user_done(struct user *user);
#define autouser __attribute__((cleanup(user_done)))

/* The number of the group of that name. ERR_NOT_FOUND: there is none. */
MUST_CHECK int group_find(const char *name, gid_t *ret_gid, struct err *err);

/* Names of an owner, on the heap; the number as text when no line has it. NULL: no memory. */
char *user_name_of(uid_t uid);
char *group_name_of(gid_t gid);

#endif
