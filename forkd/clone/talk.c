// SPDX-License-Identifier: Apache-2.0
/* Calls a clone's process, asks the process, and hears what the process says unasked. */
#include "forkd/clone/talk.h"

#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/access/place.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/watch/watch.h"

enum {
	HELLO_WAIT_MS = 2000, /* how long a request waits for the answer, counted from the sending of "hello" */
	END_WAIT_MS = 1000,   /* from the end of the control connection to the end of the process */
	CALLS_MAX = 64,       /* at a time */
};

static bool has_ended(const struct clone *c, uint64_t wait_ms)
{
	return c->process.fd >= 0 && wait_readable(c->process.fd, deadline_in_ms(wait_ms)) > 0;
}

static void set_line(struct forkd *d, struct clone *c, enum line line)
{
	pthread_mutex_lock(&d->registry->lock);
	c->line = line;
	c->asked_ns = monotonic_ns();
	pthread_cond_broadcast(&d->registry->changed);
	pthread_mutex_unlock(&d->registry->lock);
}

/* ---- events ---- */

static const char *event_name(enum clone_state state)
{
	return state == CLONE_PAUSED ? "clone.paused" : "clone.resumed";
}

void clone_take_state(struct forkd *d, struct clone *c, const char *text)
{
	const unsigned from = 1u << CLONE_PAUSED | 1u << CLONE_RUNNING;
	enum clone_state state = strcmp(text, "Running") == 0 ? CLONE_RUNNING : CLONE_PAUSED;

	pthread_mutex_lock(&d->registry->lock);
	if (c->state == CLONE_CREATING)
		c->first_state = state;
	int old = registry_swap_state_locked(d->registry, c, from, state);
	if ((old == CLONE_PAUSED || old == CLONE_RUNNING) && old != (int)state)
		events_emit(d->events, event_name(state), c->record.template, c->record.id, NULL);
	pthread_mutex_unlock(&d->registry->lock);
}

static void take_reboots(struct forkd *d, struct clone *c, const struct json_node *n)
{
	pthread_mutex_lock(&d->registry->lock);
	if (n && n->type == JSON_INT && !n->negative && n->num <= UINT32_MAX)
		c->reboots = (uint32_t)n->num;
	pthread_mutex_unlock(&d->registry->lock);
}

/*
 * Marks the clone's nets whose taps were deleted, and emits an event for each net that is new among
 * these.
 */
static void take_lost_nets(struct forkd *d, struct clone *c, const struct json_node *ids)
{
	pthread_mutex_lock(&d->registry->lock);
	for (uint32_t i = 0; ids && ids->type == JSON_ARRAY && i < c->record.n_net; i++) {
		struct record_net *net = &c->record.net[i];
		autostrbuf struct strbuf extra = {};
		for (json_each(id, ids)) {
			if (net->lost || id->type != JSON_STRING || strcmp(id->str, net->id) != 0)
				continue;
			net->lost = true;
			strbuf_puts(&extra, "\"net\":");
			strbuf_json(&extra, net->id, strlen(net->id));
			events_emit(d->events, "clone.tap_lost", c->record.template, c->record.id, extra.text);
		}
	}
	pthread_mutex_unlock(&d->registry->lock);
}

static void take_event(struct forkd *d, struct clone *c, const struct ctl_packet *p)
{
	const struct json_node *root = &p->json.nodes[0], *event = json_get(root, "event");
	const struct json_node *state = json_get(root, "state");
	struct ctl_exiting e = {};
	struct err err = {};

	if (!event || event->type != JSON_STRING)
		return;
	if (strcmp(event->str, "state") == 0 && state && state->type == JSON_STRING)
		clone_take_state(d, c, state->str);
	if (strcmp(event->str, "state") == 0) {
		take_lost_nets(d, c, json_get(root, "lost_nets"));
		take_reboots(d, c, json_get(root, "reboots"));
	}
	if (strcmp(event->str, "exiting") != 0)
		return;
	fields_init(ctl_exiting_fields, &e);
	if (fields_load(ctl_exiting_fields, &e, root, "exiting", &err) < 0) {
		log_warn("clone %s: %s", c->record.id, err.msg);
		return;
	}
	pthread_mutex_lock(&d->registry->lock);
	free(c->exit_reason);
	c->exit_reason = steal_ptr(&e.reason);
	c->exit_code = e.code;
	pthread_mutex_unlock(&d->registry->lock);
}

