// SPDX-License-Identifier: Apache-2.0
/*
 * Following clones from their first moment to their last: what their processes say unasked, how they end, and when their time is over.
 * The work is done in the watcher's thread.
 */
#ifndef FORKD_CLONE_FOLLOW_H
#define FORKD_CLONE_FOLLOW_H

#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

/* Begins with no clone; d->watcher runs. */
MUST_CHECK int follow_start(struct forkd *d, struct followed **ret, struct err *err);
/* Lets go of the clones that are left; the watcher's thread has ended. NULL is fine. */
void follow_free(struct followed *f);

/* Takes a reference until the clone's end. What is ended already is told at once. */
MUST_CHECK int follow_clone(struct forkd *d, struct clone *c, struct err *err);
/* A clone's TTL is new or another one. */
void follow_ttl(struct forkd *d);

#endif
