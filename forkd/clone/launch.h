// SPDX-License-Identifier: Apache-2.0
/*
 * One clone of a request on its way: launched up to where only its new process has work, then its number and its answer taken, in that
 * order. What it has when a step fails is in the job, for whoever undoes it.
 */
#ifndef FORKD_CLONE_LAUNCH_H
#define FORKD_CLONE_LAUNCH_H

#include "forkd/clone/clone.h"
#include "forkd/template/template_host.h"

/* One clone on its way. */
struct job {
	struct clone *c;
	const struct clone_spec *spec;
	const struct clone_plan *plan;
	bool dir, fork_sent;
};

/* All of a request. */
struct batch {
	struct forkd *d;
	struct tmpl *t;
	struct template_host *host;
	const struct origin *from;
	struct job *jobs;
	unsigned n, begun, forked; /* forked: replies of the host that have come */
	uint64_t accepted_ns;
};

/* Its directory and record, the request to the host, its descriptors, and the request to it. The caller holds the host's talk. */
MUST_CHECK int launch_clone(struct batch *b, struct job *j, struct err *err);
/* The host's reply for the next job of the batch, b->jobs[b->forked]; likewise. */
MUST_CHECK int launch_forked(struct batch *b, struct err *err);
/* The process's reply: it is restored, and runs if that was asked for. */
MUST_CHECK int launch_restored(const struct batch *b, struct job *j, uint64_t deadline_ns, struct err *err);

#endif
