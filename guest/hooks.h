// SPDX-License-Identifier: Apache-2.0
/*
 * Directories of programs that a guest's owner has put there: each executable file is run, one after
 * the other, in the order of the names. The loop's thread.
 */
#ifndef GUEST_HOOKS_H
#define GUEST_HOOKS_H

#include "common/json64.h"
#include "guest/command.h"

enum { HOOKS_MAX = 64, HOOKS_DEADLINE_S = 30 }; /* in one directory; for all of it */

struct hooks {
	struct loop *loop;
	const char *path; /* of the directory; for messages */
	int dir_fd;       /* -1: there is no directory */
	char *names[HOOKS_MAX];
	unsigned n, at;
	struct command_spec spec;
	struct command command;
	/* All have ended well (err->code ERR_NONE), or one has failed and no other was run. */
	void (*done)(struct hooks *hooks, const struct err *err);
};

/*
 * Runs them. A directory that is missing has none. `done` is set by the caller. Returns 1: there is
 * nothing to run, and done() is not called; 0: they run.
 */
MUST_CHECK int hooks_start(struct hooks *hooks, struct loop *loop, int root_fd, const char *path,
			   const struct command_spec *spec, struct err *err);
/* Kills what runs; done() is not called any more. */
void hooks_stop(struct hooks *hooks);

#endif
