// SPDX-License-Identifier: Apache-2.0
/* Paths of clients: home, cleaning, directories that are made on the way. */
#include "guest/files/path.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/json64.h"

/* Appends the parts of `text` to the absolute path in `b`, which has no '/' at its end. */
static void append_parts(struct strbuf *b, const char *text)
{
	for (const char *p = text; *p && !b->failed;) {
		p += strspn(p, "/");
		size_t n = strcspn(p, "/");
		if (n == 2 && p[0] == '.' && p[1] == '.') {
			while (b->len > 0 && b->text[--b->len] != '/')
				;
		} else if (n > 0 && !(n == 1 && p[0] == '.')) {
			strbuf_putc(b, '/');
			strbuf_add(b, p, n);
		}
		p += n;
	}
}

static int join(const char *dir, const char *path, char **ret_path, struct err *err)
{
	autostrbuf struct strbuf b = {};

	if (strlen(path) > PATH_BYTES_MAX)
		return err_set(err, ERR_INVALID, "path: %zu bytes, at most %d", strlen(path), PATH_BYTES_MAX);
	if (path[0] != '/')
		append_parts(&b, dir);
	append_parts(&b, path);
	if (b.len == 0)
		strbuf_putc(&b, '/');
	if (b.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "path '%s'", path);
	b.text[b.len] = '\0';
	if (b.len > PATH_BYTES_MAX)
		return err_set(err, ERR_INVALID, "path: %zu bytes in all, at most %d", b.len, PATH_BYTES_MAX);
	*ret_path = steal_ptr(&b.text);
	return 0;
}

int path_resolve(const char *path, const char *home, char **ret_path, struct err *err)
{
	if (path[0] != '~')
		return join(home, path, ret_path, err);
	if (path[1] && path[1] != '/')
		return err_set(err, ERR_INVALID, "path '%s': the home of another user cannot be named", path);
	return join(home, path + 1 + strspn(path + 1, "/"), ret_path, err);
}

const char *path_name(const char *path)
{
	const char *last = strrchr(path, '/');

	return last && last[1] ? last + 1 : path;
}

enum err_code path_code(int num)
{
	switch (num) {
	case ENOENT:
		return ERR_NOT_FOUND;
	case EEXIST:
	case ENOTEMPTY:
		return ERR_CONFLICT;
	case ENOTDIR:
	case EISDIR:
	case ELOOP:
	case ENAMETOOLONG:
	case EINVAL:
	case EXDEV:
	case EROFS:
	case EPERM:
	case EACCES:
	case EBUSY:
		return ERR_INVALID;
	case ENOSPC:
	case EDQUOT:
	case EMFILE:
	case ENFILE:
		return ERR_BUSY;
	default:
		return ERR_INTERNAL;
	}
}

static int open_part(int dir_fd, const char *name)
{
	return openat(dir_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* Makes the directory for `owner`; one that somebody else made meanwhile is as good. */
static int make_part(int dir_fd, const char *name, const struct owner_ids *owner)
{
	if (mkdirat(dir_fd, name, 0755) < 0)
		return errno == EEXIST ? open_part(dir_fd, name) : -1;
	autoclose int fd = openat(dir_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchownat(fd, "", owner->uid, owner->gid, AT_EMPTY_PATH) < 0)
		return -1;
	return steal_fd(&fd);
}

/* Goes down the first `len` bytes of the path. */
static int walk(int at_fd, const char *path, size_t len, const struct owner_ids *owner, struct err *err)
{
	autofree char *copy = strndup(path, len);
	autoclose int fd = openat(at_fd, path[0] == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (!copy || fd < 0)
		return err_sys(err, ERR_INTERNAL, "open the directory of '%s'", path);
	char *rest = copy;
	for (char *part; (part = strtok_r(rest, "/", &rest));) {
		int next = open_part(fd, part);
		if (next < 0 && errno == ENOENT && owner)
			next = make_part(fd, part, owner);
		if (next < 0)
			return err_sys(err, path_code(errno), "directory '%.*s', at '%s'", (int)len, path, part);
		close(fd);
		fd = next;
	}
	return steal_fd(&fd);
}

int path_open_dir(const char *path, const struct owner_ids *owner, struct err *err)
{
	return walk(AT_FDCWD, path, strlen(path), owner, err);
}

int path_open_parent(int at_fd, const char *path, const struct owner_ids *owner, char **ret_name, struct err *err)
{
	const char *name = path_name(path);

	if (name[0] == '/')
		return err_set(err, ERR_INVALID, "path '%s' is a directory", path);
	autoclose int fd = walk(at_fd, path, (size_t)(name - path), owner, err);
	if (fd < 0)
		return fd;
	*ret_name = strdup(name);
	if (!*ret_name)
		return err_num(err, ERR_INTERNAL, ENOMEM, "path '%s'", path);
	return steal_fd(&fd);
}
