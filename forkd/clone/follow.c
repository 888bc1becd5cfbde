// SPDX-License-Identifier: Apache-2.0
/* The watcher's callbacks for clones. */
#include "forkd/clone/follow.h"

#include <errno.h>
#include <unistd.h>

#include "common/clock.h"
#include "forkd/clone/life.h"
#include "forkd/clone/stats.h"
#include "forkd/clone/ttl.h"
#include "forkd/watch/watch.h"
#include "forkd/wire/control.h"

enum {
	STATUS_WAIT_MS = 200, /* how long the template host has to tell how a process ended */
	END_TICK_MS = 10,     /* how often clones that wait for this are looked at */
	SAMPLE_MS = 5000,
	CALL_MS = 5000,
};

struct followed {
	struct forkd *d;
	pthread_mutex_t lock;
	struct clone *first; /* under lock; clones that are not released yet */
	struct clone *ended; /* watcher only; clones whose exit status is not known yet */
	struct watch_round ends, ttl, samples, calls;
};

/* ---- what a clone's process says ---- */

static void on_packet(struct watch *w)
{
	struct clone *c = container_of(w, struct clone, control);
	struct forkd *d = c->followed->d;

	if (!watch_try_talk(w, &c->talk))
		return; /* whoever talks with the clone reads this packet too, and arms the watch again */
	clone_hear(d, c);
	watch_end_talk(d->watcher, &c->control, &c->talk);
}

static uint64_t call_again(struct watch_round *round)
{
	clones_call_again(container_of(round, struct followed, calls)->d);
	return deadline_in_ms(CALL_MS);
}

/* ---- the end of a clone ---- */

static void on_end(struct watch *w)
{
	struct clone *c = container_of(w, struct clone, process);
	struct followed *f = c->followed;

	watch_forget(f->d->watcher, w);
	pthread_mutex_lock(&c->talk);
	clone_read_rest(f->d, c); /* what the process said before it ended */
	pthread_mutex_unlock(&c->talk);
	c->end_deadline_ns = deadline_in_ms(STATUS_WAIT_MS);
	c->next_ended = f->ended;
	f->ended = c;
	atomic_store(&f->ends.due_ns, 0);
}

/*
 * Whether nobody waits for more news of the clone's end. A clone that is not handed out yet
 * (CLONE_CREATING) is settled when it has been handed out, or taken out of the registry.
 */
static bool is_settled(struct registry *reg, const struct clone *c)
{
	pthread_mutex_lock(&reg->lock);
	bool known = c->has_status || c->exit_reason || monotonic_ns() >= c->end_deadline_ns;
	bool settled = c->state == CLONE_DELETING || !c->listed || (known && c->state != CLONE_CREATING);
	pthread_mutex_unlock(&reg->lock);
	return settled;
}

static uint64_t look_at_ends(struct watch_round *round)
{
	struct followed *f = container_of(round, struct followed, ends);

	for (struct clone **at = &f->ended; *at;) {
		struct clone *c = *at;
		if (!is_settled(f->d->registry, c)) {
			at = &c->next_ended;
			continue;
		}
		*at = c->next_ended;
		clone_ended(f->d, c);
		watch_release(f->d->watcher, &c->process);
	}
	return f->ended ? deadline_in_ms(END_TICK_MS) : UINT64_MAX;
}

/* ---- times ---- */

static uint64_t look_at_ttl(struct watch_round *round)
{
	return ttl_look(container_of(round, struct followed, ttl)->d);
}

static uint64_t sample(struct watch_round *round)
{
	stats_sample(container_of(round, struct followed, samples)->d->registry);
	return deadline_in_ms(SAMPLE_MS);
}

void follow_ttl(struct forkd *d)
{
	watch_hurry(d->watcher, &d->followed->ttl);
}

/* ---- which clones are followed ---- */

static void let_go(struct watch *process)
{
	struct clone *c = container_of(process, struct clone, process);
	struct followed *f = c->followed;

	pthread_mutex_lock(&f->lock);
	*c->followed_at = c->next_followed;
	if (c->next_followed)
		c->next_followed->followed_at = c->followed_at;
	pthread_mutex_unlock(&f->lock);
	clone_unref(f->d->registry, c);
}

int follow_clone(struct forkd *d, struct clone *c, struct err *err)
{
	struct followed *f = d->followed;

	pthread_mutex_lock(&d->registry->lock);
	clone_ref_locked(c);
	pthread_mutex_unlock(&d->registry->lock);
	c->control = (struct watch){ .fd = c->control.fd, .once = true, .ready = on_packet };
	c->process = (struct watch){ .fd = c->process.fd, .ready = on_end, .let_go = let_go };
	c->followed = f;
	pthread_mutex_lock(&f->lock);
	c->next_followed = f->first;
	c->followed_at = &f->first;
	if (f->first)
		f->first->followed_at = &c->next_followed;
	f->first = c;
	pthread_mutex_unlock(&f->lock);
	if (watch_add(d->watcher, &c->control, err) >= 0 && watch_add(d->watcher, &c->process, err) >= 0)
		return 0;
	watch_forget(d->watcher, &c->control);
	watch_release(d->watcher, &c->process);
	return err->num;
}

int follow_start(struct forkd *d, struct followed **ret, struct err *err)
{
	struct followed *f = calloc(1, sizeof(*f));

	if (!f)
		return err_num(err, ERR_INTERNAL, ENOMEM, "follow clones");
	f->d = d;
	f->ends.look = look_at_ends;
	f->ttl.look = look_at_ttl;
	f->samples.look = sample;
	f->calls.look = call_again;
	pthread_mutex_init(&f->lock, NULL);
	*ret = f;
	watch_add_round(d->watcher, &f->calls);
	watch_add_round(d->watcher, &f->samples);
	watch_add_round(d->watcher, &f->ttl);
	watch_add_round(d->watcher, &f->ends);
	return 0;
}

void follow_free(struct followed *f)
{
	if (!f)
		return;
	while (f->first)
		let_go(&f->first->process);
	pthread_mutex_destroy(&f->lock);
	free(f);
}
