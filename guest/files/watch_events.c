// SPDX-License-Identifier: Apache-2.0
/* Trees of watches: what the kernel says, and what of it is told. */
#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "guest/files/upload.h"
#include "guest/files/watch_private.h"

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
	watch_path(n, e->name, true, &path);
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
		watch_report(t, n, WATCH_CREATE, e->name);
		watch_report(t, n, WATCH_CHMOD, e->name);
	}
	watch_report(t, n, WATCH_WRITE, e->name);
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
		watch_link(n, parent);
		return 0;
	}
	int r = watch_add(t, parent, e->name, e->mask & IN_CREATE, &ignored);
	if (!watch_is_fatal(r, &ignored))
		return 0;
	*err = ignored;
	return r;
}

static void dir_left(struct watch_tree *t, struct node *parent, const struct inotify_event *e)
{
	struct node *n = watch_find_child(parent, e->name);

	if (!n)
		return;
	if (t->moving)
		watch_free_below(t, t->moving);
	watch_unlink(n);
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
			watch_report(t, n, events[i].event, e->len ? e->name : "");
}

static int on_event(struct watch_tree *t, const struct inotify_event *e, struct err *err)
{
	if (e->mask & IN_Q_OVERFLOW)
		return err_set(err, ERR_BUSY, "changes were lost: more of them than fs.inotify.max_queued_events");
	struct node *n = watch_find(t, e->wd);
	if (!n || !is_in_tree(t, n))
		return 0;
	if (e->mask & IN_IGNORED) {
		watch_free_below(t, n);
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
	int r = watch_look_through(t, err);
	if (r != 0)
		return r;
	ssize_t len = read(t->fd, buf, sizeof(buf));
	if (len <= 0 && t->moving) /* it left the tree */
		watch_free_below(t, t->moving);
	if (len <= 0)
		return 0;
	for (char *p = buf; r >= 0 && p < buf + len;) {
		const struct inotify_event *e = (const void *)p;
		p += sizeof(*e) + e->len;
		r = on_event(t, e, err);
		if (r >= 0)
			r = watch_look_through(t, err);
	}
	return r < 0 ? r : 1;
}
