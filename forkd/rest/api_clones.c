// SPDX-License-Identifier: Apache-2.0
/* /v1/clones and /v1/templates/{name}/clones. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/clock.h"
#include "forkd/access/place.h"
#include "forkd/body.h"
#include "forkd/clone/clone.h"
#include "forkd/clone/clone_snapshot.h"
#include "forkd/clone/follow.h"
#include "forkd/clone/life.h"
#include "forkd/clone/stats.h"
#include "forkd/errors.h"
#include "forkd/rest/api.h"
#include "forkd/rest/idempotency.h"
#include "forkd/rest/url.h"
#include "forkd/template/templates.h"
#include "forkd/watch/watch.h"

enum {
	LIST_LIMIT = 1000,
	LIST_LIMIT_MAX = 10000,
	WAIT_S = 30,
	WAIT_MAX_S = 3600,
	WAIT_SLICE_MS = 500,
	STATS_TIMEOUT_MS = 2000
};

int api_find_clone(struct forkd *d, const struct request *rq, struct clone **ret, struct err *err)
{
	*ret = registry_find(d->registry, rq->param[0]);
	return *ret ? 0 : fail(err, E_NO_CLONE, "there is no clone '%s'", rq->param[0]);
}

static int answer(struct forkd *d, struct clone *c, struct reply *reply)
{
	clone_json(d, c, NULL, &reply->body);
	clone_unref(d->registry, c);
	return 0;
}

/* ---- POST /v1/templates/{name}/clones ---- */

static int create(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	autoclonerequest struct clone_request wanted = {};
	struct clone **clones = NULL;
	struct tmpl *t = NULL;

	if (clone_request_load(rq->body, &wanted, err) < 0 || tmpl_use(d->registry, rq->param[0], &t, err) < 0)
		return err->num;
	const struct origin from = request_origin(rq);
	int r = clones_create(d, t, &wanted, &from, &clones, err);
	tmpl_unuse(d->registry, t);
	if (r < 0)
		return err_wrap(err, "template '%s'", rq->param[0]);
	reply->status = 201;
	strbuf_puts(&reply->body, "{\"clones\":[");
	for (unsigned i = 0; i < wanted.count; i++) {
		if (i)
			strbuf_putc(&reply->body, ',');
		clone_json(d, clones[i], NULL, &reply->body);
	}
	strbuf_puts(&reply->body, "]}");
	clones_unref(d->registry, clones, wanted.count);
	return 0;
}

int api_clone_create(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	int r = idempotency_begin(d->idempotency, rq, reply, err);

	if (r != 0)
		return r < 0 ? r : 0;
	r = create(d, rq, reply, err);
	idempotency_end(d->idempotency, rq, r < 0 ? NULL : reply);
	return r;
}

/* ---- GET /v1/clones ---- */

static int state_of(const char *text, const char *what, int *ret, struct err *err)
{
	for (int i = 0; clone_states[i]; i++)
		if (strcmp(clone_states[i], text) == 0) {
			*ret = i;
			return 0;
		}
	return fail(err, E_INVALID, "%s: '%.40s' is none of creating, paused, running, exited, deleting", what, text);
}

/* Loads ?label=k=v, which may come LABELS_MAX times; `room` holds the texts. */
static int filter_labels(const struct request *rq, struct clone_filter *f,
			 char room[LABELS_MAX][2 * LABEL_CHARS_MAX + 2], struct err *err)
{
	const char *text;

	while ((text = request_query(rq, "label", f->n_labels))) {
		const char *equals = strchr(text, '=');
		if (!equals || equals == text || strlen(text) > 2 * LABEL_CHARS_MAX + 1)
			return fail(err, E_INVALID, "label: '%.80s' is not KEY=VALUE", text);
		if (f->n_labels == LABELS_MAX)
			return fail(err, E_INVALID, "label: given more than %d times", LABELS_MAX);
		char *copy = room[f->n_labels];
		snprintf(copy, sizeof(room[0]), "%s", text);
		copy[equals - text] = '\0';
		f->labels[f->n_labels++] = (struct label){ copy, copy + (equals - text) + 1 };
	}
	return 0;
}

