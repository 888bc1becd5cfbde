// SPDX-License-Identifier: Apache-2.0
/* Conversations with a running clone, and the ways in which it ends. */
#include "forkd/clone/life.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/access/handover.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/metrics.h"
#include "forkd/watch/watch.h"

enum { PAUSE_TIMEOUT_MS = 30000, QUIT_TIMEOUT_MS = 300, KILL_TIMEOUT_MS = 10000 };

void clone_kill(const struct clone *c)
{
	if (c->process.fd >= 0)
		syscall(SYS_pidfd_send_signal, c->process.fd, SIGKILL, NULL, 0);
}

/* ---- events of its process ---- */

static const char *event_name(enum clone_state state)
{
	return state == CLONE_PAUSED ? "clone.paused" : "clone.resumed";
}

/* What the process says of itself; deleting and exited stay what they are. */
static void take_state(struct forkd *d, struct clone *c, const char *text)
{
	const unsigned from = 1u << CLONE_PAUSED | 1u << CLONE_RUNNING;
	enum clone_state state = strcmp(text, "Running") == 0 ? CLONE_RUNNING : CLONE_PAUSED;

	pthread_mutex_lock(&d->registry->lock);
	int old = registry_swap_state_locked(d->registry, c, from, state);
	if ((old == CLONE_PAUSED || old == CLONE_RUNNING) && old != (int)state)
		events_emit(d->events, event_name(state), c->record.template, c->record.id, NULL);
	pthread_mutex_unlock(&d->registry->lock);
}

void clone_event(struct forkd *d, struct clone *c, const struct ctl_packet *p)
{
	const struct json_node *root = &p->json.nodes[0], *event = json_get(root, "event");
	const struct json_node *state = json_get(root, "state");
	struct ctl_exiting e = {};
	struct err err = {};

	if (!event || event->type != JSON_STRING)
		return;
	if (strcmp(event->str, "state") == 0 && state && state->type == JSON_STRING)
		take_state(d, c, state->str);
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

/* ---- conversations ---- */

struct listener {
	struct forkd *d;
	struct clone *c;
};

static void on_event(void *arg, const struct ctl_packet *p)
{
	const struct listener *l = arg;

	clone_event(l->d, l->c, p);
}

/* An answer that comes too late would be taken for the next one: a new connection. */
static void reconnect(struct forkd *d, struct clone *c)
{
	struct err err = {};

	watch_forget(d->watcher, &c->control);
	close(steal_fd(&c->control.fd));
	if (place_connect(d, "clones", c->record.id, &c->control.fd, &err) < 0 ||
	    watch_add(d->watcher, &c->control, &err) < 0)
		log_warn("clone %s: %s", c->record.id, err.msg);
}

static int state_error(const struct clone *c, enum clone_state state, struct err *err)
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

static int talk(struct forkd *d, struct clone *c, const struct control_call *wanted, struct err *err)
{
	struct listener l = { d, c };
	struct control_call call = *wanted;

	if (c->control.fd < 0)
		return fail(err, E_CLONE_DIED, "clone '%s': its process has closed its control socket", c->record.id);
	call.on_event = on_event;
	call.arg = &l;
	if (control_call(c->control.fd, &call, err) >= 0)
		return 0;
	if (err->num == -ETIMEDOUT) {
		reconnect(d, c);
		return fail_as(err, E_TIMEOUT, "clone '%s'", c->record.id);
	}
	if (err->num == -EPIPE && clone_state(d->registry, c) == CLONE_DELETING)
		return fail(err, E_BAD_STATE, "clone '%s' was deleted meanwhile", c->record.id);
	if (err->num == -EPIPE)
		return fail_as(err, E_CLONE_DIED, "clone '%s'", c->record.id);
	return err_wrap(err, "clone '%s'", c->record.id);
}

int clone_talk(struct forkd *d, struct clone *c, const struct control_call *call, bool wait, struct err *err)
{
	int r;

	if (!wait && pthread_mutex_trylock(&c->talk) != 0)
		return fail(err, E_BUSY, "clone '%s' is busy with another request", c->record.id);
	if (wait)
		pthread_mutex_lock(&c->talk);
	enum clone_state state = clone_state(d->registry, c);
	if (state == CLONE_PAUSED || state == CLONE_RUNNING)
		r = talk(d, c, call, err);
	else
		r = state_error(c, state, err);
	watch_rearm(d->watcher, &c->control);
	pthread_mutex_unlock(&c->talk);
	return r;
}

int clone_pause(struct forkd *d, struct clone *c, bool pause, struct err *err)
{
	struct ctl_status status;

	fields_init(ctl_status_fields, &status);
	int r = clone_talk(d, c,
			   &(struct control_call){
				   .op = pause ? "pause" : "resume",
				   .ret_rows = ctl_status_fields,
				   .ret = &status,
				   .timeout_ms = PAUSE_TIMEOUT_MS,
			   },
			   true, err);
	if (r >= 0)
		take_state(d, c, status.state);
	fields_free(ctl_status_fields, &status);
	return r;
}

/* ---- the end ---- */

static void lock_talk_or_kill(struct clone *c)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += QUIT_TIMEOUT_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	if (pthread_mutex_timedlock(&c->talk, &until) == 0)
		return;
	clone_kill(c); /* whoever talks with it now hears that it ended */
	pthread_mutex_lock(&c->talk);
}

