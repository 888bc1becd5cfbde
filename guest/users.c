// SPDX-License-Identifier: Apache-2.0
/* Reads the lines of passwd(5) and group(5). A line that is not right is passed over, as the C library does. */
#include "guest/users.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/io.h"
#include "common/json64.h"

#define PASSWD "/etc/passwd"
#define GROUP "/etc/group"

/* The text of a file, in heap, LIMIT_DATABASE bytes of it at most. */
static char *text_of(const char *path)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);

	if (size < 0)
		return NULL;
	if (size > LIMIT_DATABASE)
		size = LIMIT_DATABASE;
	char *text = malloc((size_t)size + 1);
	if (!text)
		return NULL;
	const ssize_t n = io_read(fd, text, (uint64_t)size, 0);
	text[n > 0 ? n : 0] = '\0';
	return text;
}

/* Cuts the next line of *text into its fields; more fields than `max` stay in the last one. How many; -1: the end. */
static int next_line(char **text, char *fields[], int max)
{
	char *line = strsep(text, "\n");
	int n = 0;

	for (; line && n < max; n++)
		fields[n] = n < max - 1 ? strsep(&line, ":") : steal_ptr(&line);
	return n > 0 ? n : -1;
}

static bool to_id(const char *text, uint32_t *ret_id)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	const unsigned long v = strtoul(text, &end, 10);
	if (errno || *end || v >= UINT32_MAX)
		return false;
	*ret_id = (uint32_t)v;
	return true;
}

static void add_groups(struct user *user, const char *path)
{
	autofree char *text = text_of(path);
	char *at = text, *f[4];
	uint32_t gid;

	user->groups[user->n_groups++] = user->gid;
	for (int n; (n = next_line(&at, f, 4)) >= 0;) {
		if (n < 4 || !to_id(f[2], &gid) || gid == user->gid)
			continue;
		for (char *member; (member = strsep(&f[3], ","));) {
			if (strcmp(member, user->name) == 0 && user->n_groups < LIMIT_GROUPS) {
				user->groups[user->n_groups++] = gid;
				break;
			}
		}
	}
}

int user_find_in(const char *passwd, const char *group, const char *name, struct user *ret_user, struct err *err)
{
	autofree char *text = text_of(passwd);
	char *at = text, *f[7];
	uint32_t uid, gid;

	if (!text)
		return err_sys(err, ERR_NOT_FOUND, "user '%.64s': read %s", name, passwd);
	for (int n; (n = next_line(&at, f, 7)) >= 0;) {
		if (n < 6 || *f[0] == '\0' || strcmp(f[0], name) != 0 || !to_id(f[2], &uid) || !to_id(f[3], &gid))
			continue;
		static char root[] = "/", shell[] = "/bin/sh";
		*ret_user = (struct user){
			.name = f[0],
			.home = *f[5] == '/' ? f[5] : root,
			.shell = n > 6 && *f[6] ? f[6] : shell,
			.uid = uid,
			.gid = gid,
			.text = steal_ptr(&text),
		};
		add_groups(ret_user, group);
		return 0;
	}
	return err_set(err, ERR_NOT_FOUND, "user '%.64s' does not exist", name);
}

int user_find(const char *name, struct user *ret_user, struct err *err)
{
	return user_find_in(PASSWD, GROUP, name, ret_user, err);
}

static char *name_of(const char *path, uint32_t id)
{
	autofree char *text = text_of(path);
	char *at = text, *f[4], *name = NULL;
	uint32_t found;

	for (int n; (n = next_line(&at, f, 4)) >= 0;)
		if (n >= 3 && to_id(f[2], &found) && found == id && utf8_valid(f[0]))
			return strdup(f[0]);
	return asprintf(&name, "%u", id) < 0 ? NULL : name;
}

static int group_find_in(const char *path, const char *name, gid_t *ret_gid, struct err *err)
{
	autofree char *text = text_of(path);
	char *at = text, *f[4];

	for (int n; (n = next_line(&at, f, 4)) >= 0;)
		if (n >= 3 && strcmp(f[0], name) == 0 && to_id(f[2], ret_gid))
			return 0;
	return err_set(err, ERR_NOT_FOUND, "group '%.64s' does not exist", name);
}

/* The user of a number: by the name of its line, or without one. */
static int user_of_number(const char *passwd, const char *group, uint32_t uid, struct user *ret_user, struct err *err)
{
	static char root[] = "/", shell[] = "/bin/sh";
	autofree char *name = name_of(passwd, uid);

	if (!name)
		return err_num(err, ERR_INTERNAL, ENOMEM, "user %u", uid);
	if (*name < '0' || *name > '9')
		return user_find_in(passwd, group, name, ret_user, err);
	*ret_user =
		(struct user){ .name = name, .home = root, .shell = shell, .uid = uid, .n_groups = 1, .text = name };
	steal_ptr(&name);
	return 0;
}

int user_find_spec_in(const char *passwd, const char *group, const char *spec, struct user *ret_user, struct err *err)
{
	autofree char *name = strdup(spec);
	autouser struct user user = {};
	uint32_t id = 0;

	if (!name)
		return err_num(err, ERR_INTERNAL, ENOMEM, "user '%.64s'", spec);
	char *own_group = strchr(name, ':');
	if (own_group)
		*own_group++ = '\0';
	int r = to_id(name, &id) ? user_of_number(passwd, group, id, &user, err)
				 : user_find_in(passwd, group, name, &user, err);
	if (r < 0)
		return r;
	if (own_group && !to_id(own_group, &id) && group_find_in(group, own_group, &id, err) < 0)
		return err->num;
	if (own_group) {
		user.gid = user.groups[0] = id;
		user.n_groups = 1;
	}
	*ret_user = user;
	user = (struct user){};
	return 0;
}

int user_find_spec(const char *spec, struct user *ret_user, struct err *err)
{
	return user_find_spec_in(PASSWD, GROUP, spec, ret_user, err);
}

int group_find(const char *name, gid_t *ret_gid, struct err *err)
{
	return group_find_in(GROUP, name, ret_gid, err);
}

void user_done(struct user *user)
{
	free(user->text);
	*user = (struct user){};
}

char *user_name_of(uid_t uid)
{
	return name_of(PASSWD, uid);
}

char *group_name_of(gid_t gid)
{
	return name_of(GROUP, gid);
}
