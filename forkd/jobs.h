// SPDX-License-Identifier: Apache-2.0
/*
 * Work that goes on after the request has been answered. Each job has a thread, the number of jobs has a bound, and
 * jobs_free() waits for all of them.
 */
#ifndef FORKD_JOBS_H
#define FORKD_JOBS_H

#include "common/err.h"

enum { JOBS_MAX = 64 };

struct jobs;
MUST_CHECK int jobs_new(struct jobs **ret, struct err *err);
/* Waits for all of them. NULL is fine. */
void jobs_free(struct jobs *j);
/* Runs `run(arg)` in a thread. E_BUSY: JOBS_MAX are at work. */
MUST_CHECK int jobs_run(struct jobs *j, void (*run)(void *arg), void *arg, struct err *err);

#endif
