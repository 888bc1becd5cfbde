// SPDX-License-Identifier: Apache-2.0
/*
 * The one thread that waits for what nobody asked for: ends of processes, events of VM processes and template hosts, TTLs. It is
 * also the only one that lets go of what it watches, so that no event is about an object that is freed.
 */
#ifndef FORKD_WATCH_WATCH_H
#define FORKD_WATCH_WATCH_H

#include "forkd/clone/registry.h"
#include "forkd/daemon.h"

struct reaper;

MUST_CHECK int reaper_start(struct forkd *d, struct reaper **ret, struct err *err);
void reaper_stop(struct reaper *r); /* ends the thread; the functions below still work. NULL is fine */
void reaper_free(struct reaper *r);

/* The object holds a reference for the reaper, until reaper_release(). */
MUST_CHECK int reaper_watch(struct reaper *r, struct watch *w, struct err *err);
void reaper_rearm(struct reaper *r, const struct watch *w);  /* control sockets: after a conversation */
void reaper_forget(struct reaper *r, const struct watch *w); /* before its descriptor is closed */
void reaper_release(struct reaper *r,
		    struct watch *process); /* of a clone or host: drops the reaper's reference, soon */
/* A clone's watches and the reference for them; what is ended already is told at once. */
MUST_CHECK int reaper_adopt(struct reaper *r, struct clone *c, struct err *err);
/* A template host said how a process ended. */
void reaper_exited(struct forkd *d, uint32_t pid, int32_t status);
/* Look at the clock again: a TTL has changed. */
void reaper_wake(struct reaper *r);

#endif
