// SPDX-License-Identifier: Apache-2.0
/* Stat, ListDir, MakeDir, Move, Remove. */
#include "guest/files/filesystem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "guest/connect.h"
#include "guest/files/entry.h"
#include "guest/files/helper.h"
#include "guest/files/tree.h"
#include "guest/message.h"

/* ---- requests ---- */

bool files_user(struct exchange *ex, struct owner_ids *ret_owner, char **ret_home)
{
	autouser struct user user = {};
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (ex_user(ex, &user, &err) == 0) {
		*ret_owner = (struct owner_ids){ user.uid, user.gid };
		*ret_home = strdup(user.home);
		if (*ret_home)
			return true;
		err_num(&err, ERR_INTERNAL, ENOMEM, "user '%s'", user.name);
	}
	err_line(&err, line, sizeof(line));
	if (ex->route->style == STYLE_PLAIN)
		ex_fail(ex, 401, "%s", line);
	else
		connect_fail(ex, CONNECT_UNAUTHENTICATED, "%s", line);
	return false;
}

char *files_path(struct exchange *ex, const struct json_node *message, const char *key, struct owner_ids *ret_owner)
{
	autofree char *home = NULL;
	const char *given = NULL;
	char *path = NULL;
	struct err err = {};

	if (!files_user(ex, ret_owner, &home))
		return NULL;
	if (message_string(message, key, &given, &err) < 0 || path_resolve(given ? given : "", home, &path, &err) < 0)
		connect_fail_err(ex, &err);
	return path;
}

/* {"entry": …} of what is at the path now. */
static void reply_entry(struct exchange *ex, const char *path)
{
	autonames struct names names = {};
	autostrbuf struct strbuf out = {};

	names_load(&names);
	strbuf_puts(&out, "{\"entry\":");
	int r = entry_json(&out, &names, path);
	strbuf_putc(&out, '}');
	if (r == -ENOENT || r == -ENOTDIR)
		return connect_fail(ex, CONNECT_NOT_FOUND, "path '%s' does not exist", path);
	if (r < 0 || out.failed) {
		struct err err = {};
		err_num(&err, path_code(-r), r < 0 ? -r : ENOMEM, "look at '%s'", path);
		return connect_fail_err(ex, &err);
	}
	connect_reply(ex, out.text, out.len);
}

/* ---- the calls ---- */

void filesystem_stat(struct exchange *ex)
{
	autojson struct json json = {};
	struct owner_ids owner;
	const struct json_node *message = connect_request(ex, &json);
	autofree char *path = message ? files_path(ex, message, "path", &owner) : NULL;

	if (path)
		reply_entry(ex, path);
}

static int run_list(int out_fd, const struct helper_job *job, struct err *err)
{
	return tree_list(out_fd, job->path, job->depth, err);
}

void filesystem_list_dir(struct exchange *ex)
{
	autojson struct json json = {};
	struct owner_ids owner;
	struct stat st;
	struct err err = {};
	uint64_t depth = 0;
	const struct json_node *message = connect_request(ex, &json);
	autofree char *path = message ? files_path(ex, message, "path", &owner) : NULL;

	if (!path)
		return;
	if (message_uint(message, "depth", UINT32_MAX, &depth, &err) < 0)
		return connect_fail_err(ex, &err);
	if (stat(path, &st) < 0 && (errno == ENOENT || errno == ENOTDIR))
		return connect_fail(ex, CONNECT_NOT_FOUND, "directory '%s' does not exist", path);
	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
		return connect_fail(ex, CONNECT_INVALID_ARGUMENT, "path '%s' is not a directory", path);
	helper_start(ex, &(struct helper_job){ .run = run_list, .path = path, .depth = (unsigned)depth });
}

void filesystem_make_dir(struct exchange *ex)
{
	autojson struct json json = {};
	struct owner_ids owner;
	struct stat st;
	struct err err = {};
	const struct json_node *message = connect_request(ex, &json);
	autofree char *path = message ? files_path(ex, message, "path", &owner) : NULL;

	if (!path)
		return;
	if (stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return connect_fail(ex, CONNECT_ALREADY_EXISTS, "directory '%s' already exists", path);
		return connect_fail(ex, CONNECT_INVALID_ARGUMENT, "path '%s' exists and is not a directory", path);
	}
	autoclose int fd = path_open_dir(path, &owner, &err);
	if (fd < 0)
		return connect_fail_err(ex, &err);
	reply_entry(ex, path);
}

/* Renames, with the directories that are missing on the way to the new place. */
static int move(const char *from, const char *to, const struct owner_ids *owner, struct err *err)
{
	autofree char *from_name = NULL, *to_name = NULL;
	struct stat st;
	autoclose int from_fd = path_open_parent(AT_FDCWD, from, NULL, &from_name, err);

	if (from_fd < 0)
		return from_fd;
	if (fstatat(from_fd, from_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, path_code(errno), "move '%s'", from);
	autoclose int to_fd = path_open_parent(AT_FDCWD, to, owner, &to_name, err);
	if (to_fd < 0)
		return to_fd;
	if (renameat(from_fd, from_name, to_fd, to_name) < 0)
		return err_sys(err, path_code(errno), "move '%s' to '%s'", from, to);
	return 0;
}

void filesystem_move(struct exchange *ex)
{
	autojson struct json json = {};
	struct owner_ids owner;
	struct err err = {};
	const struct json_node *message = connect_request(ex, &json);
	autofree char *from = message ? files_path(ex, message, "source", &owner) : NULL;
	autofree char *to = from ? files_path(ex, message, "destination", &owner) : NULL;

	if (!to)
		return;
	if (move(from, to, &owner, &err) < 0)
		return connect_fail_err(ex, &err);
	reply_entry(ex, to);
}

static int run_remove(int out_fd, const struct helper_job *job, struct err *err)
{
	(void)out_fd;
	return tree_remove(job->path, err);
}

void filesystem_remove(struct exchange *ex)
{
	autojson struct json json = {};
	struct owner_ids owner;
	struct stat st;
	const struct json_node *message = connect_request(ex, &json);
	autofree char *path = message ? files_path(ex, message, "path", &owner) : NULL;

	if (!path)
		return;
	if (strcmp(path, "/") == 0)
		return connect_fail(ex, CONNECT_INVALID_ARGUMENT, "the root directory cannot be removed");
	if (lstat(path, &st) < 0 && errno == ENOENT)
		return connect_reply(ex, "{}", 2); /* it is not there any more, as wanted */
	helper_start(ex, &(struct helper_job){ .run = run_remove, .path = path, .outlives_client = true });
}
