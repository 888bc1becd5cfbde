// SPDX-License-Identifier: Apache-2.0
/* From a resumed clone to one that is itself. */
#include "forkd/clone/identify.h"

#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/access/place.h"
#include "forkd/clone/dial.h"
#include "forkd/clone/life.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/jobs.h"
#include "forkd/watch/watch.h"

enum {
	PATIENCE_MS = 30000,
	PATIENCE_MS_EACH = 250, /* in addition, for each clone: all clones share the host's CPUs */
	COMMAND_MS = 30000,     /* freeze and thaw; longer than the agent itself takes before it gives up */
	RELEASE_MS = 5000,
};

/* ---- the record ---- */

/*
 * Writes this record of the clone for the next daemon. The record of a clone that is being created is
 * committed when the clone is handed out. The caller holds talk.
 */
static int keep_record(const struct forkd *d, const struct clone *c, const struct record *record, struct err *err)
{
	autoclose int dir = -1;
	bool made = clone_state(d->registry, c) != CLONE_CREATING;

	if (place_open(d, "clones", c->record.id, &dir, err) < 0 || record_save(record, dir, err) < 0)
		return err->num;
	return made ? record_commit(dir, err) : 0;
}

static enum identity_state identity_of(struct registry *r, const struct clone *c)
{
	pthread_mutex_lock(&r->lock);
	enum identity_state state = c->record.identity;
	pthread_mutex_unlock(&r->lock);
	return state;
}

/* ---- one clone ---- */

static uint64_t left_ms(uint64_t deadline_ns)
{
	const uint64_t now = monotonic_ns();

	return deadline_ns > now ? (deadline_ns - now) / 1000000 + 1 : 1;
}

/*
 * The agent is asked who it is first: what it needs for an answer is in memory then, so that the time of
 * day, which comes with the identity, is not late.
 */
static int reach(struct forkd *d, const struct identify *i, uint64_t deadline_ns, struct err *err)
{
	struct dial_to to = agent_hello_to;

	if (i->dial)
		return clone_dial_begun(d, i->c, i->dial, deadline_ns, err);
	to.timeout_ms = left_ms(deadline_ns);
	return clone_dial(d, i->c, &to, err);
}

static int begin(struct forkd *d, struct identify *i, uint64_t deadline_ns, struct err *err)
{
	struct clone *c = i->c;

	i->fd = reach(d, i, deadline_ns, err);
	if (i->fd < 0)
		return err_wrap(err, "agent");
	const uint64_t now = monotonic_ns();
	pthread_mutex_lock(&d->registry->lock);
	c->agent_ns = now;
	pthread_mutex_unlock(&d->registry->lock);
	struct agent_hello hello = {};
	int r = agent_hello(i->fd, deadline_ns, &hello, err);
	fields_free(agent_hello_fields, &hello);
	if (r < 0)
		return err_wrap(err, "agent");
	return identity_send(i->fd, c->record.id, &i->wish, !i->pause, deadline_ns, i->nonce, err) < 0
		       ? err_wrap(err, "identity")
		       : 0;
}

static int ask(struct forkd *d, struct clone *c, const char *op, struct err *err)
{
	const struct control_call call = { .op = op, .timeout_ms = RELEASE_MS };

	return clone_talk_locked(d, c, &call, err);
}

/* The agent has acknowledged: the clone may be seen. The caller holds talk. */
static int release(struct forkd *d, const struct identify *i, struct err *err)
{
	struct clone *c = i->c;
	struct record unique = c->record;

	if (i->pause && ask(d, c, "pause", err) < 0)
		return err_wrap(err, "pause");
	if (ask(d, c, "net_release", err) < 0)
		return err_wrap(err, "net_release");
	/* Written before anybody sees it: what was called unique gets no other identity from the next daemon. */
	unique.identity = IDENTITY_UNIQUE;
	unique.frozen = i->pause;
	unique.frozen_reboots = c->reboots;
	if (keep_record(d, c, &unique, err) < 0)
		return err->num;
	pthread_mutex_lock(&d->registry->lock);
	c->record.identity = IDENTITY_UNIQUE;
	c->record.frozen = i->pause;
	c->record.frozen_reboots = unique.frozen_reboots;
	if (i->pause)
		c->first_state = CLONE_PAUSED;
	c->ready_ns = monotonic_ns();
	pthread_cond_broadcast(&d->registry->changed);
	pthread_mutex_unlock(&d->registry->lock);
	return 0;
}

