// SPDX-License-Identifier: Apache-2.0
/*
 * The pool of threads. epoll knows a source by the number of its slot and the slot's generation, so an
 * event that comes late never reaches a source that is gone.
 */
#include "forkd/front/pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "common/clock.h"
#include "common/log.h"

enum {
	STACK_BYTES = 256 * 1024,
	SPARE_THREADS = 2, /* stay, however little there is to do */
	SPARE_MS = 2000,
	SLOT_BITS = 31,
};

#define STOP_TOKEN UINT64_MAX
#define TIMER_TOKEN (UINT64_MAX - 1)

TAILQ_HEAD(sources, source);

struct deadlines {
	struct sources list; /* the first is due first */
	uint64_t ns;
};

struct slot {
	struct source *source; /* NULL: free */
	uint32_t generation, next_free;
};

struct pool {
	struct pool_options opt;
	int epoll_fd, stop_fd, timer_fd;
	atomic_uint n_waiting; /* threads that wait for events, or are about to */
	atomic_bool stopping;
	pthread_mutex_t lock; /* guards all below, and the members of sources that pool.h gives it */
	pthread_cond_t ended;
	unsigned n_threads;
	pthread_t last_ended; /* to be joined */
	bool has_ended;
	struct slot *slots;
	uint32_t n_slots, first_free; /* first_free == n_slots: none is free */
	struct deadlines deadlines[POOL_DEADLINES];
	uint64_t timer_ns; /* when timer_fd fires; UINT64_MAX: never */
};

/* ---- slots ---- */

static bool grow_locked(struct pool *p)
{
	uint32_t n = p->n_slots * 2 + 64;
	struct slot *slots = reallocarray(p->slots, n, sizeof(*slots));

	if (!slots)
		return false;
	for (uint32_t i = p->n_slots; i < n; i++)
		slots[i] = (struct slot){ .next_free = i + 1 };
	p->slots = slots;
	p->n_slots = n; /* first_free was the old n_slots */
	return true;
}

static uint64_t token(const struct pool *p, const struct source *s, unsigned which)
{
	return (uint64_t)p->slots[s->slot].generation << 32 | which << SLOT_BITS | s->slot;
}

/* The source that an event is for; NULL: it is gone. */
static struct source *find_locked(const struct pool *p, uint64_t data)
{
	const struct slot *slot = &p->slots[data & ((1U << SLOT_BITS) - 1)];

	return slot->generation == data >> 32 ? slot->source : NULL;
}

static int control(struct pool *p, struct source *s, int op, unsigned which, uint32_t events)
{
	struct epoll_event ev = { .events = events | EPOLLONESHOT, .data.u64 = token(p, s, which) };

	s->armed[which] = events;
	return epoll_ctl(p->epoll_fd, op, s->fds[which], &ev);
}

int pool_add(struct pool *p, struct source *s, int fd, struct err *err)
{
	pthread_mutex_lock(&p->lock);
	bool room = p->first_free < p->n_slots || grow_locked(p);
	if (room) {
		s->slot = p->first_free;
		p->first_free = p->slots[s->slot].next_free;
		p->slots[s->slot].source = s;
		s->fds[0] = fd;
		s->fds[1] = -1;
		s->pending = 0;
		s->running = true;
		s->due = NULL;
	}
	int num = !room ? ENOMEM : control(p, s, EPOLL_CTL_ADD, 0, 0) < 0 ? errno : 0;
	pthread_mutex_unlock(&p->lock);
	if (num && room)
		pool_forget(p, s);
	return num ? err_num(err, ERR_INTERNAL, num, "watch descriptor %d", fd) : 0;
}

void pool_begin(struct pool *p, struct source *s, uint32_t events)
{
	pthread_mutex_lock(&p->lock);
	s->running = false;
	s->pending = 0; /* what has come is reported again */
	(void)control(p, s, EPOLL_CTL_MOD, 0, events);
	pthread_mutex_unlock(&p->lock);
}

int pool_add_second(struct pool *p, struct source *s, int fd, struct err *err)
{
	pthread_mutex_lock(&p->lock);
	s->fds[1] = fd;
	int num = control(p, s, EPOLL_CTL_ADD, 1, 0) < 0 ? errno : 0;
	pthread_mutex_unlock(&p->lock);
	return num ? err_num(err, ERR_INTERNAL, num, "watch descriptor %d", fd) : 0;
}

void pool_drop_second(struct pool *p, struct source *s)
{
	pthread_mutex_lock(&p->lock);
	if (s->fds[1] >= 0)
		epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, s->fds[1], NULL);
	s->fds[1] = -1;
	pthread_mutex_unlock(&p->lock);
}

static void clear_deadline_locked(struct source *s)
{
	if (s->due)
		TAILQ_REMOVE(&s->due->list, s, link);
	s->due = NULL;
}