/* ---- calling the process ---- */

void clone_hang_up(struct forkd *d, struct clone *c)
{
	if (c->control.fd < 0)
		return;
	watch_forget(d->watcher, &c->control);
	close(steal_fd(&c->control.fd));
	set_line(d, c, LINE_DOWN);
}

int clone_greet(struct forkd *d, struct clone *c, struct err *err)
{
	if (control_send(c->control.fd, "hello", ctl_hello_fields, &ctl_ours, NULL, NULL, 0, err) < 0)
		return err->num;
	set_line(d, c, LINE_ASKED);
	return 0;
}

/*
 * Calls on a new connection: on the old one, an answer that is still to come would be taken for the
 * answer to another request.
 */
static int call_again(struct forkd *d, struct clone *c, struct err *err)
{
	clone_hang_up(d, c);
	if (place_connect(d, "clones", c->record.id, &c->control.fd, err) < 0)
		return err->num;
	if (watch_add(d->watcher, &c->control, err) >= 0 && clone_greet(d, c, err) >= 0)
		return 0;
	clone_hang_up(d, c);
	return err->num;
}

/*
 * The version of the protocol that both sides have in common. < 0: there is none, or the process is
 * not that of the record.
 */
static int check_hello(const struct clone *c, const struct ctl_packet *p, struct ctl_status *ret, struct err *err)
{
	if (ctl_parse_reply(p, NULL, NULL, err) < 0)
		return err->num;
	int version = ctl_agree(&p->json.nodes[0], "its forkd-vmm", "this forkd", err);
	if (version < 0 || ctl_parse_reply(p, ctl_status_fields, ret, err) < 0)
		return err->num;
	if (ret->pid == c->record.pid)
		return version;
	return err_set(err, ERR_CONFLICT, "process %u answers for process %u", ret->pid, c->record.pid);
}

static void take_hello(struct forkd *d, struct clone *c, const struct ctl_packet *p)
{
	struct ctl_status s;
	char line[ERR_MSG_BYTES];
	struct err err = {};

	fields_init(ctl_status_fields, &s);
	int r = check_hello(c, p, &s, &err);
	if (r >= 0) {
		pthread_mutex_lock(&d->registry->lock);
		c->restored_ns = s.restored_ns;
		c->resumed_ns = s.resumed_ns;
		c->reboots = s.reboots;
		c->version = r;
		pthread_mutex_unlock(&d->registry->lock);
		clone_take_state(d, c, s.state);
		set_line(d, c, LINE_UP);
	} else {
		err_line(&err, line, sizeof(line));
		log_warn("clone %s: hello: %s", c->record.id, line);
		free(c->refusal);
		c->refusal = strdup(line);
		set_line(d, c, LINE_REFUSED);
	}
	fields_free(ctl_status_fields, &s);
}

/* ---- what the process says unasked ---- */

/* Takes the next packet. Returns 1; 0: there is none; < 0: the process has hung up. */
static int hear_one(struct forkd *d, struct clone *c)
{
	autoctl struct ctl_packet p = {};
	struct err err = {};

	if (c->control.fd < 0 || wait_readable(c->control.fd, 0) <= 0)
		return 0;
	int got = ctl_recv(c->control.fd, &p, &err);
	if (got <= 0)
		return got == -EAGAIN ? 0 : -EPIPE;
	if (json_get(&p.json.nodes[0], "event"))
		take_event(d, c, &p);
	else if (c->line == LINE_ASKED)
		take_hello(d, c, &p);
	return 1;
}

void clone_read_rest(struct forkd *d, struct clone *c)
{
	while (hear_one(d, c) > 0)
		;
}