static int end(struct forkd *d, struct identify *i, uint64_t deadline_ns, struct err *err)
{
	struct clone *c = i->c;

	if (identity_await(i->fd, i->nonce, deadline_ns, err) < 0)
		return err->num;
	const uint64_t now = monotonic_ns();
	pthread_mutex_lock(&d->registry->lock);
	c->identity_ns = now;
	pthread_mutex_unlock(&d->registry->lock);
	pthread_mutex_lock(&c->talk);
	int r = release(d, i, err);
	watch_end_talk(d->watcher, &c->control, &c->talk);
	return r;
}

static int named(const struct identify *i, unsigned index, unsigned n, struct err *err)
{
	return n == 1 ? err_wrap(err, "clone %s", i->c->record.id)
		      : err_wrap(err, "clone %u of %u (%s)", index + 1, n, i->c->record.id);
}

static uint64_t deadline_for(unsigned n)
{
	return deadline_in_ms(PATIENCE_MS + (uint64_t)n * PATIENCE_MS_EACH);
}

int identify_all(struct forkd *d, struct identify *list, unsigned n, struct err *err)
{
	const uint64_t deadline_ns = deadline_for(n);
	unsigned begun = 0;
	int r = 0;

	while (begun < n && r >= 0) {
		r = begin(d, &list[begun], deadline_ns, err);
		if (r < 0)
			named(&list[begun], begun, n, err);
		begun++;
	}
	for (unsigned i = 0; i < n && r >= 0; i++) {
		r = end(d, &list[i], deadline_ns, err);
		if (r < 0)
			named(&list[i], i, n, err);
	}
	for (unsigned i = 0; i < begun; i++)
		auto_close_p(&list[i].fd);
	return r;
}

/* ---- after the answer ---- */

struct later {
	struct forkd *d;
	struct identify *list;
	unsigned n;
	struct err why[]; /* of each clone */
};

void identify_give_up(struct forkd *d, struct clone *c, const struct err *err)
{
	char line[ERR_MSG_BYTES];

	log_error("clone %s is ended: %s", c->record.id, err_line(err, line, sizeof(line)));
	pthread_mutex_lock(&d->registry->lock);
	if (!c->exit_reason)
		c->exit_reason = strdup(line);
	pthread_mutex_unlock(&d->registry->lock);
	clone_kill(c);
}

static void list_done(struct forkd *d, struct identify *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		auto_close_p(&list[i].fd);
		identity_wish_done(&list[i].wish);
		clone_unref(d->registry, list[i].c);
	}
	free(list);
}

static void begin_later(struct forkd *d, struct identify *i, uint64_t deadline_ns, struct err *why)
{
	if (!i->thaw && begin(d, i, deadline_ns, why) < 0)
		log_debug("clone %s: identity failed", i->c->record.id); /* finish() says why */
}

static void finish(struct forkd *d, struct identify *i, uint64_t deadline_ns, struct err *why)
{
	struct clone *c = i->c;

	if (i->thaw) {
		pthread_mutex_lock(&c->life);
		clone_thaw_or_warn(d, c);
		pthread_mutex_unlock(&c->life);
		return;
	}
	if (!why->code && end(d, i, deadline_ns, why) >= 0) {
		events_emit(d->events, "clone.ready", c->record.template, c->record.id, NULL);
		return;
	}
	enum clone_state state = clone_state(d->registry, c);
	if (d->stopping)
		log_info("clone %s is not itself yet: the next daemon goes on", c->record.id);
	else if (state == CLONE_RUNNING || state == CLONE_PAUSED)
		identify_give_up(d, c, why);
}

static void run_later(void *arg)
{
	struct later *l = arg;
	const uint64_t deadline_ns = deadline_for(l->n);

	for (unsigned i = 0; i < l->n; i++)
		begin_later(l->d, &l->list[i], deadline_ns, &l->why[i]);
	for (unsigned i = 0; i < l->n; i++)
		finish(l->d, &l->list[i], deadline_ns, &l->why[i]);
	list_done(l->d, l->list, l->n);
	free(l);
}

