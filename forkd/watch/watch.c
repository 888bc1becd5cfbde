// SPDX-License-Identifier: Apache-2.0
/* Waiting for descriptors and times. */
#include "forkd/watch/watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/auto.h"
#include "common/clock.h"
#include "common/log.h"

enum { BATCH = 64, SLEEP_MAX_MS = 5000 };

struct watcher {
	pthread_t thread;
	int epoll_fd;
	struct watch wake; /* an eventfd */
	atomic_bool stopping;
	pthread_mutex_t lock;
	struct watch *released;     /* lock */
	struct watch_round *rounds; /* lock, to add a round; no round is ever taken out */
};

/* ---- descriptors ---- */

int watch_add(struct watcher *r, struct watch *w, struct err *err)
{
	struct epoll_event e = { .events = EPOLLIN | (w->once ? (uint32_t)EPOLLONESHOT : 0u), .data.ptr = w };

	if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, w->fd, &e) < 0)
		return err_sys(err, ERR_INTERNAL, "watch descriptor %d", w->fd);
	return 0;
}

/*
 * The lock is tried once more after `missed` is set: a holder that has gone meanwhile may not have
 * seen `missed`.
 */
bool watch_try_talk(struct watch *w, pthread_mutex_t *lock)
{
	if (pthread_mutex_trylock(lock) == 0)
		return true;
	atomic_store(&w->missed, true);
	return pthread_mutex_trylock(lock) == 0;
}

void watch_end_talk(struct watcher *r, struct watch *w, pthread_mutex_t *lock)
{
	struct epoll_event e = { .events = EPOLLIN | (uint32_t)EPOLLONESHOT, .data.ptr = w };

	do {
		atomic_store(&w->missed, false);
		if (w->fd >= 0)
			epoll_ctl(r->epoll_fd, EPOLL_CTL_MOD, w->fd, &e);
		pthread_mutex_unlock(lock);
	} while (atomic_load(&w->missed) && watch_try_talk(w, lock));
}

void watch_forget(struct watcher *r, const struct watch *w)
{
	if (w->fd >= 0)
		epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
}

void watch_release(struct watcher *r, struct watch *w)
{
	pthread_mutex_lock(&r->lock);
	w->next_released = r->released;
	r->released = w;
	pthread_mutex_unlock(&r->lock);
}

static void drop_released(struct watcher *r)
{
	pthread_mutex_lock(&r->lock);
	struct watch *w = r->released;
	r->released = NULL;
	pthread_mutex_unlock(&r->lock);
	while (w) {
		struct watch *next = w->next_released;
		w->let_go(w);
		w = next;
	}
}

/* ---- times ---- */

void watch_add_round(struct watcher *r, struct watch_round *round)
{
	pthread_mutex_lock(&r->lock);
	round->next = r->rounds;
	r->rounds = round;
	pthread_mutex_unlock(&r->lock);
	watch_hurry(r, round);
}

static void wake(struct watcher *r)
{
	const uint64_t one = 1;

	if (write(r->wake.fd, &one, sizeof(one)) < 0)
		log_warn("wake the watcher: %s", strerror(errno));
}

void watch_hurry(struct watcher *r, struct watch_round *round)
{
	atomic_store(&round->due_ns, 0);
	wake(r);
}

static void on_wake(struct watch *w)
{
	uint64_t n;

	if (read(w->fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		log_warn("the watcher's eventfd: %s", strerror(errno));
}

static struct watch_round *first_round(struct watcher *r)
{
	pthread_mutex_lock(&r->lock);
	struct watch_round *round = r->rounds;
	pthread_mutex_unlock(&r->lock);
	return round;
}

/* A watch_hurry() during round->look() is kept: due_ns stays 0. */
static void look(struct watch_round *round)
{
	uint64_t looking = UINT64_MAX;

	atomic_store(&round->due_ns, looking);
	uint64_t next = round->look(round);
	atomic_compare_exchange_strong(&round->due_ns, &looking, next);
}

static int sleep_ms(struct watcher *r)
{
	uint64_t now = monotonic_ns(), least = now + SLEEP_MAX_MS * 1000000ULL;

	for (struct watch_round *round = first_round(r); round; round = round->next) {
		uint64_t due = atomic_load(&round->due_ns);
		least = due < least ? due : least;
	}
	return least > now ? (int)((least - now) / 1000000 + 1) : 0;
}

/* ---- the thread ---- */

static void *watcher_main(void *arg)
{
	struct watcher *r = arg;
	struct epoll_event events[BATCH];

	log_thread_name("watcher");
	while (!atomic_load(&r->stopping)) {
		int n = epoll_wait(r->epoll_fd, events, BATCH, sleep_ms(r));
		for (int pass = 0; pass < 2; pass++)
			for (int i = 0; i < n; i++) {
				struct watch *w = events[i].data.ptr;
				if (w->first == (pass == 0))
					w->ready(w);
			}
		for (struct watch_round *round = first_round(r); round; round = round->next)
			if (monotonic_ns() >= atomic_load(&round->due_ns))
				look(round);
		drop_released(r);
	}
	return NULL;
}

static void close_watcher(struct watcher *r)
{
	if (r->epoll_fd >= 0)
		close(r->epoll_fd);
	if (r->wake.fd >= 0)
		close(r->wake.fd);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

int watch_start(struct watcher **ret, struct err *err)
{
	struct watcher *r = calloc(1, sizeof(*r));

	if (!r)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start the watcher");
	pthread_mutex_init(&r->lock, NULL);
	r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	r->wake = (struct watch){ .ready = on_wake, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	int num = r->epoll_fd < 0 || r->wake.fd < 0 ? errno : 0;
	if (num == 0 && watch_add(r, &r->wake, err) < 0)
		num = -err->num;
	if (num == 0)
		num = pthread_create(&r->thread, NULL, watcher_main, r);
	if (num == 0) {
		*ret = r;
		return 0;
	}
	close_watcher(r);
	return err_num(err, ERR_INTERNAL, num, "start the watcher");
}

void watch_stop(struct watcher *r)
{
	if (!r)
		return;
	atomic_store(&r->stopping, true);
	wake(r);
	pthread_join(r->thread, NULL);
}

void watch_free(struct watcher *r)
{
	if (!r)
		return;
	drop_released(r);
	close_watcher(r);
}
