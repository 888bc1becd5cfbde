// SPDX-License-Identifier: Apache-2.0
/*
 * A clone from its first run to its end: pause, resume, snapshot, statistics, delete, and its death. Every function may be called from any
 * thread; each waits for the conversation before it on the same clone.
 */
#ifndef FORKD_CLONE_LIFE_H
#define FORKD_CLONE_LIFE_H

#include "common/ctl.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"
#include "forkd/wire/control.h"

/* One exchange with the clone's process. E_BAD_STATE when it is creating, exited or deleting; E_CLONE_DIED. wait false: E_BUSY, not after another one. */
MUST_CHECK int clone_talk(struct forkd *d, struct clone *c, const struct control_call *call, bool wait,
			  struct err *err);
MUST_CHECK int clone_pause(struct forkd *d, struct clone *c, bool pause, struct err *err); /* false: resume */
/* As soon as no vCPU can run and its names, taps and locks are free; event clone.released follows. */
MUST_CHECK int clone_delete(struct forkd *d, struct clone *c, struct err *err);
/* An event of its process; the caller holds talk. */
void clone_event(struct forkd *d, struct clone *c, const struct ctl_packet *p);
void clone_kill(const struct clone *c);
/* Its process is gone, deleted or not; what is known of the reason is in it. By the watcher. */
void clone_ended(struct forkd *d, struct clone *c);

#endif
