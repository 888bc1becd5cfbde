// SPDX-License-Identifier: Apache-2.0
/* From a checked request to running clones, or back to nothing. */
#include "forkd/clone/clone.h"
#include "forkd/clone/clone_disks.h"

#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/access/admission.h"
#include "forkd/access/place.h"
#include "forkd/clone/follow.h"
#include "forkd/clone/identify.h"
#include "forkd/clone/launch.h"
#include "forkd/clone/life.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/metrics.h"
#include "forkd/net/slots.h"
#include "forkd/template/spare_disks.h"
#include "forkd/template/templates.h"
#include "forkd/watch/watch.h"

enum {
	FORKS_UNDER_WAY = 16, /* the host's socket must hold the replies to these while more forks are sent */
	RESTORE_TIMEOUT_MS = 30000,
	COPY_MS_PER_MIB = 20,   /* in addition, where RAM is copied */
	QUIT_TIMEOUT_MS = 2000, /* for all clones together */
	QUIT_LEAST_MS = 20,
	RESTORE_MS_EACH = 100, /* in addition, for each clone: all clones share the host's CPUs */
	KILL_TIMEOUT_MS = 10000,
};

/* Names the clone in a message. */
static int named(const struct batch *b, unsigned i, struct err *err)
{
	const struct clone *c = b->jobs[i].c;

	if (b->n == 1)
		return err_wrap(err, "clone %s", c ? c->record.id : "1");
	return err_wrap(err, "clone %u of %u (%s)", i + 1, b->n, c ? c->record.id : "no id yet");
}

/*
 * Launches a process for every clone. The caller holds the host's talk. All replies of the host are
 * read, also after a failure.
 */
static int launch_all(struct batch *b, struct err *err)
{
	struct err later = {};
	int r = 0;

	while (b->begun < b->n && r >= 0) {
		r = launch_clone(b, &b->jobs[b->begun++], err);
		if (r < 0)
			named(b, b->begun - 1, err);
		while (r >= 0 && b->begun - b->forked >= FORKS_UNDER_WAY && b->forked < b->begun) {
			r = launch_forked(b, err);
			if (r < 0)
				err_wrap(err, "fork of clone %u of %u", b->forked + 1, b->n);
			b->forked++;
		}
	}
	while (b->forked < b->begun && b->jobs[b->forked].fork_sent && !b->host->failed) {
		struct err *e = r < 0 ? &later : err;
		if (launch_forked(b, e) < 0 && e == err)
			r = err_wrap(err, "fork of clone %u of %u", b->forked + 1, b->n);
		b->forked++;
	}
	if (r >= 0 && b->forked < b->begun) /* the host was found dead meanwhile: its replies are not waited for */
		r = fail(err, E_HOST, "template host of '%s': it has ended", b->t->name);
	return r;
}

static int create_all(struct batch *b, struct err *err)
{
	uint64_t patience_ms = RESTORE_TIMEOUT_MS + (uint64_t)b->n * RESTORE_MS_EACH;

	pthread_mutex_lock(&b->host->talk);
	int r = launch_all(b, err);
	watch_end_talk(b->d->watcher, &b->host->control, &b->host->talk);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < b->n; i++)
		if (b->jobs[i].spec->memory_restore_mode == CTL_COPY)
			patience_ms += (b->host->info.ram_bytes >> 20) * COPY_MS_PER_MIB;
	uint64_t deadline = deadline_in_ms(patience_ms);
	for (unsigned i = 0; i < b->n; i++)
		if (launch_restored(b, &b->jobs[i], deadline, err) < 0) {
			err_wrap(err, "restore");
			return named(b, i, err);
		}
	return 0;
}

/* ---- identity ---- */

/* Whether the request waits until the clone is itself. A clone that is to be paused must be itself before. */
static bool waits_for_identity(const struct batch *b, const struct clone_spec *spec)
{
	return b->host->agent && (spec->wait != WAIT_RESUMED || spec->paused);
}