void clone_hear(struct forkd *d, struct clone *c)
{
	bool answered = c->line == LINE_UP;
	char line[ERR_MSG_BYTES];
	struct err err = {};

	if (hear_one(d, c) >= 0)
		return;
	clone_hang_up(d, c); /* mostly the process is ending, as its pidfd will tell */
	enum clone_state state = clone_state(d->registry, c);
	if (!answered || (state != CLONE_RUNNING && state != CLONE_PAUSED) || has_ended(c, 0))
		return;
	if (call_again(d, c, &err) < 0)
		log_info("clone %s has hung up: %s", c->record.id, err_line(&err, line, sizeof(line)));
}

/*
 * Finds at most CALLS_MAX clones that are to be called, as references. The search begins elsewhere
 * each time.
 */
static unsigned find_down(struct registry *r, struct clone *ret[CALLS_MAX])
{
	static unsigned turn; /* the watcher's alone */
	unsigned n = 0;

	turn++;
	pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < ARRAY_LEN(r->buckets); i++)
		for (struct clone *c = r->buckets[(i + turn * 61) % ARRAY_LEN(r->buckets)]; c; c = c->next)
			if (c->line == LINE_DOWN && (c->state == CLONE_RUNNING || c->state == CLONE_PAUSED) &&
			    n < CALLS_MAX)
				ret[n++] = clone_ref_locked(c);
	pthread_mutex_unlock(&r->lock);
	return n;
}

void clones_call_again(struct forkd *d)
{
	struct clone *down[CALLS_MAX];
	unsigned n = find_down(d->registry, down);

	for (unsigned i = 0; i < n; i++) {
		struct clone *c = down[i];
		struct err err = {};
		if (pthread_mutex_trylock(&c->talk) == 0) {
			if (c->line == LINE_DOWN && !has_ended(c, 0) && call_again(d, c, &err) < 0)
				log_warn("clone %s cannot be called: %s", c->record.id, err.msg);
			watch_end_talk(d->watcher, &c->control, &c->talk);
		}
		clone_unref(d->registry, c);
	}
}

/* ---- conversations ---- */

struct listener {
	struct forkd *d;
	struct clone *c;
};

static void on_event(void *arg, const struct ctl_packet *p)
{
	const struct listener *l = arg;

	take_event(l->d, l->c, p);
}

int clone_check_lives(const struct clone *c, enum clone_state state, struct err *err)
{
	return state == CLONE_RUNNING || state == CLONE_PAUSED ? 0 : clone_state_error(c, state, err);
}

int clone_state_error(const struct clone *c, enum clone_state state, struct err *err)
{
	switch (state) {
	case CLONE_CREATING:
		return fail(err, E_BAD_STATE, "clone '%s' is still being created", c->record.id);
	case CLONE_DELETING:
		return fail(err, E_BAD_STATE, "clone '%s' is being deleted", c->record.id);
	default:
		return fail(err, E_BAD_STATE, "clone '%s' has exited", c->record.id);
	}
}

int clone_needs_version(struct forkd *d, const struct clone *c, int version, const char *what, struct err *err)
{
	pthread_mutex_lock(&d->registry->lock);
	int speaks = c->version;
	pthread_mutex_unlock(&d->registry->lock);
	if (speaks >= version)
		return 0;
	if (speaks < 0)
		return fail(err, E_NO_ANSWER, "clone '%s': process %u lives, but has not answered yet", c->record.id,
			    c->record.pid);
	return fail(err, E_VERSION, "clone '%s': its forkd-vmm is too old to %s", c->record.id, what);
}

static void await_hello(struct forkd *d, struct clone *c, uint64_t most_ms)
{
	uint64_t ms = most_ms < HELLO_WAIT_MS ? most_ms : HELLO_WAIT_MS;
	struct listener l = { d, c };
	autoctl struct ctl_packet p = {};
	struct err err = {};

	if (control_reply(c->control.fd, c->asked_ns + ms * 1000000, on_event, &l, &p, &err) >= 0)
		take_hello(d, c, &p);
	else if (err.num != -ETIMEDOUT)
		clone_hang_up(d, c);
}

