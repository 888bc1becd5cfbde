// SPDX-License-Identifier: Apache-2.0
/*
 * A program that the agent itself runs, as root, with a deadline: hooks and ssh-keygen. What it
 * writes to stderr is kept, up to a bound. The loop's thread.
 */
#ifndef GUEST_COMMAND_H
#define GUEST_COMMAND_H

#include "common/err.h"
#include "guest/groups.h"
#include "guest/loop.h"

enum { COMMAND_STDERR = 2048 }; /* bytes that are kept, the first ones */

struct command_spec {
	int dir_fd;              /* becomes the working directory */
	const char *const *argv; /* argv[0] is the program; without a slash: in /usr/sbin, /usr/bin, /sbin, /bin */
	const char *const *env;  /* the whole environment */
	const struct groups *user_group; /* enter the group of started processes; NULL: stay in the agent's */
	uint64_t deadline_ns;            /* CLOCK_MONOTONIC; then its process group is killed */
};

struct command {
	struct loop *loop;
	struct child child;
	struct watch output; /* fd owned; -1: closed */
	struct timer deadline;
	bool running, timed_out;
	int status; /* as waitpid() has it */
	char text[COMMAND_STDERR];
	size_t len;
	/* It has ended. The command may be started again from here. */
	void (*ended)(struct command *command);
};

/* Starts it. `ended` is set by the caller; the command stays where it is until it was called. */
MUST_CHECK int command_start(struct command *command, struct loop *loop, const struct command_spec *spec,
			     struct err *err);
/* 0: it has exited with 0. Otherwise the error says how it has ended, and what it wrote. */
MUST_CHECK int command_result(const struct command *command, const char *name, struct err *err);
/* Kills it; `ended` is not called any more. A command that does not run is no error. */
void command_kill(struct command *command);

#endif
