// SPDX-License-Identifier: Apache-2.0
/* Watches that clients have: one tree each, and where its changes go. */
#include "guest/files/watchers.h"

#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "guest/connect.h"
#include "guest/files/entry.h"
#include "guest/files/filesystem.h"
#include "guest/files/watch_tree.h"
#include "guest/message.h"

enum { ID_BYTES = 24 };

struct watcher {
	struct loop *loop;
	struct watch_tree *tree;
	struct watch readable;
	struct timer again; /* there is more to do, after others had their turn */
	struct timer keepalive, deadline;
	uint64_t keepalive_ns;
	struct exchange *ex; /* of the stream; of CreateWatcher until it is answered; else NULL */
	bool is_stream, with_entries;
	bool is_whole;  /* all of the tree is watched, and the client knows */
	bool is_held;   /* the client has to take what there is first */
	bool is_failed; /* what has happened is `err` */
	struct err err;
	char *path, id[ID_BYTES];
	struct strbuf events; /* JSON objects with commas between them, which GetWatcherEvents gets */
	struct names names;   /* for entries; loaded once for a call of watch_tree_read() */
	struct watcher *next, **link;
};

static struct watcher *watchers;
static unsigned n_watchers;

static void watcher_free(struct watcher *w)
{
	loop_del(w->loop, &w->readable);
	loop_timer_cancel(&w->again);
	loop_timer_cancel(&w->keepalive);
	loop_timer_cancel(&w->deadline);
	watch_tree_free(w->tree);
	strbuf_done(&w->events);
	names_done(&w->names);
	free(w->path);
	*w->link = w->next;
	if (w->next)
		w->next->link = w->link;
	n_watchers--;
	free(w);
}

static struct watcher *watcher_new(struct loop *loop)
{
	struct watcher *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->loop = loop;
	w->next = watchers;
	w->link = &watchers;
	if (w->next)
		w->next->link = &w->next;
	watchers = w;
	n_watchers++;
	return w;
}

/* ---- what goes to the client ---- */

static void send_message(struct watcher *w, const char *json, size_t len)
{
	stream_message(w->ex, json, len);
	loop_timer_set(w->loop, &w->keepalive, monotonic_ns() + w->keepalive_ns);
}

static void on_keepalive(struct timer *t)
{
	struct watcher *w = container_of(t, struct watcher, keepalive);

	send_message(w, "{\"keepalive\":{}}", strlen("{\"keepalive\":{}}"));
}

static void add_entry(struct watcher *w, const char *name, struct strbuf *out)
{
	autostrbuf struct strbuf path = {}, entry = {};

	strbuf_puts(&path, w->path);
	if (strcmp(name, ".") != 0)
		strbuf_printf(&path, "%s%s", strcmp(w->path, "/") == 0 ? "" : "/", name);
	if (!w->names.users.text)
		names_load(&w->names);
	if (!path.failed && entry_json(&entry, &w->names, path.text) == 0 && !entry.failed)
		strbuf_printf(out, ",\"entry\":%s", entry.text);
}

/* What has gone, or has another name now, has no entry. */
static void on_change(void *ctx, enum watch_event event, const char *name)
{
	static const struct {
		const char *type;
		bool is_there;
	} events[] = {
		[WATCH_CREATE] = { "CREATE", true },  [WATCH_WRITE] = { "WRITE", true },
		[WATCH_REMOVE] = { "REMOVE", false }, [WATCH_RENAME] = { "RENAME", false },
		[WATCH_CHMOD] = { "CHMOD", true },
	};
	struct watcher *w = ctx;
	autostrbuf struct strbuf out = {};

	strbuf_puts(&out, w->is_stream ? "{\"filesystem\":{\"name\":" : "{\"name\":");
	entry_text(&out, name);
	strbuf_printf(&out, ",\"type\":\"EVENT_TYPE_%s\"", events[event].type);
	if (w->with_entries && events[event].is_there)
		add_entry(w, name, &out);
	strbuf_puts(&out, w->is_stream ? "}}" : "}");
	if (out.failed)
		return;
	if (w->is_stream)
		return send_message(w, out.text, out.len);
	if (w->events.len > 0)
		strbuf_putc(&w->events, ',');
	strbuf_add(&w->events, out.text, out.len);
}

/* Can the client be told more? */
static bool has_room(struct watcher *w)
{
	return w->is_stream ? ex_room(w->ex) > 0 : w->events.len < LIMIT_WATCH_EVENTS;
}

/* The watch has come to its end: a stream tells now, a collecting one when it is asked. */
static void fail(struct watcher *w, const struct err *err)
{
	struct exchange *ex = w->ex;

	if (ex) {
		watcher_free(w);
		return connect_fail_err(ex, err);
	}
	w->err = *err;
	w->is_failed = true;
	loop_set(w->loop, &w->readable, 0);
}

/* ---- the tree ---- */

static int become_whole(struct watcher *w, struct err *err)
{
	static const char start[] = "{\"start\":{}}";
	char json[64];

	w->is_whole = true;
	w->readable.fd = watch_tree_fd(w->tree);
	if (loop_add(w->loop, &w->readable, EPOLLIN, err) < 0)
		return err->num;
	if (w->is_stream) {
		stream_begin(w->ex);
		send_message(w, start, sizeof(start) - 1);
		return 0;
	}
	struct exchange *ex = steal_ptr(&w->ex);
	const int len = snprintf(json, sizeof(json), "{\"watcherId\":\"%s\"}", w->id);
	connect_reply(ex, json, (size_t)len);
	return 0;
}

