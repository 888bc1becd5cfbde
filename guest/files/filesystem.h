// SPDX-License-Identifier: Apache-2.0
/*
 * The service filesystem.Filesystem of the Connect API: calls with one answer that do not watch. Each
 * function is the begin() of a route. The loop's thread.
 */
#ifndef GUEST_FILES_FILESYSTEM_H
#define GUEST_FILES_FILESYSTEM_H

#include "guest/files/path.h"
#include "guest/http.h"

struct json_node;

void filesystem_stat(struct exchange *ex);
void filesystem_list_dir(struct exchange *ex);
void filesystem_make_dir(struct exchange *ex);
void filesystem_move(struct exchange *ex);
void filesystem_remove(struct exchange *ex);

/*
 * For the services of files. The user of the request, or false: that was answered, 401 or unauthenticated.
 * The home is on the heap.
 */
MUST_CHECK bool files_user(struct exchange *ex, struct owner_ids *ret_owner, char **ret_home);
/*
 * The member `key` of a Connect message as a path of the request's user, on the heap; absent: the
 * user's home. NULL: there is none, and that was answered. *ret_owner: what is made is the user's.
 */
MUST_CHECK char *files_path(struct exchange *ex, const struct json_node *message, const char *key,
			    struct owner_ids *ret_owner);

#endif
