// SPDX-License-Identifier: Apache-2.0
/*
 * Starts a program as a user: in a session and process group of its own, with pipes or a terminal. The loop's
 * thread.
 */
#ifndef GUEST_SPAWN_H
#define GUEST_SPAWN_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/env.h"
#include "guest/users.h"

struct spawn_spec {
	char **argv; /* argv[0] is looked for in the PATH of `env`; NULL at the end */
	const struct env *env;
	const char *cwd; /* absolute */
	const struct user *user;
	bool pty;
	uint16_t cols, rows; /* of the terminal */
	bool stdin_pipe;     /* false, and no terminal: /dev/null */
	int group_fd;        /* cgroup.procs of the control group that it goes to; -1: none */
};

struct spawned {
	pid_t pid;  /* of the process group, too */
	int in;     /* writes to its stdin or terminal; -1: there is none */
	int out;    /* reads its stdout or terminal */
	int err;    /* reads its stderr; -1: a terminal has none */
	int status; /* for spawn_status(), when it becomes readable */
};

/*
 * Lets the agent itself have as many descriptors as the system allows. What it starts has the limit that the agent was started with.
 */
void spawn_raise_files(void);
/* In a child that is to run a program in another way: the limit that the agent was started with. */
void spawn_restore_files(void);

/*
 * Forks. The descriptors are the caller's, non-blocking and close-on-exec. Whether the program could be
 * started is known later: spawn_status(). The child has to be reaped in any case. ERR_BUSY: there are too many
 * processes, descriptors or terminals.
 */
MUST_CHECK int spawn(const struct spawn_spec *spec, struct spawned *ret_spawned, struct err *err);
/*
 * 1: the program runs. 0: not known yet. Else it could not be started, and why: ERR_INVALID, with the cwd or
 * the command in the message. `spec` is needed for messages: argv[0] and cwd.
 */
MUST_CHECK int spawn_status(int status_fd, const char *command, const char *cwd, struct err *err);

#endif