/* One piece of work. 1: there is more. */
static int step(struct watcher *w, struct err *err)
{
	if (!w->is_whole) {
		const int r = watch_tree_grow(w->tree, err);
		return r ?: become_whole(w, err);
	}
	const int r = watch_tree_read(w->tree, on_change, w, err);
	names_done(&w->names);
	return r;
}

static void go_on(struct watcher *w)
{
	struct err err = {};

	w->is_held = w->is_whole && !has_room(w);
	const int r = w->is_held || w->is_failed ? 0 : step(w, &err);
	if (r < 0)
		return fail(w, &err);
	if (r > 0)
		loop_timer_set(w->loop, &w->again, 0);
	if (w->is_whole)
		loop_set(w->loop, &w->readable, w->is_held || w->is_failed || r > 0 ? 0 : EPOLLIN);
}

static void on_again(struct timer *t)
{
	go_on(container_of(t, struct watcher, again));
}

static void on_readable(struct watch *watch, uint32_t events)
{
	(void)events;
	go_on(container_of(watch, struct watcher, readable));
}

static void on_drain(struct exchange *ex)
{
	go_on(ex->state);
}

static void on_gone(struct exchange *ex)
{
	watcher_free(ex->state);
}

static void on_deadline(struct timer *t)
{
	struct watcher *w = container_of(t, struct watcher, deadline);
	struct exchange *ex = w->ex;

	watcher_free(w);
	connect_fail(ex, CONNECT_DEADLINE_EXCEEDED, "the watch has come to its deadline");
}

/* ---- begin ---- */

static void make_id(char id[ID_BYTES])
{
	unsigned char random[10] = {};

	(void)!getrandom(random, sizeof(random), 0);
	*id++ = 'w';
	for (size_t i = 0; i < sizeof(random); i++)
		id += sprintf(id, "%02x", random[i]);
}

static void begin(struct exchange *ex, bool is_stream)
{
	autojson struct json json = {};
	struct owner_ids owner;
	struct err err = {};
	bool recursive = false, with_entries = false, network = false;
	uint64_t timeout_ns;
	const struct json_node *message = connect_request(ex, &json);
	autofree char *path = message ? files_path(ex, message, "path", &owner) : NULL;

	if (!path || !connect_timeout(ex, &timeout_ns))
		return;
	if (message_bool(message, "recursive", &recursive, &err) < 0 ||
	    message_bool(message, "includeEntry", &with_entries, &err) < 0 ||
	    message_bool(message, "allowNetworkMounts", &network, &err) < 0)
		return connect_fail_err(ex, &err);
	if (n_watchers >= LIMIT_WATCHERS)
		return connect_fail(ex, CONNECT_RESOURCE_EXHAUSTED, "there are %d watches", LIMIT_WATCHERS);
	struct watcher *w = watcher_new(&ex->agent->loop);
	if (!w)
		return connect_fail(ex, CONNECT_INTERNAL, "no memory for a watch");
	if (watch_tree_new(path, recursive, network, &w->tree, &err) < 0) {
		watcher_free(w);
		return connect_fail_err(ex, &err);
	}
	w->ex = ex;
	w->is_stream = is_stream;
	w->with_entries = with_entries;
	w->path = steal_ptr(&path);
	w->readable.ready = on_readable;
	w->again.fire = on_again;
	w->keepalive.fire = on_keepalive;
	w->deadline.fire = on_deadline;
	w->keepalive_ns = connect_keepalive_ns(ex);
	make_id(w->id);
	ex->state = w;
	ex->on_drain = on_drain;
	ex->on_gone = on_gone;
	if (timeout_ns && is_stream)
		loop_timer_set(w->loop, &w->deadline, monotonic_ns() + timeout_ns);
	go_on(w);
}

void watchers_watch_dir(struct exchange *ex)
{
	begin(ex, true);
}

void watchers_create(struct exchange *ex)
{
	begin(ex, false);
}

/* ---- collecting watches ---- */

/* The watch that the message names. NULL: there is none, and that was answered. */
static struct watcher *find(struct exchange *ex)
{
	autojson struct json json = {};
	const struct json_node *message = connect_request(ex, &json);
	const char *id = NULL;
	struct err err = {};

	if (!message)
		return NULL;
	if (message_string(message, "watcherId", &id, &err) < 0) {
		connect_fail_err(ex, &err);
		return NULL;
	}
	for (struct watcher *w = watchers; w; w = w->next)
		if (!w->is_stream && w->is_whole && id && strcmp(w->id, id) == 0)
			return w;
	connect_fail(ex, CONNECT_NOT_FOUND, "watcher '%.64s' does not exist", id ? id : "");
	return NULL;
}

void watchers_get_events(struct exchange *ex)
{
	struct watcher *w = find(ex);
	autostrbuf struct strbuf out = {};
	struct err err = {};
	int r = 1;

	if (!w)
		return;
	while (!w->is_failed && r > 0 && has_room(w)) /* what has happened by now, not what the loop has seen */
		r = step(w, &err);
	if (r < 0)
		fail(w, &err);
	if (w->is_failed && w->events.len == 0)
		return connect_fail_err(ex, &w->err);
	strbuf_printf(&out, "{\"events\":[%s]}", w->events.text && w->events.len ? w->events.text : "");
	const bool failed = out.failed || w->events.failed;
	strbuf_done(&w->events);
	go_on(w);
	if (failed)
		return connect_fail(ex, CONNECT_INTERNAL, "no memory for the events");
	connect_reply(ex, out.text, out.len);
}

void watchers_remove(struct exchange *ex)
{
	struct watcher *w = find(ex);

	if (!w)
		return;
	watcher_free(w);
	connect_reply(ex, "{}", 2);
}