/* Refuses what needs an agent, where the template has none, and ids that would not be unique. */
static int check_identity(const struct batch *b, const struct clone_request *rq, struct err *err)
{
	for (unsigned i = 0; i < rq->n_specs; i++) {
		const struct clone_spec *s = &rq->specs[i];
		if (!b->host->agent && s->wait == WAIT_READY)
			return fail(err, E_INVALID, "wait: \"ready\" needs a guest agent, and the template has none");
		if (!b->host->agent && s->identity.given)
			return fail(err, E_BAD_OVERRIDE,
				    "overrides.identity needs a guest agent, and the template has none");
		if (rq->count > rq->n_specs && (s->identity.hostname || s->identity.machine_id))
			return fail(err, E_BAD_OVERRIDE,
				    "overrides.identity: hostname and machine_id are for one clone, not for %u",
				    rq->count);
	}
	return 0;
}

/* Makes those clones unique that the request waits for. */
static int identify_now(const struct batch *b, struct err *err)
{
	autofree struct identify *list = calloc(b->n, sizeof(*list));
	unsigned n = 0;

	if (!list)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make %u clones unique", b->n);
	for (unsigned i = 0; i < b->n; i++) {
		const struct clone_spec *spec = b->jobs[i].spec;
		if (waits_for_identity(b, spec))
			list[n++] = (struct identify){ .c = b->jobs[i].c,
						       .dial = &b->jobs[i].dial,
						       .wish = spec->identity,
						       .pause = spec->paused,
						       .fd = -1 };
	}
	return identify_all(b->d, list, n, err);
}

/* Has the others made unique in the background. Clones for which this fails end, and say why. */
static void identify_others(const struct batch *b)
{
	struct identify *list = calloc(b->n, sizeof(*list));
	struct err err = {};
	unsigned n = 0;

	for (unsigned i = 0; i < b->n; i++) {
		const struct clone_spec *spec = b->jobs[i].spec;
		struct clone *c = b->jobs[i].c;
		if (waits_for_identity(b, spec))
			continue;
		if (!list || identity_wish_copy(&spec->identity, &list[n].wish, &err) < 0) {
			log_error("clone %s is ended: no memory for its identity", c->record.id);
			clone_kill(c);
			continue;
		}
		pthread_mutex_lock(&b->d->registry->lock);
		list[n].c = clone_ref_locked(c);
		pthread_mutex_unlock(&b->d->registry->lock);
		list[n++].fd = -1;
	}
	if (n == 0)
		free(list);
	else if (identify_later(b->d, list, n, &err) < 0)
		log_error("%u clones are ended: %s", n, err.msg);
}

/*
 * Ends a process whose pid never came: the process, if there is one, gets "quit" on the clone's
 * control socket.
 */
static void ask_to_quit(const struct clone *c, uint64_t deadline_ns)
{
	uint64_t now = monotonic_ns(), left_ms = deadline_ns > now ? (deadline_ns - now) / 1000000 : 0;
	struct err err = {};

	if (control_quit(c->control.fd, left_ms > QUIT_LEAST_MS ? left_ms : QUIT_LEAST_MS, &err) < 0)
		log_warn("clone %s: %s", c->record.id, err.msg);
}

static void undo(struct batch *b)
{
	uint64_t quit_by = deadline_in_ms(QUIT_TIMEOUT_MS);

	for (unsigned i = 0; i < b->begun; i++)
		if (b->jobs[i].c)
			clone_kill(b->jobs[i].c);
	for (unsigned i = 0; i < b->begun; i++) {
		struct job *j = &b->jobs[i];
		if (!j->c)
			continue;
		if (j->c->process.fd >= 0)
			wait_readable(j->c->process.fd, deadline_in_ms(KILL_TIMEOUT_MS));
		else if (j->fork_sent)
			ask_to_quit(j->c, quit_by);
		if (j->dir)
			clone_clear(b->d, &j->c->record);
		registry_remove(b->d->registry, j->c);
		clone_unref(b->d->registry, j->c);
	}
	metrics_count(b->d->metrics, METRIC_CLONES_FAILED, b->n);
}

static void observe(const struct batch *b, const struct clone *c)
{
	uint64_t begun = b->from->accepted_ns;

	if (c->restored_ns > begun)
		metrics_observe_us(b->d->metrics, HISTOGRAM_RESTORED, (c->restored_ns - begun) / 1000);
	if (c->resumed_ns > begun)
		metrics_observe_us(b->d->metrics, HISTOGRAM_RESUMED, (c->resumed_ns - begun) / 1000);
}

/*
 * From now on the clone is watched, and the next daemon adopts the clone. This is the last step
 * that can fail.
 */