/* Calls the process and waits for its "hello", if need be. 0: the process answers, as far as is known. */
static int bring_up(struct forkd *d, struct clone *c, uint64_t most_ms, struct err *err)
{
	struct err why = {};

	if (c->control.fd >= 0 && control_hung_up(c->control.fd)) {
		clone_read_rest(d, c);
		clone_hang_up(d, c);
	}
	if (c->line == LINE_DOWN && call_again(d, c, &why) < 0)
		log_info("clone %s: %s", c->record.id, why.msg);
	if (c->line == LINE_ASKED)
		await_hello(d, c, most_ms);
	if (c->line == LINE_UP)
		return 0;
	if (c->line == LINE_REFUSED)
		return fail(err, E_VERSION, "clone '%s': %s", c->record.id,
			    c->refusal ? c->refusal : "hello was refused");
	if (c->line == LINE_DOWN && has_ended(c, END_WAIT_MS))
		return fail(err, E_CLONE_DIED, "clone '%s': its process has ended", c->record.id);
	return fail(err, E_NO_ANSWER, "clone '%s': process %u lives, but does not answer on its control socket",
		    c->record.id, c->record.pid);
}

static int broken_off(struct forkd *d, struct clone *c, struct err *err)
{
	if (clone_state(d->registry, c) == CLONE_DELETING)
		return fail(err, E_BAD_STATE, "clone '%s' was deleted meanwhile", c->record.id);
	clone_read_rest(d, c); /* it may have said why it ends */
	clone_hang_up(d, c);
	if (has_ended(c, END_WAIT_MS))
		return fail_as(err, E_CLONE_DIED, "clone '%s'", c->record.id);
	return fail(err, E_NO_ANSWER, "clone '%s': process %u lives, but has hung up", c->record.id, c->record.pid);
}

int clone_talk_locked(struct forkd *d, struct clone *c, const struct control_call *wanted, struct err *err)
{
	struct listener l = { d, c };
	struct control_call call = *wanted;
	struct err why = {};

	if (bring_up(d, c, call.timeout_ms, err) < 0)
		return err->num;
	call.on_event = on_event;
	call.arg = &l;
	if (control_call(c->control.fd, &call, err) >= 0)
		return 0;
	if (err->num == -ETIMEDOUT) {
		if (call_again(d, c, &why) < 0)
			log_warn("clone %s: %s", c->record.id, why.msg);
		return fail_as(err, E_TIMEOUT, "clone '%s'", c->record.id);
	}
	return err->num == -EPIPE ? broken_off(d, c, err) : err_wrap(err, "clone '%s'", c->record.id);
}

int clone_take_answer(struct forkd *d, struct clone *c, uint64_t deadline_ns, struct err *err)
{
	struct listener l = { d, c };
	autoctl struct ctl_packet p = {};

	if (control_reply(c->control.fd, deadline_ns, on_event, &l, &p, err) >= 0)
		return ctl_parse_reply(&p, NULL, NULL, err) < 0 ? err_wrap(err, "clone '%s'", c->record.id) : 0;
	return err->num == -ETIMEDOUT ? fail_as(err, E_TIMEOUT, "clone '%s'", c->record.id) : broken_off(d, c, err);
}

int clone_talk(struct forkd *d, struct clone *c, const struct control_call *call, bool wait, struct err *err)
{
	if (!wait && pthread_mutex_trylock(&c->talk) != 0)
		return fail(err, E_BUSY, "clone '%s' is busy with another request", c->record.id);
	if (wait)
		pthread_mutex_lock(&c->talk);
	int r = clone_check_lives(c, clone_state(d->registry, c), err);
	if (r == 0 && !wait && c->line != LINE_UP)
		r = fail(err, E_NO_ANSWER, "clone '%s' has not answered yet", c->record.id);
	if (r == 0)
		r = clone_talk_locked(d, c, call, err);
	watch_end_talk(d->watcher, &c->control, &c->talk);
	return r;
}
