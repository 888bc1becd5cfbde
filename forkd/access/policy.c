// SPDX-License-Identifier: Apache-2.0
/* The roots are held open, so that renaming a directory above them changes nothing. */
#include "forkd/access/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "forkd/access/as_caller.h"
#include "forkd/errors.h"
#include "forkd/registry/record.h"

struct root {
	char *path; /* without '/' at its end; "" is the root directory */
	int fd;
};

struct policy {
	struct root *roots;
	uint32_t n;
};

static int open_root(const char *path, struct root *root, struct err *err)
{
	size_t len = strlen(path);

	if (path[0] != '/')
		return err_set(err, ERR_INVALID, "--allow-path '%s': must be an absolute path", path);
	while (len > 0 && path[len - 1] == '/')
		len--;
	root->fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root->fd < 0)
		return err_sys(err, ERR_INVALID, "--allow-path '%s'", path);
	root->path = strndup(path, len);
	return root->path ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "--allow-path '%s'", path);
}

int policy_new(char *const *roots, uint32_t n_roots, struct policy **ret, struct err *err)
{
	struct policy *p = calloc(1, sizeof(*p));

	if (p)
		p->roots = calloc(n_roots ? n_roots : 1, sizeof(*p->roots));
	if (!p || !p->roots) {
		policy_free(p);
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the path policy");
	}
	for (uint32_t i = 0; i < n_roots; i++)
		p->roots[i].fd = -1;
	p->n = n_roots;
	for (uint32_t i = 0; i < n_roots; i++) {
		if (open_root(roots[i], &p->roots[i], err) < 0) {
			policy_free(p);
			return err->num;
		}
	}
	*ret = p;
	return 0;
}

void policy_free(struct policy *p)
{
	if (!p)
		return;
	for (uint32_t i = 0; i < p->n; i++) {
		if (p->roots[i].fd >= 0)
			close(p->roots[i].fd);
		free(p->roots[i].path);
	}
	free(p->roots);
	free(p);
}

/* Checks that the path is absolute, and that no part of the path is "..". */
static int check_shape(const char *path, struct err *err)
{
	if (path[0] != '/')
		return fail(err, E_INVALID, "path '%s' must be absolute", path);
	if (strlen(path) >= 4096)
		return fail(err, E_INVALID, "path of %zu bytes is too long", strlen(path));
	for (const char *p = path; *p; p += strcspn(p, "/")) {
		p += strspn(p, "/");
		if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == '\0'))
			return fail(err, E_INVALID, "path '%s' must not have '..' in it", path);
	}
	return 0;
}

/* Whether the host fails, and not the path that was named. */
static bool is_of_the_host(int num)
{
	return num == ENOMEM || num == EMFILE || num == ENFILE || num == EAGAIN || num == EIO || num == ENOSPC ||
	       num == EDQUOT || num == ENOSYS;
}

static int open_failed(const char *path, int num, struct err *err)
{
	err_num(err, is_of_the_host(num) ? ERR_INTERNAL : ERR_INVALID, num, "open '%s'", path);
	return fail_as(err,
		       err->code == ERR_INVALID         ? E_INVALID
		       : num == ENOSPC || num == EDQUOT ? E_NO_SPACE
							: E_INTERNAL,
		       NULL);
}

/* The part of the path below the root; "." for the root itself; NULL for a path elsewhere. */
static const char *below(const struct root *root, const char *path)
{
	size_t len = strlen(root->path);

	if (strncmp(path, root->path, len) != 0 || (path[len] != '/' && path[len] != '\0'))
		return NULL;
	path += len;
	path += strspn(path, "/");
	return *path ? path : ".";
}

/* A path below a root; `flags` are open()'s. */
struct below_open {
	int root_fd;
	const char *rest;
	int flags;
	bool to_write; /* for a directory: the caller must be able to make files in it */
};

