// SPDX-License-Identifier: Apache-2.0
/*
 * What all services of the agent share. One per process, made by guest/main.c, and there until the process
 * ends. The loop's thread.
 */
#ifndef GUEST_AGENT_H
#define GUEST_AGENT_H

#include "common/budget.h"
#include "guest/env.h"
#include "guest/loop.h"

struct private;

struct agent {
	struct loop loop;
	char *default_user; /* who a request without a user is for; on the heap */
	char *default_cwd;  /* where a process starts that says no directory; NULL: the user's home; on the heap */
	struct env env;     /* what every later process has in its environment */
	struct budget held; /* by bodies and messages that are not dealt with yet: LIMIT_HELD */
	struct process *processes; /* guest/process/process.h */
	unsigned n_processes;
	size_t process_bytes;    /* of their configurations */
	struct private *private; /* of the daemon's own port; NULL: the agent has none */
};

#endif
