// SPDX-License-Identifier: Apache-2.0
/*
 * Work that waits, done by a short-lived child so that the loop does not: a function runs in a copy
 * of the agent, and its result comes back through a pipe. The loop's thread.
 */
#ifndef GUEST_JOB_H
#define GUEST_JOB_H

#include "common/err.h"
#include "guest/loop.h"

struct job {
	struct loop *loop;
	struct child child;
	struct timer deadline;
	int pipe_fd;
	bool running, timed_out;
	const char *name; /* for messages */
	/* `result` is what the function returned; negative: `err` says why. The job may be started again. */
	void (*done)(struct job *job, int result, const struct err *err);
};

/*
 * Runs the function in a child. What it changes in memory is the child's own. A child that is still
 * there at the deadline (CLOCK_MONOTONIC) is killed. `done` is set by the caller.
 */
MUST_CHECK int job_start(struct job *job, struct loop *loop, const char *name, int (*run)(void *arg, struct err *err),
			 void *arg, uint64_t deadline_ns, struct err *err);

#endif
