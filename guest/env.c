// SPDX-License-Identifier: Apache-2.0
/* Environment variables. */
#include "guest/env.h"

#include <errno.h>
#include <string.h>

bool env_name_valid(const char *name)
{
	return *name && !strchr(name, '=');
}

static char **find(const struct env *env, const char *name, size_t len)
{
	for (size_t i = 0; i < env->n; i++)
		if (strncmp(env->vars[i], name, len) == 0 && env->vars[i][len] == '=')
			return &env->vars[i];
	return NULL;
}

/* Takes `var` over. */
static int put(struct env *env, char *var)
{
	autofree char *own = var;
	char **there = var ? find(env, var, strcspn(var, "=")) : NULL;

	if (!var)
		return -ENOMEM;
	if (there) {
		free(*there);
		*there = steal_ptr(&own);
		return 0;
	}
	if (env->n + 1 >= env->cap) {
		const size_t cap = env->cap ? env->cap * 2 : 16;
		char **vars = realloc(env->vars, cap * sizeof(*vars));
		if (!vars)
			return -ENOMEM;
		env->vars = vars;
		env->cap = cap;
	}
	env->vars[env->n++] = steal_ptr(&own);
	env->vars[env->n] = NULL;
	return 0;
}

int env_set(struct env *env, const char *name, const char *value)
{
	char *var = NULL;

	return put(env, asprintf(&var, "%s=%s", name, value) < 0 ? NULL : var);
}

int env_set_all(struct env *env, const struct env *from)
{
	int r = 0;

	for (size_t i = 0; i < from->n && r == 0; i++)
		r = put(env, strdup(from->vars[i]));
	return r;
}

const char *env_get(const struct env *env, const char *name)
{
	char **there = find(env, name, strlen(name));

	return there ? *there + strlen(name) + 1 : NULL;
}

void env_done(struct env *env)
{
	for (size_t i = 0; i < env->n; i++)
		free(env->vars[i]);
	free(env->vars);
	*env = (struct env){};
}
