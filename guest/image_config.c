// SPDX-License-Identifier: Apache-2.0
/* Members are named as in the image's configuration. */
#include "guest/image_config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/field.h"
#include "common/log.h"
#include "guest/put_file.h"

enum { CONFIG_BYTES = 4 << 20 };

struct image_config {
	char *User, *WorkingDir;
	char **Env;
	uint32_t n_Env;
};

static const struct field fields[] = {
	F(struct image_config, User),
	F(struct image_config, WorkingDir),
	F_LIST(struct image_config, Env),
	F_END,
};

static void done(struct image_config *c)
{
	fields_free(fields, c);
}

static int set_env(struct env *env, const char *var, struct err *err)
{
	const char *value = strchr(var, '=');
	autofree char *name = value ? strndup(var, (size_t)(value - var)) : NULL;

	if (!value || value == var)
		return err_set(err, ERR_INVALID, "Env: '%.64s' is not NAME=value", var);
	return !name || env_set(env, name, value + 1) < 0 ? err_num(err, ERR_INTERNAL, ENOMEM, "Env") : 0;
}

/* A directory that cannot be made is one that commands will say is not there. */
static char *use_directory(const char *path)
{
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (!path || *path != '/')
		return NULL;
	autoclose int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (make_dirs(root, path, 0755, &err) < 0)
		log_warn("the image's working directory: %s", err_line(&err, line, sizeof(line)));
	return strdup(path);
}

static int apply(struct agent *agent, const struct image_config *c, struct err *err)
{
	autoenv struct env env = {};

	for (uint32_t i = 0; i < c->n_Env; i++)
		if (set_env(&env, c->Env[i], err) < 0)
			return err->num;
	autofree char *user = c->User && *c->User ? strdup(c->User) : NULL;
	if (env_set_all(&agent->env, &env) < 0 || (c->User && *c->User && !user))
		return err_num(err, ERR_INTERNAL, ENOMEM, "Env");
	if (user) {
		free(agent->default_user);
		agent->default_user = steal_ptr(&user);
	}
	free(agent->default_cwd);
	agent->default_cwd = use_directory(c->WorkingDir);
	return 0;
}

int image_config_load(struct agent *agent, const char *path, struct err *err)
{
	struct image_config config __attribute__((cleanup(done))) = {};
	autojson struct json json = {};
	autofree char *text = malloc(CONFIG_BYTES);

	ssize_t n = text ? get_text(AT_FDCWD, path, text, CONFIG_BYTES) : -ENOMEM;
	if (n < 0)
		return err_num(err, ERR_INVALID, (int)-n, "read '%s'", path);
	if (json_parse(&json, text, (size_t)n, err) < 0 || fields_load(fields, &config, json.nodes, "image", err) < 0 ||
	    apply(agent, &config, err) < 0)
		return err_wrap(err, "'%s'", path);
	return 0;
}
