// SPDX-License-Identifier: Apache-2.0
/* Small programs of the host that are run and waited for. Any thread; the program is in the namespaces of that thread. */
#ifndef COMMON_PROGRAM_H
#define COMMON_PROGRAM_H

#include <stdbool.h>

#include "common/err.h"

enum { PROGRAM_PATH_BYTES = 64 };

/* Looks for the program where administrators' programs are. */
bool program_find(const char *name, char ret[PROGRAM_PATH_BYTES]);
/*
 * Runs it with no environment, until it ends or has put itself into the background. `args` begins with its name and ends
 * with NULL. stdin comes from `in` (-1: empty); what it says goes to `out`. An error: it failed, and `out` may say why.
 */
MUST_CHECK int program_run(const char *path, char *const *args, int in, int out, struct err *err);

#endif
