// SPDX-License-Identifier: Apache-2.0
/*
 * The life of a clone from its first run on: pause, resume, deletion and end. Any thread may call
 * any function here. A function that talks with the clone waits until the conversation before is
 * over.
 */
#ifndef FORKD_CLONE_LIFE_H
#define FORKD_CLONE_LIFE_H

#include "forkd/clone/talk.h"

/* pause false: resume. Waits until another pause, resume or snapshot of the clone is over. */
MUST_CHECK int clone_pause(struct forkd *d, struct clone *c, bool pause, struct err *err);
/*
 * Deletes a clone. Returns as soon as no vCPU of the clone can run, and the clone's names, taps and
 * locks are free; event clone.released follows.
 */
MUST_CHECK int clone_delete(struct forkd *d, struct clone *c, struct err *err);
/* Sends SIGKILL to the clone's process, if there is one, and does not wait. */
void clone_kill(const struct clone *c);
/*
 * Called by the watcher when the process of a clone is gone, by deletion or not. What is known of
 * the reason is in the clone.
 */
void clone_ended(struct forkd *d, struct clone *c);

#endif
