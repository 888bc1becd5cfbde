// SPDX-License-Identifier: Apache-2.0
/* Programs of this host that forkctl runs. One thread. */
#ifndef FORKCTL_CHILD_H
#define FORKCTL_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/json64.h"

enum { CHILD_OUTPUT_MAX = 1 << 20 };

/*
 * Starts a program of the PATH, with `fd` as its descriptor `as` (fd -1: all as they are), the signals as they were, and in the
 * directory `dir` (NULL: this one). -1: said why not.
 */
pid_t child_start(const char *const *argv, const char *dir, int fd, int as);
/* Whether it has ended well. */
bool child_finish(pid_t pid);
/* Runs it to its end. False: it could not be started, which was said, or has failed, which it says itself. */
MUST_CHECK bool child_run(const char *const *argv, const char *dir);
/* The same, and what it has printed: CHILD_OUTPUT_MAX bytes at most. */
MUST_CHECK bool child_read(const char *const *argv, struct strbuf *ret_output);
/* Whether the PATH has a program of that name. */
bool child_is_there(const char *name);

#endif
