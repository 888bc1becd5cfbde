// SPDX-License-Identifier: Apache-2.0
/*
 * Threads that all wait at one epoll instance. Each event wakes one of them, and that thread does all
 * that follows, however long it takes: no request changes threads on its way. A thread that is about
 * to wait for something else first makes sure that another one waits for events (pool_another()).
 * Threads that have had nothing to do for two seconds end, but for two.
 *
 * A source is what events come to: one or two descriptors and a function. A source runs in one thread
 * at a time, so its members need no lock. A source lives from pool_add() to pool_forget().
 */
#ifndef FORKD_FRONT_POOL_H
#define FORKD_FRONT_POOL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/queue.h>

#include "common/err.h"

struct pool;
struct source;

/* Why a source runs. POOL_STOP: the threads have ended, and the source must release itself. */
enum { POOL_EVENT = 1, POOL_TIMEOUT = 2, POOL_STOP = 4 };
/* False: the source is gone (pool_forget()). */
typedef bool source_fn(struct source *s, unsigned why);

enum { SOURCE_FDS = 2 };

struct source {
	source_fn *ready;

	/* for pool.c alone, under the pool's lock */
	int fds[SOURCE_FDS];
	uint32_t armed[SOURCE_FDS]; /* events that epoll reports once */
	uint32_t slot;
	unsigned pending; /* came while the source was running */
	bool running;
	struct deadlines *due; /* the list that the source is in; NULL: none */
	uint64_t due_ns;
	TAILQ_ENTRY(source) link;
};

enum { POOL_DEADLINES = 3 };

struct pool_options {
	unsigned threads_max;
	uint64_t deadline_ms[POOL_DEADLINES]; /* what pool_deadline() chooses from */
	/*
	 * Called when the time that pool_wake_at() has set is over. Returns the CLOCK_MONOTONIC time of the
	 * next call in ns; UINT64_MAX: none is needed.
	 */
	uint64_t (*expire)(void *arg, uint64_t now_ns);
	void *arg;
};

/* Makes the pool and its first threads. `opt` is borrowed during the call. */
MUST_CHECK int pool_new(const struct pool_options *opt, struct pool **ret, struct err *err);
/* Ends the threads; waits for those that are at work. The sources stay as they are. */
void pool_stop(struct pool *p);
/* Runs every source that is left with POOL_STOP, in the calling thread. The pool must be stopped. NULL is fine. */
void pool_free(struct pool *p);

/* Adds the source with fds[0] = fd. It does not run before pool_begin(). */
MUST_CHECK int pool_add(struct pool *p, struct source *s, int fd, struct err *err);
/* Lets the source run when one of the events comes; never in the calling thread before this returns. */
void pool_begin(struct pool *p, struct source *s, uint32_t events);
/* The same for a second descriptor, and taking it away again. In the source's thread. */
MUST_CHECK int pool_add_second(struct pool *p, struct source *s, int fd, struct err *err);
void pool_drop_second(struct pool *p, struct source *s);
/* To be called by the source's thread, before the descriptors are closed. */
void pool_forget(struct pool *p, struct source *s);

/*
 * Asks for one report of the events; also of EPOLLHUP and EPOLLERR, whatever `events` are. Replaces
 * what was asked for. In the source's thread.
 */
void pool_arm(struct pool *p, struct source *s, unsigned which, uint32_t events);
/* Lets the source run soon. In any thread; the caller makes sure that the source is not forgotten meanwhile. */
void pool_kick(struct pool *p, struct source *s);
/* POOL_TIMEOUT comes after opt.deadline_ms[i], unless the source runs before. In the source's thread. */
void pool_deadline(struct pool *p, struct source *s, unsigned i);
/* opt.expire is called at `at_ns` or earlier. Any thread. */
void pool_wake_at(struct pool *p, uint64_t at_ns);

/* Makes sure that a thread waits for events besides the caller. False: there is none, and none can be made. */
bool pool_another(struct pool *p);

#endif
