// SPDX-License-Identifier: Apache-2.0
/*
 * A clone from its first run to its end: pause, resume, delete, and its death. Every function may be called from any thread; each
 * waits for the conversation before it on the same clone.
 */
#ifndef FORKD_CLONE_LIFE_H
#define FORKD_CLONE_LIFE_H

#include "forkd/clone/talk.h"

MUST_CHECK int clone_pause(struct forkd *d, struct clone *c, bool pause, struct err *err); /* false: resume */
/* As soon as no vCPU can run and its names, taps and locks are free; event clone.released follows. */
MUST_CHECK int clone_delete(struct forkd *d, struct clone *c, struct err *err);
void clone_kill(const struct clone *c);
/* Its process is gone, deleted or not; what is known of the reason is in it. By the watcher. */
void clone_ended(struct forkd *d, struct clone *c);

#endif