void pool_forget(struct pool *p, struct source *s)
{
	pthread_mutex_lock(&p->lock);
	clear_deadline_locked(s);
	for (unsigned i = 0; i < SOURCE_FDS; i++)
		if (s->fds[i] >= 0)
			epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, s->fds[i], NULL);
	struct slot *slot = &p->slots[s->slot];
	*slot = (struct slot){ .generation = slot->generation + 1, .next_free = p->first_free };
	p->first_free = s->slot;
	pthread_mutex_unlock(&p->lock);
}

/* ---- events ---- */

void pool_arm(struct pool *p, struct source *s, unsigned which, uint32_t events)
{
	pthread_mutex_lock(&p->lock);
	if (s->fds[which] >= 0 && (s->armed[which] != events || events == 0))
		(void)control(p, s, EPOLL_CTL_MOD, which, events);
	pthread_mutex_unlock(&p->lock);
}

void pool_kick(struct pool *p, struct source *s)
{
	pthread_mutex_lock(&p->lock);
	if (s->running)
		s->pending |= POOL_EVENT;
	else /* it can be written to, most of the time; when it cannot, there is nothing to do for it anyway */
		(void)control(p, s, EPOLL_CTL_MOD, 0, s->armed[0] | EPOLLOUT);
	pthread_mutex_unlock(&p->lock);
}

/* Runs a source that the caller has marked as running, until nothing is pending. */
static void run(struct pool *p, struct source *s, unsigned why)
{
	while (s->ready(s, why)) {
		pthread_mutex_lock(&p->lock);
		why = s->pending;
		s->pending = 0;
		s->running = why != 0;
		if (why)
			clear_deadline_locked(s);
		pthread_mutex_unlock(&p->lock);
		if (!why)
			return;
	}
}

/* The source runs now, in this thread or in the one that it is running in. True: in this thread. */
static bool claim_locked(struct source *s, unsigned why)
{
	if (s->running) {
		s->pending |= why;
		return false;
	}
	clear_deadline_locked(s);
	s->running = true;
	return true;
}

static void deliver(struct pool *p, uint64_t data)
{
	pthread_mutex_lock(&p->lock);
	struct source *s = find_locked(p, data);
	if (s)
		s->armed[data >> SLOT_BITS & 1] = 0;
	bool claimed = s && claim_locked(s, POOL_EVENT);
	pthread_mutex_unlock(&p->lock);
	if (claimed)
		run(p, s, POOL_EVENT);
}

/* ---- time ---- */

static void set_timer_locked(struct pool *p, uint64_t at_ns)
{
	const uint64_t ns = at_ns > 0 ? at_ns : 1; /* 0 would switch the timer off */
	const struct itimerspec at = {
		.it_value = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) },
	};

	p->timer_ns = at_ns;
	if (timerfd_settime(p->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) < 0)
		log_error("http: set the timer: %s", strerror(errno));
}

static void wake_at_locked(struct pool *p, uint64_t at_ns)
{
	if (at_ns < p->timer_ns)
		set_timer_locked(p, at_ns);
}

void pool_wake_at(struct pool *p, uint64_t at_ns)
{
	pthread_mutex_lock(&p->lock);
	wake_at_locked(p, at_ns);
	pthread_mutex_unlock(&p->lock);
}

void pool_deadline(struct pool *p, struct source *s, unsigned i)
{
	uint64_t now = monotonic_ns();

	pthread_mutex_lock(&p->lock);
	clear_deadline_locked(s);
	s->due = &p->deadlines[i];
	s->due_ns = now + s->due->ns;
	TAILQ_INSERT_TAIL(&s->due->list, s, link);
	wake_at_locked(p, s->due_ns);
	pthread_mutex_unlock(&p->lock);
}

/* Claims one source whose deadline has passed. NULL: there is none. */
static struct source *claim_due_locked(struct pool *p, uint64_t now)
{
	for (unsigned i = 0; i < POOL_DEADLINES; i++) {
		struct source *s;
		while ((s = TAILQ_FIRST(&p->deadlines[i].list)) && s->due_ns <= now) {
			clear_deadline_locked(s);
			if (claim_locked(s, POOL_TIMEOUT))
				return s;
		}
	}
	return NULL;
}

static uint64_t next_due_locked(const struct pool *p)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < POOL_DEADLINES; i++) {
		const struct source *s = TAILQ_FIRST(&p->deadlines[i].list);
		if (s && s->due_ns < next)
			next = s->due_ns;
	}
	return next;
}

/* Runs one source that is due, after the timer was set for the next one: it may take its time. */
static void on_timer(struct pool *p)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = TIMER_TOKEN };
	uint64_t times, now = monotonic_ns();

	if (read(p->timer_fd, &times, sizeof(times)) < 0)
		log_debug("http: the timer was set anew before it fired");
	uint64_t theirs = p->opt.expire ? p->opt.expire(p->opt.arg, now) : UINT64_MAX;
	pthread_mutex_lock(&p->lock);
	struct source *s = claim_due_locked(p, now);
	p->timer_ns = UINT64_MAX;
	wake_at_locked(p, next_due_locked(p));
	wake_at_locked(p, theirs);
	epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, p->timer_fd, &ev);
	pthread_mutex_unlock(&p->lock);
	if (s)
		run(p, s, POOL_TIMEOUT);
}

