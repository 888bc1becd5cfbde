// SPDX-License-Identifier: Apache-2.0
/* Waiting for ends of processes, for events nobody asked for, and for TTLs. */
#include "forkd/watch/watch.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/clone/life.h"
#include "forkd/clone/stats.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/metrics.h"
#include "forkd/template/template_host.h"
#include "forkd/template/templates.h"
#include "forkd/wire/control.h"

enum {
	BATCH = 64,
	STATUS_WAIT_MS = 200, /* for the host to tell how a process ended */
	PENDING_TICK_MS = 10, /* looks at it that often */
	IDLE_TICK_MS = 5000,
	EXITED_KEPT_S = 300,
	EXITED_KEPT_MAX = 1000,
	RETRY_MS = 100, /* of a TTL whose clone is busy */
};

struct watcher {
	struct forkd *d;
	pthread_t thread;
	int epoll_fd;
	struct watch wake;
	pthread_mutex_t lock;
	struct watch *released; /* lock */
	struct clone *adopted;  /* lock; until they are released */
	struct clone *pending;  /* ended, the status is not known yet; thread only */
	uint64_t next_sample_ns;
	bool woken;
};

/* ---- what is watched ---- */

int watch_add(struct watcher *r, struct watch *w, struct err *err)
{
	bool conversation = w->kind == WATCH_CLONE || w->kind == WATCH_HOST;
	struct epoll_event e = { .events = EPOLLIN | (conversation ? (uint32_t)EPOLLONESHOT : 0u), .data.ptr = w };

	if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, w->fd, &e) < 0)
		return err_sys(err, ERR_INTERNAL, "watch descriptor %d", w->fd);
	return 0;
}

void watch_rearm(struct watcher *r, const struct watch *w)
{
	struct epoll_event e = { .events = EPOLLIN | (uint32_t)EPOLLONESHOT };

	e.data.ptr = (void *)(uintptr_t)w;
	if (w->fd >= 0)
		epoll_ctl(r->epoll_fd, EPOLL_CTL_MOD, w->fd, &e);
}

void watch_forget(struct watcher *r, const struct watch *w)
{
	if (w->fd >= 0)
		epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
}

void watch_wake(struct watcher *r)
{
	const uint64_t one = 1;

	if (write(r->wake.fd, &one, sizeof(one)) < 0)
		log_warn("wake the watcher: %s", strerror(errno));
}

void watch_release(struct watcher *r, struct watch *process)
{
	pthread_mutex_lock(&r->lock);
	process->next_released = r->released;
	r->released = process;
	pthread_mutex_unlock(&r->lock);
}

int watch_adopt(struct watcher *r, struct clone *c, struct err *err)
{
	pthread_mutex_lock(&r->d->registry->lock);
	clone_ref_locked(c);
	pthread_mutex_unlock(&r->d->registry->lock);
	pthread_mutex_lock(&r->lock);
	c->next_adopted = r->adopted;
	c->adopted_at = &r->adopted;
	if (r->adopted)
		r->adopted->adopted_at = &c->next_adopted;
	r->adopted = c;
	pthread_mutex_unlock(&r->lock);
	if (watch_add(r, &c->control, err) >= 0 && watch_add(r, &c->process, err) >= 0)
		return 0;
	watch_forget(r, &c->control);
	watch_release(r, &c->process);
	return err->num;
}

static void let_go(struct watcher *r, struct clone *c)
{
	pthread_mutex_lock(&r->lock);
	*c->adopted_at = c->next_adopted;
	if (c->next_adopted)
		c->next_adopted->adopted_at = c->adopted_at;
	pthread_mutex_unlock(&r->lock);
	clone_unref(r->d->registry, c);
}

static void drop_released(struct watcher *r)
{
	pthread_mutex_lock(&r->lock);
	struct watch *w = r->released;
	r->released = NULL;
	pthread_mutex_unlock(&r->lock);
	while (w) {
		struct watch *next = w->next_released;
		if (w->kind == WATCH_CLONE_PID)
			let_go(r, container_of(w, struct clone, process));
		else
			template_host_unref(container_of(w, struct template_host, process));
		w = next;
	}
}

/* ---- clones ---- */

static void on_clone_packet(struct watcher *r, struct clone *c)
{
	autoctl struct ctl_packet p = {};
	struct err err = {};

	if (pthread_mutex_trylock(&c->talk) != 0)
		return; /* whoever talks with it reads this too, and arms the watch again */
	bool open = c->control.fd >= 0 && wait_readable(c->control.fd, 0) > 0;
	int got = open ? ctl_recv(c->control.fd, &p, &err) : 1;
	if (open && got > 0)
		clone_event(r->d, c, &p);
	if (got == 0 || (got < 0 && got != -EAGAIN)) {
		watch_forget(r, &c->control); /* it is ending: the pidfd tells */
		close(steal_fd(&c->control.fd));
	}
	watch_rearm(r, &c->control);
	pthread_mutex_unlock(&c->talk);
}

