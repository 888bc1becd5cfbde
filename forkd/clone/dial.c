// SPDX-License-Identifier: Apache-2.0
/* Connections to a clone's guest, through the clone's process. */
#include "forkd/clone/dial.h"

#include "forkd/clone/talk.h"
#include "forkd/errors.h"
#include "forkd/watch/watch.h"

enum { DIAL_VERSION = 2, IDENTITY_MS = 30000 };

static int refused(const struct dial *dial, struct err *err)
{
	return err->code == ERR_NOT_FOUND && !err->detail ? fail_as(err, E_AGENT, "reach vsock port %u", dial->rq.port)
							  : err->num;
}

/* `made` false: the clone is still being created, and the caller holds talk. */
static int ask_process(struct forkd *d, struct clone *c, bool made, struct dial *dial, struct err *err)
{
	int r = clone_needs_version(d, c, DIAL_VERSION, "connect to its guest", err);

	if (r >= 0)
		r = made ? clone_talk(d, c, &dial->call, true, err) : clone_talk_locked(d, c, &dial->call, err);
	return r < 0 ? refused(dial, err) : 0;
}

int clone_dial(struct forkd *d, struct clone *c, const struct dial_to *to, struct err *err)
{
	uint64_t deadline_ns = deadline_in_ms(to->timeout_ms);
	autodial struct dial dial = DIAL_INIT;
	bool made = clone_state(d->registry, c) != CLONE_CREATING;

	if (dial_begin(&dial, to, err) < 0)
		return err->num;
	if (!made)
		pthread_mutex_lock(&c->talk);
	int r = ask_process(d, c, made, &dial, err);
	if (!made)
		watch_end_talk(d->watcher, &c->control, &c->talk);
	if (r < 0)
		return r;
	int fd = dial_end(&dial, deadline_ns, err);
	return fd < 0 ? err_wrap(err, "clone '%s'", c->record.id) : fd;
}

int clone_dial_begun(struct forkd *d, struct clone *c, struct dial *dial, uint64_t deadline_ns, struct err *err)
{
	if (clone_take_answer(d, c, deadline_ns, err) < 0)
		return refused(dial, err);
	int fd = dial_end(dial, deadline_ns, err);
	return fd < 0 ? err_wrap(err, "clone '%s'", c->record.id) : fd;
}

int clone_dial_running(struct forkd *d, struct clone *c, const struct dial_to *to, struct err *err)
{
	if (clone_state(d->registry, c) == CLONE_PAUSED)
		return fail(err, E_PAUSED, "clone '%s' is paused: its guest cannot answer", c->record.id);
	if (registry_wait_identity(d->registry, c, deadline_in_ms(IDENTITY_MS), &d->stopping, err) < 0)
		return err->num;
	return clone_dial(d, c, to, err);
}