/* ---- threads ---- */

static void *pool_thread(void *arg);

/* The new thread counts as waiting from here on. */
static int start_thread(struct pool *p)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_mutex_lock(&p->lock);
	int num = p->n_threads < p->opt.threads_max && !p->stopping ? 0 : EAGAIN;
	if (num == 0) {
		atomic_fetch_add(&p->n_waiting, 1);
		pthread_attr_init(&attr);
		pthread_attr_setstacksize(&attr, STACK_BYTES);
		num = pthread_create(&thread, &attr, pool_thread, p);
		pthread_attr_destroy(&attr);
		if (num)
			atomic_fetch_sub(&p->n_waiting, 1);
		else
			p->n_threads++;
	}
	pthread_mutex_unlock(&p->lock);
	return num;
}

bool pool_another(struct pool *p)
{
	return atomic_load(&p->n_waiting) > 0 || start_thread(p) == 0;
}

/* Each thread that ends joins the one before it; pool_stop() joins the last one. */
static void end_thread(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	pthread_t before = p->last_ended;
	bool has_before = p->has_ended;
	p->last_ended = pthread_self();
	p->has_ended = true;
	p->n_threads--;
	pthread_cond_broadcast(&p->ended);
	pthread_mutex_unlock(&p->lock);
	if (has_before)
		pthread_join(before, NULL);
}

/* False: the thread ends. */
static bool wait_and_run(struct pool *p)
{
	struct epoll_event ev;
	bool spare = atomic_load(&p->n_waiting) > SPARE_THREADS;
	int n = epoll_wait(p->epoll_fd, &ev, 1, spare ? SPARE_MS : -1);
	unsigned others = atomic_fetch_sub(&p->n_waiting, 1) - 1;

	if (atomic_load(&p->stopping) || (n == 0 && others >= SPARE_THREADS))
		return false;
	if (n == 1 && ev.data.u64 == TIMER_TOKEN)
		on_timer(p);
	else if (n == 1)
		deliver(p, ev.data.u64);
	atomic_fetch_add(&p->n_waiting, 1);
	return true;
}

static void *pool_thread(void *arg)
{
	struct pool *p = arg;

	log_thread_name("http");
	while (wait_and_run(p))
		;
	end_thread(p);
	return NULL;
}

/* ---- start and stop ---- */

static int begin(struct pool *p, struct err *err)
{
	struct epoll_event stop = { .events = EPOLLIN, .data.u64 = STOP_TOKEN };
	struct epoll_event timer = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = TIMER_TOKEN };

	p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (p->epoll_fd < 0 || p->stop_fd < 0 || p->timer_fd < 0 ||
	    epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->stop_fd, &stop) < 0 ||
	    epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->timer_fd, &timer) < 0)
		return err_sys(err, ERR_INTERNAL, "start to wait for connections");
	for (unsigned i = 0; i < SPARE_THREADS; i++) {
		int num = start_thread(p);
		if (num)
			return err_num(err, ERR_INTERNAL, num, "start a thread for connections");
	}
	return 0;
}

int pool_new(const struct pool_options *opt, struct pool **ret, struct err *err)
{
	struct pool *p = calloc(1, sizeof(*p));

	if (!p)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start to wait for connections");
	p->opt = *opt;
	p->epoll_fd = p->stop_fd = p->timer_fd = -1;
	p->timer_ns = UINT64_MAX;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->ended, NULL);
	for (unsigned i = 0; i < POOL_DEADLINES; i++) {
		p->deadlines[i].ns = opt->deadline_ms[i] * 1000000;
		TAILQ_INIT(&p->deadlines[i].list);
	}
	if (begin(p, err) < 0) {
		pool_stop(p);
		pool_free(p);
		return err->num;
	}
	*ret = p;
	return 0;
}

void pool_stop(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	if (p->stop_fd >= 0 && eventfd_write(p->stop_fd, 1) < 0)
		log_error("http: stop the threads: %s", strerror(errno));
	while (p->n_threads > 0)
		pthread_cond_wait(&p->ended, &p->lock);
	bool has_ended = p->has_ended;
	p->has_ended = false;
	pthread_mutex_unlock(&p->lock);
	if (has_ended)
		pthread_join(p->last_ended, NULL);
}

void pool_free(struct pool *p)
{
	if (!p)
		return;
	for (uint32_t i = 0; i < p->n_slots; i++)
		if (p->slots[i].source)
			p->slots[i].source->ready(p->slots[i].source, POOL_STOP);
	if (p->epoll_fd >= 0)
		close(p->epoll_fd);
	if (p->stop_fd >= 0)
		close(p->stop_fd);
	if (p->timer_fd >= 0)
		close(p->timer_fd);
	free(p->slots);
	pthread_cond_destroy(&p->ended);
	pthread_mutex_destroy(&p->lock);
	free(p);
}
