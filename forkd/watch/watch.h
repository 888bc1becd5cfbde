// SPDX-License-Identifier: Apache-2.0
/*
 * The one thread that waits for what nobody asked for: ends of processes, events of VM processes and template hosts, TTLs. It is
 * also the only one that lets go of what it watches, so that no event is about an object that is freed.
 */
#ifndef FORKD_WATCH_WATCH_H
#define FORKD_WATCH_WATCH_H

#include "forkd/clone/registry.h"
#include "forkd/daemon.h"

struct watcher;

MUST_CHECK int watch_start(struct forkd *d, struct watcher **ret, struct err *err);
void watch_stop(struct watcher *r); /* ends the thread; the functions below still work. NULL is fine */
void watch_free(struct watcher *r);

/* The object holds a reference for the watcher, until watch_release(). */
MUST_CHECK int watch_add(struct watcher *r, struct watch *w, struct err *err);
void watch_rearm(struct watcher *r, const struct watch *w);  /* control sockets: after a conversation */
void watch_forget(struct watcher *r, const struct watch *w); /* before its descriptor is closed */
void watch_release(struct watcher *r,
		   struct watch *process); /* of a clone or host: drops the watcher's reference, soon */
/* A clone's watches and the reference for them; what is ended already is told at once. */
MUST_CHECK int watch_adopt(struct watcher *r, struct clone *c, struct err *err);
/* A template host said how a process ended. */
void watch_exited(struct forkd *d, uint32_t pid, int32_t status);
/* Look at the clock again: a TTL has changed. */
void watch_wake(struct watcher *r);

#endif
