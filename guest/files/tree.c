// SPDX-License-Identifier: Apache-2.0
/* Listing and removing directories. */
#include "guest/files/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "guest/files/entry.h"
#include "guest/files/path.h"

/* ---- listing ---- */

enum { FLUSH_BYTES = 65536 };

struct listing {
	int out_fd;
	struct strbuf out;
	struct names names;
	bool any; /* an entry was written */
};

static int flush(struct listing *l, struct err *err)
{
	const char *p = l->out.text;

	if (l->out.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "list");
	for (size_t left = l->out.len; left > 0;) {
		ssize_t n = write(l->out_fd, p, left);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_sys(err, ERR_INTERNAL, "list: write");
		p += n;
		left -= (size_t)n;
	}
	l->out.len = 0;
	return 0;
}

/* The names in a directory, sorted; the strings are in one block. */
struct sorted {
	char **names;
	size_t n;
	struct strbuf block;
};

static void sorted_done(struct sorted *s)
{
	free(s->names);
	strbuf_done(&s->block);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* -errno of opendir() and of readdir() as it is; what is too much is E2BIG. */
static int read_names(const char *path, struct sorted *s)
{
	DIR *dir = opendir(path);
	int r = dir ? 0 : -errno;

	while (dir && r == 0) {
		errno = 0;
		const struct dirent *e = readdir(dir);
		if (!e) {
			r = -errno;
			break;
		}
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		strbuf_add(&s->block, e->d_name, strlen(e->d_name) + 1);
		s->n++;
		if (s->block.len + s->n * sizeof(char *) > TREE_NAMES_MAX)
			r = -E2BIG;
	}
	if (dir)
		closedir(dir);
	s->names = calloc(s->n + 1, sizeof(char *));
	if (r == 0 && (!s->names || s->block.failed))
		r = -ENOMEM;
	if (r < 0)
		return r;
	char *p = s->block.text;
	for (size_t i = 0; i < s->n; i++, p += strlen(p) + 1)
		s->names[i] = p;
	qsort(s->names, s->n, sizeof(char *), by_name);
	return 0;
}

static int list_dir(struct listing *l, const char *path, unsigned depth, struct err *err);

static int list_one(struct listing *l, const char *dir, const char *name, unsigned depth, struct err *err)
{
	autostrbuf struct strbuf path = {};
	size_t before = l->out.len;
	struct stat st;

	strbuf_printf(&path, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, name);
	if (path.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "list '%s'", dir);
	if (l->any)
		strbuf_putc(&l->out, ',');
	if (entry_json(&l->out, &l->names, path.text) < 0) {
		l->out.len = before;
		return 0;
	}
	l->any = true;
	if (l->out.len >= FLUSH_BYTES && flush(l, err) < 0)
		return err->num;
	if (depth <= 1 || lstat(path.text, &st) < 0 || !S_ISDIR(st.st_mode))
		return 0;
	return list_dir(l, path.text, depth - 1, err);
}

static int list_dir(struct listing *l, const char *path, unsigned depth, struct err *err)
{
	__attribute__((cleanup(sorted_done))) struct sorted s = {};
	int r = read_names(path, &s);

	if (r == -E2BIG)
		return err_num(err, ERR_BUSY, E2BIG, "list '%s': its names are more than %d bytes", path,
			       TREE_NAMES_MAX);
	if (r < 0)
		return r == -ENOMEM || !l->any ? err_num(err, path_code(-r), -r, "list '%s'", path) : 0;
	for (size_t i = 0; i < s.n; i++)
		if (list_one(l, path, s.names[i], depth, err) < 0)
			return err->num;
	return 0;
}

int tree_list(int out_fd, const char *path, unsigned depth, struct err *err)
{
	struct listing l = { .out_fd = out_fd };

	names_load(&l.names);
	strbuf_puts(&l.out, "{\"entries\":[");
	int r = list_dir(&l, path, depth > 0 ? depth : 1, err);
	strbuf_puts(&l.out, "]}");
	if (r == 0)
		r = flush(&l, err);
	names_done(&l.names);
	strbuf_done(&l.out);
	return r;
}

/* ---- removing ---- */

/* One directory on the way down: its name in the one above, and what it is. */
struct level {
	char *name;
	dev_t dev;
	ino_t ino;
};

struct removal {
	struct level *levels;
	size_t n, cap;
	int fd; /* of the directory at the bottom of `levels` */
};

static void removal_done(struct removal *rm)
{
	for (size_t i = 0; i < rm->n; i++)
		free(rm->levels[i].name);
	free(rm->levels);
	if (rm->fd >= 0)
		close(rm->fd);
}

/* Goes into the directory `name` of the one at the bottom, or of `dir_fd` in the beginning. */
static int go_down(struct removal *rm, int dir_fd, const char *name)
{
	autoclose int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (rm->n == TREE_LEVELS_MAX)
		return -ENAMETOOLONG;
	if (rm->n == rm->cap) {
		size_t cap = rm->cap ? 2 * rm->cap : 16;
		struct level *levels = reallocarray(rm->levels, cap, sizeof(*levels));
		if (!levels)
			return -ENOMEM;
		rm->levels = levels;
		rm->cap = cap;
	}
	char *copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	rm->levels[rm->n++] = (struct level){ copy, st.st_dev, st.st_ino };
	if (rm->fd >= 0)
		close(rm->fd);
	rm->fd = steal_fd(&fd);
	return 0;
}

/* Leaves the empty directory at the bottom, and removes it from the one above, if that is still the one above. */
static int go_up(struct removal *rm, int top_fd)
{
	struct level *bottom = &rm->levels[--rm->n];
	autofree char *name = steal_ptr(&bottom->name);
	const struct level *above = rm->n > 0 ? &rm->levels[rm->n - 1] : NULL;
	autoclose int fd = openat(rm->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (!above)
		return unlinkat(top_fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_dev != above->dev || st.st_ino != above->ino)
		return -ESTALE; /* somebody has moved it */
	close(rm->fd);
	rm->fd = steal_fd(&fd);
	return unlinkat(rm->fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

/* Removes what is in the directory at the bottom, up to the first directory in it. 1: went down into that. */
static int empty(struct removal *rm)
{
	autoclose int fd = openat(rm->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int r = 0;

	if (!dir)
		return -errno;
	steal_fd(&fd);
	for (const struct dirent *e; r == 0 && (e = readdir(dir));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(rm->fd, e->d_name, 0) == 0 || errno == ENOENT)
			continue;
		r = -errno;
		if (r == -EISDIR || r == -EPERM) {
			int down = go_down(rm, rm->fd, e->d_name);
			r = down == 0 ? 1 : down == -ENOTDIR ? r : down;
		}
	}
	closedir(dir);
	return r;
}

int tree_remove(const char *path, struct err *err)
{
	__attribute__((cleanup(removal_done))) struct removal rm = { .fd = -1 };
	autofree char *name = NULL;
	autoclose int top_fd = path_open_parent(AT_FDCWD, path, NULL, &name, err);

	if (top_fd < 0)
		return top_fd;
	if (unlinkat(top_fd, name, 0) == 0)
		return 0;
	int why = errno;
	int r = why == EISDIR || why == EPERM ? go_down(&rm, top_fd, name) : -why;
	if (r == -ENOTDIR)
		r = -why;
	while (r >= 0 && rm.n > 0) {
		r = empty(&rm);
		if (r == 0)
			r = go_up(&rm, top_fd);
	}
	if (r < 0 && rm.n > 0)
		return err_num(err, path_code(-r), -r, "remove '%s': in the directory '%s'", path,
			       rm.levels[rm.n - 1].name);
	return r < 0 ? err_num(err, path_code(-r), -r, "remove '%s'", path) : 0;
}
