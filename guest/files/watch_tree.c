// SPDX-License-Identifier: Apache-2.0
/* Trees of inotify watches: a node for each directory, found by its watch descriptor. */
#include "guest/files/watch_tree.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "common/json64.h"
#include "guest/files/path.h"
#include "guest/files/upload.h"

/* A directory that is watched. The root has no parent, and its name is the path. */
struct node {
	int wd; /* first: the key of the search tree */
	struct node *parent, *children, **back, *next;
	struct node *next_new; /* in the list of those that were not looked through */
	bool is_new;           /* in that list */
	bool was_made;         /* while its parent was watched */
	char *name;
};

struct watch_tree {
	int fd;
	bool recursive;
	void *by_wd; /* for tsearch(3) */
	struct node *root, *first_new, **last_new;
	struct node *moving; /* has left its parent, in this batch of events; may come back */
	uint32_t moving_cookie, hidden_cookie;
	bool hidden_is_new;
	void (*report)(void *ctx, enum watch_event event, const char *name);
	void *ctx;
	DIR *dir; /* of the node that is being looked through */
	struct node *looked_at;
	int left; /* of WATCH_TURN in this call */
};

/* Of all trees. */
static unsigned watched;

enum { ADD_COST = 8 };
enum { EVENTS = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_MODIFY | IN_ATTRIB };

/* ---- nodes ---- */