static int settle(const struct batch *b, struct clone *c, struct err *err)
{
	autoclose int dir = -1;

	if (place_open(b->d, "clones", c->record.id, &dir, err) < 0 || record_commit(dir, err) < 0)
		return err->num;
	return follow_clone(b->d, c, err);
}

/* After this the clones of the request live like all others. */
static int hand_out(struct batch *b, struct clone **clones, struct err *err)
{
	bool timed = false;

	for (unsigned i = 0; i < b->n; i++)
		if (settle(b, b->jobs[i].c, err) < 0)
			return named(b, i, err);
	for (unsigned i = 0; i < b->n; i++) {
		struct clone *c = clones[i] = b->jobs[i].c;
		observe(b, c);
		timed |= c->record.expires_ns != 0;
		pthread_mutex_lock(&b->d->registry->lock);
		registry_swap_state_locked(b->d->registry, c, 1u << CLONE_CREATING, c->first_state);
		events_emit(b->d->events, "clone.created", c->record.template, c->record.id, NULL);
		pthread_mutex_unlock(&b->d->registry->lock);
	}
	if (timed)
		follow_ttl(b->d);
	metrics_count(b->d->metrics, METRIC_CLONES_CREATED, b->n);
	metrics_observe_us(b->d->metrics, HISTOGRAM_TOTAL, (monotonic_ns() - b->from->accepted_ns) / 1000);
	return 0;
}

static int admit(const struct batch *b, const struct clone_request *rq, struct err *err)
{
	uint64_t private = tmpl_private_at_least(b->d->registry, b->t, ADMISSION_CLONE_MIN_BYTES);
	struct admission_ask ask = {
		.count = rq->count,
		.threads_each = b->host->info.vcpus + ADMISSION_THREADS_EXTRA,
		.clones_now = registry_count(b->d->registry, NULL),
	};
	uint64_t bytes = 0;

	for (unsigned i = 0; i < rq->count; i++)
		bytes += clone_request_spec(rq, i)->memory_restore_mode == CTL_COPYONWRITE ? private
											   : b->host->info.ram_bytes;
	ask.bytes_each = bytes / rq->count;
	if (admission_enter(b->d->admission, &ask, err) >= 0)
		return 0;
	metrics_count(b->d->metrics, METRIC_ADMISSION_REFUSED, 1);
	return err->num;
}

static int run(struct batch *b, const struct clone_request *rq, struct clone **clones, struct err *err)
{
	struct clone_plan *plans = NULL;

	if (check_identity(b, rq, err) < 0 ||
	    clone_plans(rq, b->host, b->from->n_fds, slots_missing(b->d->slots), &plans, err) < 0)
		return err->num;
	for (unsigned i = 0; i < b->n; i++)
		b->jobs[i] = (struct job){ .spec = clone_request_spec(rq, i),
					   .plan = &plans[i],
					   .reach = waits_for_identity(b, clone_request_spec(rq, i)),
					   .dial = DIAL_INIT };
	int r = admit(b, rq, err);
	b->accepted_ns = monotonic_ns();
	if (r >= 0) {
		r = create_all(b, err);
		if (r >= 0 && b->host->agent)
			r = identify_now(b, err);
		if (r >= 0)
			r = hand_out(b, clones, err);
		if (r < 0)
			undo(b);
		else if (b->host->agent)
			identify_others(b);
	}
	for (unsigned i = 0; i < b->n; i++)
		dial_done(&b->jobs[i].dial);
	plans_free(plans, b->n);
	return r;
}

int clones_create(struct forkd *d, struct tmpl *t, const struct clone_request *rq, const struct origin *from,
		  struct clone ***ret, struct err *err)
{
	struct batch b = { .d = d, .t = t, .from = from, .n = rq->count };
	autofree struct job *jobs = calloc(rq->count, sizeof(*jobs));
	autofree struct clone **clones = calloc(rq->count, sizeof(struct clone *));

	if (!jobs || !clones)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make %u clones", rq->count);
	if (tmpl_host(d, t, &b.host, err) < 0)
		return err->num;
	b.jobs = jobs;
	int r = run(&b, rq, clones, err);
	spare_disks_fill(b.host);
	template_host_unref(b.host);
	if (r < 0)
		return r;
	*ret = steal_ptr(&clones);
	return 0;
}
