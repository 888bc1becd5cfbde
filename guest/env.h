// SPDX-License-Identifier: Apache-2.0
/* A set of environment variables, in the shape that execve(2) wants. Each name is there once. The loop's thread. */
#ifndef GUEST_ENV_H
#define GUEST_ENV_H

#include <stdbool.h>
#include <stddef.h>

#include "common/auto.h"

struct env {
	char **vars; /* "NAME=value", NULL at the end; NULL: empty */
	size_t n, cap;
};

/* Can it be the name of a variable: not empty, and without '='? */
bool env_name_valid(const char *name);
/* Sets or replaces a variable. 0, or -ENOMEM. */
MUST_CHECK int env_set(struct env *env, const char *name, const char *value);
/* Sets all variables of `from`. 0, or -ENOMEM. */
MUST_CHECK int env_set_all(struct env *env, const struct env *from);
/* The value, or NULL. */
const char *env_get(const struct env *env, const char *name);
/* May be zeroed; is empty afterwards. */
void env_done(struct env *env);
#define autoenv __attribute__((cleanup(env_done)))

#endif
