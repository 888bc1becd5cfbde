// SPDX-License-Identifier: Apache-2.0
/*
 * Follows clones from their first moment to their last: what their processes say unasked, how the
 * processes end, and when a clone's time is over. The watcher's thread does the work.
 */
#ifndef FORKD_CLONE_FOLLOW_H
#define FORKD_CLONE_FOLLOW_H

#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

/* Begins with no clone. d->watcher must run. */
MUST_CHECK int follow_start(struct forkd *d, struct followed **ret, struct err *err);
/* Lets go of the clones that are left. The watcher's thread must have ended. NULL is fine. */
void follow_free(struct followed *f);

/*
 * Follows a clone, with a reference of its own until the clone's end. A process that has ended
 * already is noticed at once.
 */
MUST_CHECK int follow_clone(struct forkd *d, struct clone *c, struct err *err);
/* To be called when a clone's TTL has been set or changed. */
void follow_ttl(struct forkd *d);

#endif