/* May run in a child of as_caller(). */
static int open_below(const void *arg)
{
	const struct below_open *o = arg;
	struct open_how how = {
		.flags = (uint64_t)(o->flags | O_CLOEXEC | O_NOCTTY),
		.mode = o->flags & O_CREAT ? 0600 : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	int fd = (int)syscall(SYS_openat2, o->root_fd, o->rest, &how, sizeof(how));

	if (fd < 0)
		return -errno;
	if (o->to_write && syscall(SYS_faccessat2, fd, "", W_OK | X_OK, AT_EMPTY_PATH | AT_EACCESS) < 0) {
		int num = errno;
		close(fd);
		return -num;
	}
	return fd;
}

/*
 * Opens a path below a root with the rights of the caller. The token is no account: the roots alone
 * bound what it reaches.
 */
static int open_for(const struct caller *c, const struct below_open *what, const char *path, int *ret_fd,
		    struct err *err)
{
	bool as_him;

	if (caller_act_as(c, &as_him, err) < 0)
		return err->num;
	int fd = as_him ? as_caller(c->uid, c->gid, open_below, what) : open_below(what);
	if (fd == -ELOOP || fd == -EXDEV)
		return fail(err, E_FORBIDDEN, "path '%s' leads through a symbolic link", path);
	if (fd < 0)
		return open_failed(path, -fd, err);
	*ret_fd = fd;
	return 0;
}

static int open_named(const struct policy *p, const struct caller *c, const char *path, int flags, bool to_write,
		      int *ret_fd, struct err *err)
{
	if (check_shape(path, err) < 0)
		return err->num;
	if (c->trusted) {
		int fd = open(path, flags | O_CLOEXEC | O_NOCTTY, 0600);
		*ret_fd = fd >= 0 ? fd : *ret_fd;
		return fd < 0 ? open_failed(path, errno, err) : 0;
	}
	for (uint32_t i = 0; i < p->n; i++) {
		const char *rest = below(&p->roots[i], path);
		if (!rest)
			continue;
		const struct below_open what = { p->roots[i].fd, rest, flags, to_write };
		return open_for(c, &what, path, ret_fd, err);
	}
	return fail(err, E_FORBIDDEN, "path '%s' is not below a root of --allow-path", path);
}

int policy_open(const struct policy *p, const struct caller *c, const char *path, int flags, int *ret_fd,
		struct err *err)
{
	return open_named(p, c, path, flags, false, ret_fd, err);
}

int policy_open_dir(const struct policy *p, const struct caller *c, const char *path, int *ret_fd, struct err *err)
{
	return open_named(p, c, path, O_RDONLY | O_DIRECTORY, true, ret_fd, err);
}

/* ---- what is only read ---- */

/* A file to look up without opening it: the arguments of openat2(). */
struct look {
	int at;
	const char *path, *shown; /* shown: in messages */
	uint64_t flags, resolve;
};

static int look_up(const void *arg)
{
	const struct look *l = arg;
	struct open_how how = { .flags = l->flags | O_PATH | O_CLOEXEC, .resolve = l->resolve };
	int fd = (int)syscall(SYS_openat2, l->at, l->path, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

/*
 * Opens a file for reading by a path in /proc/self/fd, which leads to the file whatever its name is
 * by now.
 */
static int open_again(const void *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static bool name_of(int fd, char ret[PATH_MAX])
{
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, ret, PATH_MAX - 1);
	ret[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/*
 * Checks that the file that was found, perhaps through links, is below a root. `path` is the path
 * that the caller named.
 */
static int check_found(const struct policy *p, int fd, const char *path, struct err *err)
{
	char found[PATH_MAX], root[PATH_MAX];

	if (!name_of(fd, found))
		return err_sys(err, ERR_INTERNAL, "find out where '%s' is", path);
	for (uint32_t i = 0; i < p->n; i++) {
		size_t len = name_of(p->roots[i].fd, root) ? strlen(root) : 0;
		if (len == 1)
			return 0; /* the root is "/" */
		if (len > 0 && strncmp(found, root, len) == 0 && (found[len] == '/' || found[len] == '\0'))
			return 0;
	}
	return fail(err, E_FORBIDDEN, "'%s' leads to '%s', which is not below a root of --allow-path", path, found);
}

/*
 * Which links a caller may not follow, as flags of openat2(). Magic links of /proc are only for
 * trusted callers: the process that acts for any other caller is a copy of the daemon, so
 * /proc/self would show the daemon's files. Symbolic links are not for the token: without an
 * account, nothing bounds where a link may lead.
 */
static uint64_t links_of(const struct caller *c)
{
	if (c->trusted)
		return 0;
	return RESOLVE_NO_MAGICLINKS | (c->local ? 0 : RESOLVE_NO_SYMLINKS);
}

static int find_source(const struct policy *p, const struct caller *c, const struct look *l, struct err *err)
{
	bool as_him;

	if (caller_act_as(c, &as_him, err) < 0)
		return err->num;
	autoclose int fd = as_him ? as_caller(c->uid, c->gid, look_up, l) : look_up(l);
	if (fd == -ELOOP && !c->trusted)
		return fail(err, E_FORBIDDEN, "'%s' leads through a symbolic link", l->shown);
	if (fd < 0)
		return open_failed(l->shown, -fd, err);
	return !c->trusted && check_found(p, fd, l->shown, err) < 0 ? err->num : steal_fd(&fd);
}

int policy_open_source_dir(const struct policy *p, const struct caller *c, const char *path, struct err *err)
{
	struct look l = { AT_FDCWD, path, path, O_DIRECTORY, links_of(c) };

	if (check_shape(path, err) < 0)
		return err->num;
	if (c->trusted)
		return find_source(p, c, &l, err);
	for (uint32_t i = 0; i < p->n; i++) {
		l.at = p->roots[i].fd;
		l.path = below(&p->roots[i], path);
		if (l.path)
			return find_source(p, c, &l, err);
	}
	return fail(err, E_FORBIDDEN, "path '%s' is not below a root of --allow-path", path);
}

int policy_open_source(const struct policy *p, const struct caller *c, int dir_fd, const char *name, struct err *err)
{
	const struct look l = { dir_fd, name, name, 0, links_of(c) };
	autoclose int found = find_source(p, c, &l, err);
	char again[32], end[2];
	struct stat st;
	bool as_him;

	if (found == -ENOENT && readlinkat(dir_fd, name, end, sizeof(end)) < 0) {
		*err = (struct err){};
		return fail(err, E_BAD_SNAPSHOT, "%s is missing", name);
	}
	if (found < 0 || caller_act_as(c, &as_him, err) < 0)
		return err->num;
	if (fstat(found, &st) < 0 || !S_ISREG(st.st_mode)) /* opening a device may have an effect */
		return fail(err, E_BAD_SNAPSHOT, "%s is not a regular file", name);
	snprintf(again, sizeof(again), "/proc/self/fd/%d", found);
	int fd = as_him ? as_caller(c->uid, c->gid, open_again, again) : open_again(again);
	return fd < 0 ? open_failed(name, -fd, err) : fd;
}