/* What it said before it ended is still in the socket. */
static void drain(struct watcher *r, struct clone *c)
{
	struct err err = {};

	pthread_mutex_lock(&c->talk);
	while (c->control.fd >= 0 && wait_readable(c->control.fd, 0) > 0) {
		autoctl struct ctl_packet p = {};
		if (ctl_recv(c->control.fd, &p, &err) <= 0)
			break;
		clone_event(r->d, c, &p);
	}
	pthread_mutex_unlock(&c->talk);
}

/* Nobody waits for more news of its end. One that is not handed out yet ends afterwards, or is taken out of the registry. */
static bool is_settled(struct watcher *r, const struct clone *c)
{
	pthread_mutex_lock(&r->d->registry->lock);
	bool known = c->has_status || c->exit_reason || monotonic_ns() >= c->end_deadline_ns;
	bool settled = c->state == CLONE_DELETING || !c->listed || (known && c->state != CLONE_CREATING);
	pthread_mutex_unlock(&r->d->registry->lock);
	return settled;
}

static void finish(struct watcher *r, struct clone *c)
{
	clone_ended(r->d, c);
	watch_release(r, &c->process);
}

static void on_clone_end(struct watcher *r, struct clone *c)
{
	watch_forget(r, &c->process);
	drain(r, c);
	c->end_deadline_ns = deadline_in_ms(STATUS_WAIT_MS);
	c->next_pending = r->pending;
	r->pending = c;
}

static void look_at_pending(struct watcher *r)
{
	for (struct clone **at = &r->pending; *at;) {
		struct clone *c = *at;
		if (is_settled(r, c)) {
			*at = c->next_pending;
			finish(r, c);
		} else {
			at = &c->next_pending;
		}
	}
}

void watch_exited(struct forkd *d, uint32_t pid, int32_t status)
{
	struct registry *reg = d->registry;

	pthread_mutex_lock(&reg->lock);
	for (size_t i = 0; i < ARRAY_LEN(reg->buckets); i++)
		for (struct clone *c = reg->buckets[i]; c; c = c->next)
			if (c->record.pid == pid && !c->has_status && c->state != CLONE_EXITED) {
				c->has_status = true;
				c->status = status;
			}
	pthread_mutex_unlock(&reg->lock);
}

/* ---- template hosts ---- */

static void on_host_packet(struct template_host *h, struct watcher *r)
{
	autoctl struct ctl_packet p = {};
	struct err err = {};

	if (pthread_mutex_trylock(&h->talk) != 0)
		return;
	int got = h->control.fd >= 0 && wait_readable(h->control.fd, 0) > 0 ? ctl_recv(h->control.fd, &p, &err)
									    : -EAGAIN;
	if (got > 0 && json_get(&p.json.nodes[0], "event"))
		template_host_event(h, &p);
	if (got == 0 || (got < 0 && got != -EAGAIN))
		h->failed = true; /* its pidfd tells the rest */
	else
		watch_rearm(r, &h->control);
	pthread_mutex_unlock(&h->talk);
}

static void on_host_end(struct watcher *r, struct template_host *h)
{
	struct tmpl *t = tmpl_find(r->d->registry, h->name);

	h->failed = true;
	if (!t)
		return; /* it is being deleted, and the host with it */
	tmpl_host_died(r->d, t, h);
	tmpl_unuse(r->d->registry, t);
}

/* ---- time ---- */

/* The first clone that is over its time (a reference), and when the next one will be. */
static struct clone *find_overdue(struct registry *reg, uint64_t now, uint64_t *ret_next, bool *ret_exited)
{
	struct clone *found = NULL, *oldest = NULL;

	pthread_mutex_lock(&reg->lock);
	for (size_t i = 0; i < ARRAY_LEN(reg->buckets) && !found; i++)
		for (struct clone *c = reg->buckets[i]; c && !found; c = c->next) {
			uint64_t due = c->state == CLONE_EXITED ? c->exited_ns + EXITED_KEPT_S * 1000000000ULL
								: c->record.expires_ns;
			bool waits = c->state == CLONE_EXITED || c->state == CLONE_PAUSED || c->state == CLONE_RUNNING;
			if (c->state == CLONE_EXITED && (!oldest || c->exited_ns < oldest->exited_ns))
				oldest = c;
			if (waits && due && due <= now)
				found = c;
			else if (waits && due && due < *ret_next)
				*ret_next = due;
		}
	if (!found && reg->n_exited > EXITED_KEPT_MAX)
		found = oldest;
	if (found)
		clone_ref_locked(found);
	*ret_exited = found && found->state == CLONE_EXITED;
	pthread_mutex_unlock(&reg->lock);
	return found;
}