int api_clone_list(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	char room[LABELS_MAX][2 * LABEL_CHARS_MAX + 2];
	struct clone_filter f = {
		.template = request_query(rq, "template", 0),
		.after = request_query(rq, "after", 0),
		.state = -1,
	};
	const char *limit = request_query(rq, "limit", 0), *state = request_query(rq, "state", 0);
	uint64_t n_max = LIST_LIMIT;
	struct clone **list = NULL;
	unsigned n = 0;
	bool more = false;

	if ((limit && query_number(limit, "limit", LIST_LIMIT_MAX, &n_max, err) < 0) ||
	    (state && state_of(state, "state", &f.state, err) < 0) || filter_labels(rq, &f, room, err) < 0)
		return err->num;
	if (n_max == 0)
		return fail(err, E_INVALID, "limit: 0 is below 1");
	f.limit = (unsigned)n_max;
	if (registry_list(d->registry, &f, &list, &n, &more, err) < 0)
		return err->num;
	strbuf_puts(&reply->body, "{\"clones\":[");
	for (unsigned i = 0; i < n; i++) {
		if (i)
			strbuf_putc(&reply->body, ',');
		clone_json(d, list[i], NULL, &reply->body);
	}
	strbuf_puts(&reply->body, "],\"next\":");
	if (more)
		strbuf_json(&reply->body, list[n - 1]->record.id, strlen(list[n - 1]->record.id));
	else
		strbuf_puts(&reply->body, "null");
	strbuf_putc(&reply->body, '}');
	clones_unref(d->registry, list, n);
	return 0;
}

/* ---- GET /v1/clones/{id} ---- */

/* Adds the members of an object, without the braces. */
static void add_members(struct strbuf *out, const struct field *rows, const void *obj)
{
	autostrbuf struct strbuf text = {};

	fields_save(rows, obj, &text);
	if (text.len > 2)
		strbuf_printf(out, "%s%.*s", out->len ? "," : "", (int)text.len - 2, text.text + 1);
}

static void read_stats(struct forkd *d, struct clone *c, struct strbuf *out)
{
	struct proc_stats proc;
	struct ctl_stats io;
	struct err err = {};

	stats_read(c->record.pid, &proc);
	tmpl_saw_private(d->registry, c->record.template, proc.private_dirty_bytes + proc.swap_bytes);
	add_members(out, proc_stats_fields, &proc);
	fields_init(ctl_stats_fields, &io);
	struct control_call call = {
		.op = "stats", .ret_rows = ctl_stats_fields, .ret = &io, .timeout_ms = STATS_TIMEOUT_MS
	};
	if (clone_talk(d, c, &call, false, &err) >= 0) {
		free(steal_ptr(&io.state)); /* the clone's object has a state already */
		add_members(out, ctl_stats_fields, &io);
	}
	fields_free(ctl_stats_fields, &io);
}

int api_clone_get(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	autostrbuf struct strbuf stats = {};
	struct clone *c;

	if (api_find_clone(d, rq, &c, err) < 0)
		return err->num;
	enum clone_state state = clone_state(d->registry, c);
	if (state == CLONE_RUNNING || state == CLONE_PAUSED)
		read_stats(d, c, &stats);
	clone_json(d, c, &stats, &reply->body);
	clone_unref(d->registry, c);
	return 0;
}

/* ---- verbs ---- */

int api_clone_delete(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct clone *c;

	if (api_find_clone(d, rq, &c, err) < 0)
		return err->num;
	int r = clone_delete(d, c, err);
	clone_unref(d->registry, c);
	reply->status = 204;
	return r;
}

static int pause_or_resume(struct forkd *d, struct request *rq, bool pause, struct reply *reply, struct err *err)
{
	struct clone *c;

	if (api_find_clone(d, rq, &c, err) < 0)
		return err->num;
	if (clone_pause(d, c, pause, err) >= 0)
		return answer(d, c, reply);
	clone_unref(d->registry, c);
	return err->num;
}

int api_clone_pause(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	return pause_or_resume(d, rq, true, reply, err);
}

int api_clone_resume(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	return pause_or_resume(d, rq, false, reply, err);
}

/* ---- PATCH /v1/clones/{id} ---- */

struct patch {
	uint64_t ttl_s, expires_ns;
	bool has_ttl_s;
	struct label *labels;
	uint32_t n_labels;
	bool has_labels;
};

static const struct field patch_fields[] = { F_OPT(struct patch, ttl_s, .max = 10ULL * 365 * 86400), F_END };
static const char *const patch_by_hand[] = { "labels", NULL };

static int load_patch(const struct json_node *body, struct patch *p, struct err *err)
{
	const struct json_node *labels = json_get(body, "labels");

	if (!body)
		return fail(err, E_INVALID, "body: expected an object with 'labels' or 'ttl_s'");
	fields_init(patch_fields, p);
	if (body_load(patch_fields, patch_by_hand, p, body, "body", err) < 0)
		return err->num;
	p->has_labels = labels;
	return labels ? labels_load(labels, "labels", &p->labels, &p->n_labels, err) : 0;
}