static int by_wd(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

static struct node *find(struct watch_tree *t, int wd)
{
	struct node *const *found = tfind(&wd, &t->by_wd, by_wd);

	return found ? *found : NULL;
}

static struct node *find_child(const struct node *parent, const char *name)
{
	for (struct node *n = parent->children; n; n = n->next)
		if (strcmp(n->name, name) == 0)
			return n;
	return NULL;
}

static void link_node(struct node *n, struct node *parent)
{
	n->parent = parent;
	if (!parent)
		return;
	n->next = parent->children;
	n->back = &parent->children;
	if (n->next)
		n->next->back = &n->next;
	parent->children = n;
}

static void unlink_node(struct node *n)
{
	if (n->back)
		*n->back = n->next;
	if (n->next)
		n->next->back = n->back;
	n->parent = n->next = NULL;
	n->back = NULL;
}

/* NULL: no memory. */
static struct node *new_node(struct watch_tree *t, int wd, const char *name)
{
	autofree struct node *n = calloc(1, sizeof(*n));
	autofree char *copy = strdup(name);

	if (!n || !copy)
		return NULL;
	n->wd = wd;
	if (!tsearch(n, &t->by_wd, by_wd))
		return NULL;
	n->name = steal_ptr(&copy);
	watched++;
	return steal_ptr(&n);
}

static void push_new(struct watch_tree *t, struct node *n, bool was_made)
{
	n->is_new = true;
	n->was_made = was_made;
	*t->last_new = n;
	t->last_new = &n->next_new;
}

/* NULL: there is none. */
static struct node *pop_new(struct watch_tree *t)
{
	for (struct node *n; (n = t->first_new);) {
		t->first_new = n->next_new;
		if (!t->first_new)
			t->last_new = &t->first_new;
		n->next_new = NULL;
		n->is_new = false;
		if (n->name)
			return n;
		free(n);
	}
	return NULL;
}

static void end_look(struct watch_tree *t)
{
	closedir(t->dir);
	t->dir = NULL;
	t->looked_at = NULL;
}

static void free_node(struct watch_tree *t, struct node *n)
{
	unlink_node(n);
	tdelete(n, &t->by_wd, by_wd);
	if (t->root == n)
		t->root = NULL;
	if (t->moving == n)
		t->moving = NULL;
	if (t->looked_at == n)
		end_look(t);
	watched--;
	free(n->name);
	n->name = NULL;
	if (!n->is_new) /* else pop_new() frees the node */
		free(n);
}

/* Lets go of a directory and of all below it, from the bottom up. */
static void free_below(struct watch_tree *t, struct node *top)
{
	for (struct node *n = top; n;) {
		while (n->children)
			n = n->children;
		struct node *up = n == top ? NULL : n->parent;
		inotify_rm_watch(t->fd, n->wd);
		free_node(t, n);
		n = up;
	}
}

/* ---- paths ---- */

/* The path of `name` in the node; relative to the tree's directory, or absolute. */
static void node_path(const struct node *n, const char *name, bool absolute, struct strbuf *out)
{
	const struct node *chain[PATH_BYTES_MAX / 2 + 1];
	size_t depth = 0;

	out->len = 0;
	for (; n && (absolute || n->parent) && depth < ARRAY_LEN(chain); n = n->parent)
		chain[depth++] = n;
	while (depth-- > 0) {
		strbuf_puts(out, chain[depth]->name);
		if (out->len > 0 && out->text[out->len - 1] != '/')
			strbuf_putc(out, '/');
	}
	strbuf_puts(out, name);
	if (name[0] == '\0' && out->len > 1)
		out->text[--out->len] = '\0';
}

static void report(struct watch_tree *t, const struct node *n, enum watch_event event, const char *name)
{
	autostrbuf struct strbuf path = {};

	node_path(n, name, false, &path);
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

/*
 * Watches one more directory. -ENOENT, -ENOTDIR …: it is none (any more), which is no error of the
 * tree; err is set for all.
 */
static int add(struct watch_tree *t, struct node *parent, const char *name, bool was_made, struct err *err)
{
	unsigned mask = EVENTS | IN_ONLYDIR | IN_EXCL_UNLINK |
			(parent ? IN_DONT_FOLLOW : IN_DELETE_SELF | IN_MOVE_SELF);
	autostrbuf struct strbuf path = {};

	if (parent)
		node_path(parent, name, true, &path);
	else
		strbuf_puts(&path, name);
	if (path.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "watch '%s'", name);
	if (watched >= WATCH_DIRS_MAX)
		return err_num(err, ERR_BUSY, EMFILE, "watch '%s': more than %d directories", path.text,
			       WATCH_DIRS_MAX);
	int wd = inotify_add_watch(t->fd, path.text, mask);
	if (wd < 0)
		return add_error(err, path.text);
	if (find(t, wd)) /* a directory that is in the tree twice, by a mount */
		return 0;
	struct node *n = new_node(t, wd, name);
	if (!n) {
		inotify_rm_watch(t->fd, wd);
		return err_num(err, ERR_INTERNAL, ENOMEM, "watch '%s'", path.text);
	}
	link_node(n, parent);
	if (!parent)
		t->root = n;
	if (t->recursive)
		push_new(t, n, was_made);
	return 0;
}

/* What ends the tree: not that one directory is gone, or may not be watched. */
static bool is_fatal(int r, const struct err *err)
{
	return r < 0 && (err->code == ERR_BUSY || r == -ENOMEM);
}

/* The next directory to look through; false: all were. */
static bool begin_look(struct watch_tree *t)
{
	autostrbuf struct strbuf path = {};

	while (!t->dir && (t->looked_at = pop_new(t))) {
		node_path(t->looked_at, "", true, &path);
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
		report(t, n, WATCH_CREATE, e->d_name);
	if (e->d_type != DT_DIR && e->d_type != DT_UNKNOWN)
		return 0;
	t->left -= ADD_COST;
	int r = add(t, n, e->d_name, n->was_made, &ignored);
	if (!is_fatal(r, &ignored))
		return 0;
	*err = ignored;
	return r;
}

/* Looks through new directories, as far as this call goes. 1: some are left. */
static int look_through(struct watch_tree *t, struct err *err)
{
	while (t->left > 0) {
		if (!begin_look(t))
			return 0;
		const struct dirent *e = readdir(t->dir);
		int r = e ? look_at(t, e, err) : 0;
		if (r < 0)
			return r;
		if (!e)
			end_look(t);
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
			  : add(t, NULL, path, false, err);
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
	return look_through(t, err);
}

void watch_tree_free(struct watch_tree *t)
{
	if (!t)
		return;
	if (t->fd >= 0)
		close(t->fd); /* with all its watches */
	t->fd = -1;
	if (t->moving)
		free_below(t, t->moving);
	if (t->root)
		free_below(t, t->root);
	(void)!pop_new(t); /* all are gone: frees them */
	free(t);
}

int watch_tree_fd(const struct watch_tree *t)
{
	return t->fd;
}

/* ---- events ---- */

/*
 * A file without a name (O_TMPFILE) has events in its directory under a name like "#1234": nobody
 * can find such a file.
 */
static bool is_nameless(const struct node *n, const struct inotify_event *e)
{
	autostrbuf struct strbuf path = {};
	struct stat st;

	if (e->name[0] != '#' || !isdigit((unsigned char)e->name[1]) || !(e->mask & (IN_ATTRIB | IN_MODIFY)))
		return false;
	node_path(n, e->name, true, &path);
	return lstat(path.text, &st) < 0;
}

/*
 * The hidden names of uploads. A file that takes its own name is reported as if it had been opened,
 * given its owner and written at that moment.
 */
static bool is_upload(struct watch_tree *t, const struct node *n, const struct inotify_event *e)
{
	bool is_made = strncmp(e->name, UPLOAD_NEW, sizeof(UPLOAD_NEW) - 1) == 0;

	if (is_made || strncmp(e->name, UPLOAD_PUT, sizeof(UPLOAD_PUT) - 1) == 0) {
		if (e->mask & IN_MOVED_FROM) {
			t->hidden_cookie = e->cookie;
			t->hidden_is_new = is_made;
		}
		return true;
	}
	if (!(e->mask & IN_MOVED_TO) || e->cookie == 0 || e->cookie != t->hidden_cookie)
		return false;
	if (t->hidden_is_new) {
		report(t, n, WATCH_CREATE, e->name);
		report(t, n, WATCH_CHMOD, e->name);
	}
	report(t, n, WATCH_WRITE, e->name);
	return true;
}

/* A directory came into the node, or came back under another name. */
static int dir_came(struct watch_tree *t, struct node *parent, const struct inotify_event *e, struct err *err)
{
	autofree char *name = strdup(e->name);
	struct err ignored = {};

	if (e->mask & IN_MOVED_TO && t->moving && t->moving_cookie == e->cookie && name) {
		struct node *n = steal_ptr(&t->moving);
		free(n->name);
		n->name = steal_ptr(&name);
		link_node(n, parent);
		return 0;
	}
	int r = add(t, parent, e->name, e->mask & IN_CREATE, &ignored);
	if (!is_fatal(r, &ignored))
		return 0;
	*err = ignored;
	return r;
}

static void dir_left(struct watch_tree *t, struct node *parent, const struct inotify_event *e)
{
	struct node *n = find_child(parent, e->name);

	if (!n)
		return;
	if (t->moving)
		free_below(t, t->moving);
	unlink_node(n);
	t->moving = n;
	t->moving_cookie = e->cookie;
}

static bool is_in_tree(const struct watch_tree *t, const struct node *n)
{
	while (n->parent)
		n = n->parent;
	return n == t->root;
}

static void report_mask(struct watch_tree *t, const struct node *n, const struct inotify_event *e)
{
	static const struct {
		uint32_t mask;
		enum watch_event event;
	} events[] = {
		{ IN_CREATE | IN_MOVED_TO, WATCH_CREATE },
		{ IN_MOVED_FROM | IN_MOVE_SELF, WATCH_RENAME },
		{ IN_ATTRIB, WATCH_CHMOD },
		{ IN_MODIFY, WATCH_WRITE },
		{ IN_DELETE | IN_DELETE_SELF, WATCH_REMOVE },
	};

	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		if (e->mask & events[i].mask)
			report(t, n, events[i].event, e->len ? e->name : "");
}

static int on_event(struct watch_tree *t, const struct inotify_event *e, struct err *err)
{
	if (e->mask & IN_Q_OVERFLOW)
		return err_set(err, ERR_BUSY, "changes were lost: more of them than fs.inotify.max_queued_events");
	struct node *n = find(t, e->wd);
	if (!n || !is_in_tree(t, n))
		return 0;
	if (e->mask & IN_IGNORED) {
		free_below(t, n);
		return 0;
	}
	if (e->len == 0) { /* what its parent sees of a directory is enough */
		if (n == t->root)
			report_mask(t, n, e);
		return 0;
	}
	if (is_upload(t, n, e) || is_nameless(n, e))
		return 0;
	report_mask(t, n, e);
	if (!t->recursive || !(e->mask & IN_ISDIR))
		return 0;
	if (e->mask & IN_MOVED_FROM)
		dir_left(t, n, e);
	return e->mask & (IN_CREATE | IN_MOVED_TO) ? dir_came(t, n, e, err) : 0;
}

int watch_tree_read(struct watch_tree *t, void (*report_to)(void *ctx, enum watch_event event, const char *name),
		    void *ctx, struct err *err)
{
	_Alignas(struct inotify_event) char buf[16384];

	t->report = report_to;
	t->ctx = ctx;
	t->left = WATCH_TURN;
	int r = look_through(t, err);
	if (r != 0)
		return r;
	ssize_t len = read(t->fd, buf, sizeof(buf));
	if (len <= 0 && t->moving) /* it left the tree */
		free_below(t, t->moving);
	if (len <= 0)
		return 0;
	for (char *p = buf; r >= 0 && p < buf + len;) {
		const struct inotify_event *e = (const void *)p;
		p += sizeof(*e) + e->len;
		r = on_event(t, e, err);
		if (r >= 0)
			r = look_through(t, err);
	}
	return r < 0 ? r : 1;
}
