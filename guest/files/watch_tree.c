// SPDX-License-Identifier: Apache-2.0
/* Trees of watches: which directories are watched. */
#include <errno.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/vfs.h>

#include "guest/files/path.h"
#include "guest/files/watch_private.h"

enum { ADD_COST = 8 };
enum { EVENTS = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_MODIFY | IN_ATTRIB };

void watch_report(struct watch_tree *t, const struct node *n, enum watch_event event, const char *name)
{
	autostrbuf struct strbuf path = {};

	watch_path(n, name, false, &path);
	t->report(t->ctx, event, path.len > 0 ? path.text : ".");
}

/* ---- watching ---- */

static int add_error(struct err *err, const char *path)
{
	if (errno == ENOSPC)
		return err_num(err, ERR_BUSY, ENOSPC, "watch '%s': the kernel's limit, fs.inotify.max_user_watches",
			       path);
	return err_sys(err, path_code(errno), "watch '%s'", path);
}

int watch_add(struct watch_tree *t, struct node *parent, const char *name, bool was_made, struct err *err)
{
	unsigned mask = EVENTS | IN_ONLYDIR | IN_EXCL_UNLINK |
			(parent ? IN_DONT_FOLLOW : IN_DELETE_SELF | IN_MOVE_SELF);
	autostrbuf struct strbuf path = {};

	if (parent)
		watch_path(parent, name, true, &path);
	else
		strbuf_puts(&path, name);
	if (path.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "watch '%s'", name);
	if (watch_count() >= WATCH_DIRS_MAX)
		return err_num(err, ERR_BUSY, EMFILE, "watch '%s': more than %d directories", path.text,
			       WATCH_DIRS_MAX);
	int wd = inotify_add_watch(t->fd, path.text, mask);
	if (wd < 0)
		return add_error(err, path.text);
	if (watch_find(t, wd)) /* a directory that is in the tree twice, by a mount */
		return 0;
	struct node *n = watch_node_new(t, wd, name);
	if (!n) {
		inotify_rm_watch(t->fd, wd);
		return err_num(err, ERR_INTERNAL, ENOMEM, "watch '%s'", path.text);
	}
	watch_link(n, parent);
	if (!parent)
		t->root = n;
	if (t->recursive)
		watch_push_new(t, n, was_made);
	return 0;
}

bool watch_is_fatal(int r, const struct err *err)
{
	return r < 0 && (err->code == ERR_BUSY || r == -ENOMEM);
}

/* The next directory to look through; false: all were. */
static bool begin_look(struct watch_tree *t)
{
	autostrbuf struct strbuf path = {};

	while (!t->dir && (t->looked_at = watch_pop_new(t))) {
		watch_path(t->looked_at, "", true, &path);
		t->dir = path.failed ? NULL : opendir(path.text);
	}
	return t->dir;
}

/* One entry: a directory is watched, and what was made under the tree's eyes is reported. */
static int look_at(struct watch_tree *t, const struct dirent *e, struct err *err)
{
	struct node *n = t->looked_at;
	struct err ignored = {};

	t->left--;
	if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
		return 0;
	if (n->was_made)
		watch_report(t, n, WATCH_CREATE, e->d_name);
	if (e->d_type != DT_DIR && e->d_type != DT_UNKNOWN)
		return 0;
	t->left -= ADD_COST;
	int r = watch_add(t, n, e->d_name, n->was_made, &ignored);
	if (!watch_is_fatal(r, &ignored))
		return 0;
	*err = ignored;
	return r;
}

int watch_look_through(struct watch_tree *t, struct err *err)
{
	while (t->left > 0) {
		if (!begin_look(t))
			return 0;
		const struct dirent *e = readdir(t->dir);
		int r = e ? look_at(t, e, err) : 0;
		if (r < 0)
			return r;
		if (!e)
			watch_end_look(t);
	}
	return t->dir || t->first_new;
}

/* ---- the tree ---- */

/* Network file systems, whose servers have other clients (linux/magic.h). */
static bool is_network(const char *path)
{
	static const unsigned magic[] = { 0x6969, 0xff534d42, 0x517b, 0xfe534d42,
					  0x65735546 }; /* NFS, CIFS, SMB, SMB2, FUSE */
	struct statfs st;

	if (statfs(path, &st) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(magic); i++)
		if ((unsigned)st.f_type == magic[i])
			return true;
	return false;
}

int watch_tree_new(const char *path, bool recursive, bool network, struct watch_tree **ret_tree, struct err *err)
{
	struct watch_tree *t = calloc(1, sizeof(*t));

	if (!t)
		return err_num(err, ERR_INTERNAL, ENOMEM, "watch '%s'", path);
	*t = (struct watch_tree){ .recursive = recursive, .last_new = &t->first_new };
	t->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	int r = t->fd < 0 ? err_sys(err, ERR_BUSY, "watch '%s': fs.inotify.max_user_instances", path)
			  : watch_add(t, NULL, path, false, err);
	if (r == 0 && !network && is_network(path))
		r = err_set(err, ERR_INVALID, "path '%s' is on a network file system", path);
	if (r < 0)
		watch_tree_free(t);
	else
		*ret_tree = t;
	return r;
}

int watch_tree_grow(struct watch_tree *t, struct err *err)
{
	t->left = WATCH_TURN;
	return watch_look_through(t, err);
}

void watch_tree_free(struct watch_tree *t)
{
	if (!t)
		return;
	if (t->fd >= 0)
		close(t->fd); /* with all its watches */
	t->fd = -1;
	if (t->moving)
		watch_free_below(t, t->moving);
	if (t->root)
		watch_free_below(t, t->root);
	(void)!watch_pop_new(t); /* all are gone: frees them */
	free(t);
}

int watch_tree_fd(const struct watch_tree *t)
{
	return t->fd;
}
