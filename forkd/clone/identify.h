// SPDX-License-Identifier: Apache-2.0
/*
 * Makes clones themselves (docs/identity.md): the guest's agent gets a new identity after the clone
 * has resumed, and proves that it has applied the identity; then the clone's network is released.
 * Until then no frame leaves the clone, and no process of the guest but the agent runs. Any thread.
 */
#ifndef FORKD_CLONE_IDENTIFY_H
#define FORKD_CLONE_IDENTIFY_H

#include "forkd/agent/identity.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

/* One clone on its way to its identity. */
struct identify {
	struct clone *c;           /* borrowed; of identify_later(): a reference */
	struct identity_wish wish; /* borrowed; of identify_later(): owned */
	bool thaw;         /* the clone is itself already, and its processes are to go on: for identify_later() */
	bool pause;        /* the clone is to be paused, its processes frozen, once it is itself */
	struct dial *dial; /* to the agent: begun with agent_hello_to when the clone was launched; NULL: not */
	int fd;            /* to the agent; -1: none */
	char nonce[NONCE_HEX + 1];
};

/*
 * Makes all these clones themselves, at the same time. Errors name the clone and the step. After a
 * failure the clones must be ended: each may be anyone's twin.
 */
MUST_CHECK int identify_all(struct forkd *d, struct identify *list, unsigned n, struct err *err);
/*
 * The same in a job of its own, for clones that were handed out already: those that fail are ended,
 * with the reason. Takes the list (heap), its references and its wishes over, also on failure; then
 * the clones are ended, too.
 */
MUST_CHECK int identify_later(struct forkd *d, struct identify *list, unsigned n, struct err *err);

/* Ends a clone that cannot become itself; the error becomes the reason of its end. */
void identify_give_up(struct forkd *d, struct clone *c, const struct err *err);

/*
 * clone_freeze() stops the guest's processes, before a pause or a snapshot, and has its files
 * written. clone_thaw() sets the wall clock and lets the processes go on. Both do nothing for a clone
 * without an agent, and are kept in the clone's record. E_BAD_STATE: the clone is not itself yet. The
 * caller holds the clone's life, so that what a freeze is for happens before the next thaw.
 */
MUST_CHECK int clone_freeze(struct forkd *d, struct clone *c, struct err *err);
MUST_CHECK int clone_thaw(struct forkd *d, struct clone *c, struct err *err);
/* The same where nobody hears of a failure: it is logged. */
void clone_thaw_or_warn(struct forkd *d, struct clone *c);

#endif
