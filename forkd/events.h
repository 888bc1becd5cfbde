// SPDX-License-Identifier: Apache-2.0
/*
 * The last events, numbered, for every client that follows them. Numbers grow by one from a start that is the time of the daemon's
 * start in microseconds, so they grow across restarts too. Safe from every thread.
 */
#ifndef FORKD_EVENTS_H
#define FORKD_EVENTS_H

#include "common/json64.h"

enum { EVENTS_KEPT = 4096 };

struct events;

MUST_CHECK int events_new(struct events **ret, struct err *err);
/* Nobody may be reading. NULL is fine. */
void events_free(struct events *ev);

/*
 * Adds an event: `type` is a name like "clone.created"; template, clone and extra (`"key":value` members of JSON) may be
 * NULL. An event that cannot be kept for want of memory leaves a gap that readers see as events lost.
 */
void events_emit(struct events *ev, const char *type, const char *template_name, const char *clone_id,
		 const char *extra);

/* Numbers of the oldest event kept (the next one's, when there is none) and of the newest (0: none yet). */
void events_range(struct events *ev, uint64_t *ret_oldest, uint64_t *ret_newest);
/*
 * Adds the events after *seq to `out` as server-sent events, and puts the last one's number into *seq.
 * Returns how many, some hundred at most; 0: there is none; -ENOENT when the one after *seq is no longer, or was never, there.
 */
MUST_CHECK int events_read(struct events *ev, uint64_t *seq, struct strbuf *out);
/*
 * `wake` is called after each event, by whoever emits it and with locks held: it must neither wait nor call back. NULL: nobody
 * is called any more once this returns.
 */
void events_set_wake(struct events *ev, void (*wake)(void *arg), void *arg);

#endif
