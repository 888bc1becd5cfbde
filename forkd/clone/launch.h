// SPDX-License-Identifier: Apache-2.0
/*
 * The three steps that make one clone of a request: launch_clone() does all until only the new
 * process has work; launch_forked() takes the process's pid; launch_restored() takes the process's
 * reply. When a step fails, the job says what the clone has, for whoever undoes it.
 */
#ifndef FORKD_CLONE_LAUNCH_H
#define FORKD_CLONE_LAUNCH_H

#include "forkd/agent/dial.h"
#include "forkd/clone/clone.h"
#include "forkd/template/template_host.h"

/* One clone on its way. The pointers are borrowed, except a reference to `c`. */
struct job {
	struct clone *c;
	const struct clone_spec *spec;
	const struct clone_plan *plan;
	bool dir, fork_sent;
	bool reach;       /* the clone's agent is to be reached at once */
	struct dial dial; /* with `reach`: begun by launch_clone(), for clone_dial_begun() */
};

/* All clones of a request. */
struct batch {
	struct forkd *d;
	struct tmpl *t;
	struct template_host *host;
	const struct origin *from;
	struct job *jobs;
	unsigned n, begun, forked; /* forked: replies of the host that have come */
	uint64_t accepted_ns;
};

/*
 * Makes the clone's directory and record, sends the request for a process to the host, makes the
 * clone's descriptors, and sends them to the process. With j->reach the request to dial the agent, and in it
 * "hello", stand behind them: the guest has them as soon as it runs. The caller holds the host's talk.
 */
MUST_CHECK int launch_clone(struct batch *b, struct job *j, struct err *err);
/*
 * Takes the host's reply for the next job of the batch, b->jobs[b->forked]. The caller holds the
 * host's talk.
 */
MUST_CHECK int launch_forked(struct batch *b, struct err *err);
/* Takes the process's reply: the clone is restored, and runs if the request wants a running clone. */
MUST_CHECK int launch_restored(const struct batch *b, struct job *j, uint64_t deadline_ns, struct err *err);

#endif