/* Exchanges the record's values for those of *p, so that a second call brings the old values back. */
static void swap_in(struct forkd *d, struct clone *c, struct patch *p)
{
	struct record *r = &c->record;

	pthread_mutex_lock(&d->registry->lock);
	if (p->has_labels) {
		struct label *old = r->labels;
		uint32_t n_old = r->n_labels;
		r->labels = p->labels;
		r->n_labels = p->n_labels;
		p->labels = old;
		p->n_labels = n_old;
	}
	if (p->has_ttl_s) {
		uint64_t old_ttl_s = r->ttl_s, old_expires_ns = r->expires_ns;
		r->ttl_s = p->ttl_s;
		r->expires_ns = p->expires_ns;
		p->ttl_s = old_ttl_s;
		p->expires_ns = old_expires_ns;
	}
	pthread_mutex_unlock(&d->registry->lock);
}

/*
 * Changes the record in memory and on disk. The caller holds talk, which keeps two writers apart,
 * and keeps the clone's directory from being removed.
 */
static int patch(struct forkd *d, struct clone *c, struct patch *p, struct err *err)
{
	autoclose int dir = -1;

	enum clone_state state = clone_state(d->registry, c);
	if (state != CLONE_RUNNING && state != CLONE_PAUSED)
		return fail(err, E_BAD_STATE, "clone '%s' is %s", c->record.id, clone_states[state]);
	if (place_open(d, "clones", c->record.id, &dir, err) < 0)
		return err->num;
	p->expires_ns = p->ttl_s ? deadline_in_ms(p->ttl_s * 1000) : 0;
	swap_in(d, c, p);
	if (record_save(&c->record, dir, err) < 0 || record_commit(dir, err) < 0) {
		swap_in(d, c, p); /* brings the old values back */
		return err->num;
	}
	return 0;
}

int api_clone_patch(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct patch p = {};
	struct clone *c;

	if (load_patch(rq->body, &p, err) < 0 || api_find_clone(d, rq, &c, err) < 0) {
		labels_free(p.labels, p.n_labels);
		return err->num;
	}
	pthread_mutex_lock(&c->talk);
	int r = patch(d, c, &p, err);
	watch_end_talk(d->watcher, &c->control, &c->talk);
	labels_free(p.labels, p.n_labels);
	if (r >= 0) {
		follow_ttl(d);
		return answer(d, c, reply);
	}
	clone_unref(d->registry, c);
	return r;
}

/* ---- GET /v1/clones/{id}/wait ---- */

int api_clone_wait(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	const char *state = request_query(rq, "state", 0), *timeout = request_query(rq, "timeout_s", 0);
	uint64_t wait_s = WAIT_S;
	int wanted = CLONE_RUNNING;
	struct clone *c;

	if ((timeout && query_number(timeout, "timeout_s", WAIT_MAX_S, &wait_s, err) < 0) ||
	    (state && state_of(state, "state", &wanted, err) < 0) || api_find_clone(d, rq, &c, err) < 0)
		return err->num;
	uint64_t now, until = deadline_in_ms(wait_s * 1000);
	int r;
	do { /* in slices, to see when nobody waits for the answer any more */
		now = monotonic_ns();
		uint64_t slice = now + WAIT_SLICE_MS * 1000000ULL;
		r = registry_wait(d->registry, c, (enum clone_state)wanted, slice < until ? slice : until, &d->stopping,
				  err);
	} while (r < 0 && err->detail == E_TIMEOUT && monotonic_ns() < until && !request_gone(rq) && !d->stopping);
	if (r >= 0)
		return answer(d, c, reply);
	clone_unref(d->registry, c);
	return r;
}

/* ---- POST /v1/clones/{id}/snapshot ---- */

static const struct field snapshot_fields[] = {
	F(struct snapshot_wanted, name, .flags = F_REQUIRED),
	F(struct snapshot_wanted, allow_secrets),
	F_END,
};

static int snapshot(struct forkd *d, struct clone *c, const struct snapshot_wanted *wanted, const struct request *rq,
		    struct strbuf *body, struct err *err)
{
	const struct origin from = request_origin(rq);
	uint64_t paused_us = 0;

	if (clone_snapshot(d, c, wanted, &from, &paused_us, err) < 0)
		return err->num;
	return snapshotted_json(d, wanted->name, paused_us, body, err);
}

int api_clone_snapshot(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct snapshot_wanted wanted = {};
	struct clone *c;

	if (!rq->body)
		return fail(err, E_INVALID, "body: expected an object with 'name'");
	if (body_load(snapshot_fields, NULL, &wanted, rq->body, "body", err) < 0)
		return err->num;
	int r = api_find_clone(d, rq, &c, err);
	if (r >= 0) {
		r = snapshot(d, c, &wanted, rq, &reply->body, err);
		clone_unref(d->registry, c);
	}
	reply->status = 201;
	fields_free(snapshot_fields, &wanted);
	return r;
}
