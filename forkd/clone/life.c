// SPDX-License-Identifier: Apache-2.0
/* Pause and resume, and the ways in which a clone ends. */
#include "forkd/clone/life.h"
#include "forkd/clone/clone_disks.h"

#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/access/place.h"
#include "forkd/clone/identify.h"
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

static int pause_or_resume(struct forkd *d, struct clone *c, bool pause, struct err *err)
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
		clone_take_state(d, c, status.state);
	fields_free(ctl_status_fields, &status);
	return r;
}

/*
 * The guest's processes stand still before the vCPUs do, so that they find the right wall clock when
 * they go on. A guest whose agent does not freeze them is paused all the same.
 */
static int freeze_and_pause(struct forkd *d, struct clone *c, struct err *err)
{
	char line[ERR_MSG_BYTES];
	struct err why = {};

	if (clone_state(d->registry, c) == CLONE_RUNNING && clone_freeze(d, c, &why) < 0) {
		if (why.detail == E_BAD_STATE) {
			*err = why;
			return err->num;
		}
		log_warn("clone %s is paused without a freeze: %s", c->record.id, err_line(&why, line, sizeof(line)));
	}
	return pause_or_resume(d, c, true, err);
}

int clone_pause(struct forkd *d, struct clone *c, bool pause, struct err *err)
{
	int r;

	pthread_mutex_lock(&c->life);
	if (pause)
		r = freeze_and_pause(d, c, err);
	else
		r = pause_or_resume(d, c, false, err) < 0 ? err->num : clone_thaw(d, c, err);
	pthread_mutex_unlock(&c->life);
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
	clone_kill(c); /* whoever talks with the clone now hears that the process has ended */
	pthread_mutex_lock(&c->talk);
}

static int quit(struct forkd *d, struct clone *c, struct err *err)
{
	struct err why = {};
	int r = 0;

	if (clone_talk_locked(d, c, &(struct control_call){ .op = "quit", .timeout_ms = QUIT_TIMEOUT_MS }, &why) < 0) {
		if (why.detail != E_BAD_STATE) /* the process ended by itself */
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
		return clone_state_error(c, (enum clone_state)old, err);
	lock_talk_or_kill(c); /* held to the end: the watcher's clone.released comes after clone.deleted */
	int r = old == CLONE_EXITED ? 0 : quit(d, c, err);
	if (r >= 0) {
		clone_clear(d, &c->record);
		registry_remove(d->registry, c);
		metrics_count(d->metrics, METRIC_CLONES_DELETED, 1);
		events_emit(d->events, "clone.deleted", c->record.template, c->record.id, NULL);
		if (old == CLONE_EXITED)
			events_emit(d->events, "clone.released", c->record.template, c->record.id, NULL);
	}
	watch_end_talk(d->watcher, &c->control, &c->talk); /* so that the process can send its last words */
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

/* Writes why the clone ended into the clone, and as members of an event into `extra`. */
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
	clone_hang_up(d, c);
	set_reason(d, c, &extra);
	clone_clear(d, &c->record);
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
		if (deleted) /* otherwise the clone was never handed out */
			events_emit(d->events, "clone.released", c->record.template, c->record.id, NULL);
	}
	pthread_mutex_unlock(&c->talk);
}
