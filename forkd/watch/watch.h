// SPDX-License-Identifier: Apache-2.0
/*
 * The watcher: one thread that waits for what no request waits for. The watcher knows descriptors,
 * times and callbacks; the objects behind these are known to whoever adds them. Only the watcher's
 * thread lets go of watched objects, so that no callback is about an object that is freed.
 */
#ifndef FORKD_WATCH_WATCH_H
#define FORKD_WATCH_WATCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/* A watched descriptor. The callbacks run in the watcher's thread. */
struct watch {
	int fd;     /* -1: none (yet, or any more) */
	bool once;  /* a conversation: silent after `ready` until watch_end_talk() */
	bool first; /* called before other watches that are ready at the same moment */
	void (*ready)(struct watch *w);
	void (*let_go)(struct watch *w); /* drops the watcher's reference to the object with this watch */
	atomic_bool missed;              /* watch_try_talk() failed since the last conversation ended */
	struct watch *next_released;
};

/* Work that the watcher's thread does at times that the work chooses. */
struct watch_round {
	uint64_t (*look)(struct watch_round *round); /* returns the next time, CLOCK_MONOTONIC in ns */
	_Atomic uint64_t due_ns;                     /* 0: at once */
	struct watch_round *next;
};

struct watcher;

MUST_CHECK int watch_start(struct watcher **ret, struct err *err);
void watch_stop(struct watcher *r); /* ends the thread; the functions below still work. NULL is fine */
void watch_free(struct watcher *r); /* lets go of objects that were released; NULL is fine */

/*
 * Watches w->fd. The caller has taken a reference to the object for the watcher, which keeps the
 * reference until watch_release().
 */
MUST_CHECK int watch_add(struct watcher *r, struct watch *w, struct err *err);
void watch_forget(struct watcher *r, const struct watch *w); /* called before w->fd is closed */
void watch_release(struct watcher *r, struct watch *w);      /* the watcher's thread soon calls w->let_go */

/*
 * Conversations on the descriptor of a watch that is `once`, one at a time, under a lock. `ready`
 * calls watch_try_talk(); false means that the lock's holder reads what came. watch_end_talk()
 * unlocks and arms the watch again, also when `ready` has failed to get the lock meanwhile.
 */
bool watch_try_talk(struct watch *w, pthread_mutex_t *lock);
void watch_end_talk(struct watcher *r, struct watch *w, pthread_mutex_t *lock);

/*
 * Adds a round, which is looked at from now on until watch_stop(). The round's memory stays the
 * caller's.
 */
void watch_add_round(struct watcher *r, struct watch_round *round);
/* Makes the round look at once, although the round is due later. */
void watch_hurry(struct watcher *r, struct watch_round *round);

#endif