int identify_later(struct forkd *d, struct identify *list, unsigned n, struct err *err)
{
	struct later *l = calloc(1, sizeof(*l) + n * sizeof(l->why[0]));
	int r;

	if (l) {
		l->d = d;
		l->list = list;
		l->n = n;
		r = jobs_run(d->jobs, run_later, l, err);
	} else {
		r = err_num(err, ERR_INTERNAL, ENOMEM, "make %u clones unique", n);
	}
	if (r >= 0)
		return 0;
	for (unsigned i = 0; i < n; i++)
		if (!list[i].thaw)
			identify_give_up(d, list[i].c, err);
	list_done(d, list, n);
	free(l);
	return r;
}

/* ---- freeze and thaw ---- */

/*
 * What the record says is set before the freeze and cleared after the thaw: no crash leaves a guest
 * frozen for good. A record that could not be set is no reason to believe in a freeze.
 */
static int set_frozen(struct forkd *d, struct clone *c, bool frozen, struct err *err)
{
	pthread_mutex_lock(&c->talk);
	pthread_mutex_lock(&d->registry->lock);
	bool before = c->record.frozen;
	c->record.frozen = frozen;
	c->record.frozen_reboots = c->reboots;
	enum clone_state state = c->state;
	pthread_mutex_unlock(&d->registry->lock);
	int r = clone_check_lives(c, state, err); /* otherwise its directory may be gone */
	if (r == 0)
		r = keep_record(d, c, &c->record, err);
	if (r < 0 && frozen) {
		pthread_mutex_lock(&d->registry->lock);
		c->record.frozen = before;
		pthread_mutex_unlock(&d->registry->lock);
	}
	watch_end_talk(d->watcher, &c->control, &c->talk);
	return r;
}

static int command(struct forkd *d, struct clone *c, int (*ask_agent)(int, uint64_t, struct err *), struct err *err)
{
	const uint64_t deadline_ns = deadline_in_ms(COMMAND_MS);
	autoclose int fd =
		clone_dial(d, c, &(struct dial_to){ .port = AGENT_PRIVATE_PORT, .timeout_ms = COMMAND_MS }, err);

	if (fd < 0 || ask_agent(fd, deadline_ns, err) < 0)
		return err_wrap(err, "clone '%s'", c->record.id);
	return 0;
}

int clone_freeze(struct forkd *d, struct clone *c, struct err *err)
{
	switch (identity_of(d->registry, c)) {
	case IDENTITY_UNMANAGED:
		return 0;
	case IDENTITY_PENDING:
		return fail(err, E_BAD_STATE, "clone '%s' is not itself yet", c->record.id);
	default:
		break;
	}
	c->freeze_failed = true;
	if (set_frozen(d, c, true, err) < 0)
		return err->num;
	if (command(d, c, agent_freeze, err) < 0)
		return err_wrap(err, "freeze");
	c->freeze_failed = false;
	return 0;
}

/* The processes go on. Where the record cannot say so, the next daemon lets them go on once more. */
static int keep_thawed(struct forkd *d, struct clone *c, struct err *err)
{
	char line[ERR_MSG_BYTES];
	struct err why = {};

	if (set_frozen(d, c, false, &why) == 0)
		return 0;
	if (why.detail == E_BAD_STATE) { /* the clone has ended */
		*err = why;
		return err->num;
	}
	log_warn("clone %s goes on: %s", c->record.id, err_line(&why, line, sizeof(line)));
	return 0;
}

int clone_thaw(struct forkd *d, struct clone *c, struct err *err)
{
	pthread_mutex_lock(&d->registry->lock);
	bool frozen = c->record.frozen, rebooted = c->record.frozen_reboots != c->reboots;
	pthread_mutex_unlock(&d->registry->lock);
	if (!frozen)
		return 0;
	if (!rebooted && command(d, c, agent_thaw, err) < 0)
		return err_wrap(err, "thaw");
	return keep_thawed(d, c, err);
}

void clone_thaw_or_warn(struct forkd *d, struct clone *c)
{
	char line[ERR_MSG_BYTES];
	struct err err = {};

	if (clone_thaw(d, c, &err) < 0)
		log_warn("clone %s stands still until it is resumed: %s", c->record.id,
			 err_line(&err, line, sizeof(line)));
}