static void hang_up(struct forkd *d, struct clone *c)
{
	if (c->control.fd < 0)
		return;
	watch_forget(d->watcher, &c->control);
	close(steal_fd(&c->control.fd));
}

static int quit(struct forkd *d, struct clone *c, struct err *err)
{
	struct err why = {};
	int r = 0;

	if (talk(d, c, &(struct control_call){ .op = "quit", .timeout_ms = QUIT_TIMEOUT_MS }, &why) < 0) {
		if (why.detail != E_BAD_STATE) /* it ended by itself */
			log_warn("clone %s: killed: %s", c->record.id, why.msg);
		clone_kill(c);
		r = wait_readable(c->process.fd, deadline_in_ms(KILL_TIMEOUT_MS));
		r = r > 0 ? 0
			  : fail(err, E_INTERNAL, "clone '%s': process %u does not end", c->record.id, c->record.pid);
	}
	return r;
}

int clone_delete(struct forkd *d, struct clone *c, struct err *err)
{
	const unsigned from = 1u << CLONE_PAUSED | 1u << CLONE_RUNNING | 1u << CLONE_EXITED;
	int old = registry_swap_state(d->registry, c, from, CLONE_DELETING);

	if (old < 0)
		return fail(err, E_NO_CLONE, "there is no clone '%s'", c->record.id);
	if (!(from & 1u << old))
		return state_error(c, (enum clone_state)old, err);
	lock_talk_or_kill(c); /* held to the end: the watcher's clone.released comes after clone.deleted */
	int r = old == CLONE_EXITED ? 0 : quit(d, c, err);
	if (r >= 0) {
		place_clear_clone(d, &c->record);
		registry_remove(d->registry, c);
		metrics_count(d->metrics, METRIC_CLONES_DELETED, 1);
		events_emit(d->events, "clone.deleted", c->record.template, c->record.id, NULL);
		if (old == CLONE_EXITED)
			events_emit(d->events, "clone.released", c->record.template, c->record.id, NULL);
	}
	watch_rearm(d->watcher, &c->control); /* its last words are read, so that it can say them */
	pthread_mutex_unlock(&c->talk);
	return r;
}

static char *reason_text(const struct clone *c)
{
	char *text = NULL;
	int n;

	if (!c->has_status)
		n = asprintf(&text, "its process is gone; nobody was there to see why");
	else if (WIFSIGNALED(c->status))
		n = asprintf(&text, "killed by signal %d (%s)", WTERMSIG(c->status), strsignal(WTERMSIG(c->status)));
	else
		n = asprintf(&text, "exited with status %d", WEXITSTATUS(c->status));
	return n < 0 ? NULL : text;
}

/* Why it ended, in the clone and as members of an event. */
static void set_reason(struct forkd *d, struct clone *c, struct strbuf *extra)
{
	pthread_mutex_lock(&d->registry->lock);
	if (!c->exit_reason) {
		c->exit_reason = reason_text(c);
		if (c->has_status)
			c->exit_code = WIFSIGNALED(c->status) ? 128 + WTERMSIG(c->status) : WEXITSTATUS(c->status);
	}
	const char *reason = c->exit_reason ? c->exit_reason : "out of memory";
	c->exited_ns = monotonic_ns();
	strbuf_puts(extra, "\"reason\":");
	strbuf_json(extra, reason, strlen(reason));
	strbuf_printf(extra, ",\"code\":%d", c->exit_code);
	pthread_mutex_unlock(&d->registry->lock);
}

void clone_ended(struct forkd *d, struct clone *c)
{
	const unsigned from = 1u << CLONE_PAUSED | 1u << CLONE_RUNNING;
	autostrbuf struct strbuf extra = {};

	pthread_mutex_lock(&c->talk);
	hang_up(d, c);
	set_reason(d, c, &extra);
	place_clear_clone(d, &c->record);
	pthread_mutex_lock(&d->registry->lock);
	int old = registry_swap_state_locked(d->registry, c, from, CLONE_EXITED);
	bool exited = old == CLONE_PAUSED || old == CLONE_RUNNING, deleted = c->state == CLONE_DELETING;
	if (exited)
		events_emit(d->events, "clone.exited", c->record.template, c->record.id, extra.text);
	pthread_mutex_unlock(&d->registry->lock);
	if (exited) {
		log_info("clone %s: %s", c->record.id, extra.text);
		metrics_count(d->metrics, METRIC_CLONES_DIED, 1);
	} else {
		registry_remove(d->registry, c);
		if (deleted) /* else it was never handed out */
			events_emit(d->events, "clone.released", c->record.template, c->record.id, NULL);
	}
	pthread_mutex_unlock(&c->talk);
}