/* Deletes what is over its time; returns when to look again. */
static uint64_t look_at_clock(struct watcher *r)
{
	uint64_t now = monotonic_ns(), next = now + IDLE_TICK_MS * 1000000ULL;
	struct clone *c;
	bool exited;

	r->woken = false;
	while ((c = find_overdue(r->d->registry, now, &next, &exited))) {
		struct err err = {};
		if (exited) {
			registry_remove(r->d->registry, c); /* only its record was left */
		} else if (clone_delete(r->d, c, &err) < 0) {
			log_warn("clone %s is over its time: %s", c->record.id, err.msg);
			next = now + RETRY_MS * 1000000ULL;
			clone_unref(r->d->registry, c);
			break;
		}
		clone_unref(r->d->registry, c);
	}
	if (now >= r->next_sample_ns) {
		stats_sample(r->d->registry);
		r->next_sample_ns = now + IDLE_TICK_MS * 1000000ULL;
	}
	return next;
}

/* ---- the thread ---- */

static void dispatch(struct watcher *r, struct watch *w)
{
	uint64_t n;

	switch (w->kind) {
	case WATCH_CLONE:
		on_clone_packet(r, container_of(w, struct clone, control));
		break;
	case WATCH_CLONE_PID:
		on_clone_end(r, container_of(w, struct clone, process));
		break;
	case WATCH_HOST:
		on_host_packet(container_of(w, struct template_host, control), r);
		break;
	case WATCH_HOST_PID:
		on_host_end(r, container_of(w, struct template_host, process));
		break;
	default:
		r->woken = read(w->fd, &n, sizeof(n)) > 0;
	}
}

/* Hosts first: they tell how the processes ended whose ends come in the same batch. */
static void *reaper_main(void *arg)
{
	struct watcher *r = arg;
	struct epoll_event events[BATCH];
	uint64_t look_again = 0;

	log_thread_name("watcher");
	while (!r->d->stopping) {
		uint64_t now = monotonic_ns();
		uint64_t ms = look_again > now ? (look_again - now) / 1000000 + 1 : 0;
		if (r->pending && ms > PENDING_TICK_MS)
			ms = PENDING_TICK_MS;
		int n = epoll_wait(r->epoll_fd, events, BATCH, (int)ms);
		for (int pass = 0; pass < 2; pass++)
			for (int i = 0; i < n; i++) {
				struct watch *w = events[i].data.ptr;
				if ((w->kind == WATCH_HOST) == (pass == 0))
					dispatch(r, w);
			}
		look_at_pending(r);
		if (r->woken || monotonic_ns() >= look_again)
			look_again = look_at_clock(r);
		drop_released(r);
	}
	return NULL;
}

int watch_start(struct forkd *d, struct watcher **ret, struct err *err)
{
	struct watcher *r = calloc(1, sizeof(*r));

	if (!r)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start the watcher");
	r->d = d;
	pthread_mutex_init(&r->lock, NULL);
	r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	r->wake = (struct watch){ .kind = WATCH_WAKE, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	int num = r->epoll_fd < 0 || r->wake.fd < 0 ? errno : 0;
	if (num == 0 && watch_add(r, &r->wake, err) < 0)
		num = -err->num;
	d->watcher = r; /* the thread uses it */
	if (num == 0)
		num = pthread_create(&r->thread, NULL, reaper_main, r);
	if (num == 0) {
		*ret = r;
		return 0;
	}
	d->watcher = NULL;
	if (r->epoll_fd >= 0)
		close(r->epoll_fd);
	if (r->wake.fd >= 0)
		close(r->wake.fd);
	free(r);
	return err_num(err, ERR_INTERNAL, num, "start the watcher");
}

void watch_stop(struct watcher *r)
{
	if (!r)
		return;
	r->d->stopping = true;
	watch_wake(r);
	pthread_join(r->thread, NULL);
}

void watch_free(struct watcher *r)
{
	if (!r)
		return;
	drop_released(r);
	while (r->adopted)
		let_go(r, r->adopted);
	close(r->epoll_fd);
	close(r->wake.fd);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
