// SPDX-License-Identifier: Apache-2.0
/*
 * The one thread that waits for what nobody asked for. It knows descriptors, times and callbacks; what they are about is known to
 * whoever adds them. This thread is also the only one that lets go of what it watches, so that no callback is about an object that is
 * freed.
 */
#ifndef FORKD_WATCH_WATCH_H
#define FORKD_WATCH_WATCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/* A descriptor. The callbacks run in the watcher's thread. */
struct watch {
	int fd;     /* -1: none (yet, or any more) */
	bool once;  /* a conversation: silent after `ready` until watch_end_talk() */
	bool first; /* told before the others that are ready at the same moment */
	void (*ready)(struct watch *w);
	void (*let_go)(struct watch *w); /* drops the watcher's reference to the object that it is in */
	atomic_bool missed;              /* watch_try_talk() failed since the end of a conversation */
	struct watch *next_released;
};

/* Work at a time of its own. */
struct watch_round {
	uint64_t (*look)(struct watch_round *round); /* in the watcher's thread; returns when next, CLOCK_MONOTONIC ns */
	_Atomic uint64_t due_ns;                     /* 0: at once */
	struct watch_round *next;
};

struct watcher;

MUST_CHECK int watch_start(struct watcher **ret, struct err *err);
void watch_stop(struct watcher *r); /* ends the thread; the functions below still work. NULL is fine */
void watch_free(struct watcher *r); /* lets go of what was released; NULL is fine */

/* The object holds a reference for the watcher, until watch_release(). */
MUST_CHECK int watch_add(struct watcher *r, struct watch *w, struct err *err);
void watch_forget(struct watcher *r, const struct watch *w); /* before its descriptor is closed */
void watch_release(struct watcher *r, struct watch *w);      /* calls its let_go, soon */

/*
 * Conversations on a descriptor that is `once`, one at a time, under a lock. `ready` tries for it: false: who holds it reads what came.
 * The end unlocks, and arms the watch again, also where `ready` comes between the two.
 */
bool watch_try_talk(struct watch *w, pthread_mutex_t *lock);
void watch_end_talk(struct watcher *r, struct watch *w, pthread_mutex_t *lock);

/* From then on until watch_stop(). */
void watch_add_round(struct watcher *r, struct watch_round *round);
/* Has it look at once, whenever it is due. */
void watch_hurry(struct watcher *r, struct watch_round *round);

#endif
