// SPDX-License-Identifier: Apache-2.0
/*
 * forkd-agent: runs in a guest. It serves commands, files and watches on vsock port 983, for the host alone.
 * guest/http.h says how a service is written.
 */
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/version.h"
#include "guest/agent.h"
#include "guest/boot.h"
#include "guest/image_config.h"
#include "guest/init.h"
#include "guest/limits.h"
#include "guest/options.h"
#include "guest/private.h"
#include "guest/process/process.h"
#include "guest/process/spawn.h"
#include "guest/routes.h"
#include "guest/server.h"

enum { PORT_API = 983, PORT_PRIVATE = 984 };

static int listen_at(struct server *s, const char *path, unsigned port, struct err *err)
{
	return path ? server_listen_unix(s, path, err) : server_listen_vsock(s, port, err);
}

/* The daemon's own port. An agent that is tried out with --listen alone has none. */
static int open_private(struct server *s, struct agent *agent, struct private *private, const struct options *o,
			struct err *err)
{
	if (o->listen && !o->listen_private)
		return 0;
	if (private_open(private, o->init, err) < 0)
		return err->num;
	agent->private = private;
	return listen_at(s, o->listen_private, PORT_PRIVATE, err);
}

static int open_all(struct server *api, struct server *daemon, struct agent *agent, struct private *private,
		    const struct options *o, struct err *err)
{
	static struct init init;

	server_init(api, agent, api_routes);
	server_init(daemon, agent, private_routes);
	if (open_private(daemon, agent, private, o, err) < 0 || listen_at(api, o->listen, PORT_API, err) < 0)
		return err->num;
	return o->init ? init_start(&init, agent, &private->groups, o->command, o->stay, err) : 0;
}

static int serve(const struct options *options, struct err *err)
{
	static struct agent agent;
	static struct server api, daemon;
	static struct private private = PRIVATE_NONE;

	if (options->init)
		init_system();
	if (loop_init(&agent.loop, err) < 0)
		return err->num;
	agent.default_user = strdup(options->default_user ? options->default_user : "root");
	agent.held.max = LIMIT_HELD;
	if (!agent.default_user)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start");
	spawn_raise_files();
	if (options->image_config && image_config_load(&agent, options->image_config, err) < 0)
		return err->num;
	int r = open_all(&api, &daemon, &agent, &private, options, err);
	if (r == 0) {
		log_info("forkd-agent %s is ready", FORKD_VERSION);
		r = loop_run(&agent.loop);
	}
	processes_done(&agent);
	server_done(&api);
	server_done(&daemon);
	private_close(&private);
	loop_done(&agent.loop);
	env_done(&agent.env);
	free(agent.default_user);
	free(agent.default_cwd);
	return r;
}

int main(int argc, char **argv)
{
	struct options options;
	struct err err = {};
	char line[ERR_MSG_BYTES];

	log_init("forkd-agent", LOG_INFO, STDERR_FILENO);
	if (boot_is_wanted(argv[0]) && boot_run(&err) < 0) {
		log_error("the system cannot start: %s", err_line(&err, line, sizeof(line)));
		return 1;
	}
	if (options_parse(argc, argv, &options, &err) < 0) {
		fprintf(stderr, "forkd-agent: %s\n", err_line(&err, line, sizeof(line)));
		return 2;
	}
	if (options.help)
		options_help();
	else if (options.version)
		printf("forkd-agent %s\n", FORKD_VERSION);
	else if (options.init && getpid() != 1)
		fprintf(stderr, "forkd-agent: --init is for the first process of a system\n"), err.code = ERR_INVALID;
	else if (serve(&options, &err) < 0)
		fprintf(stderr, "forkd-agent: %s\n", err_line(&err, line, sizeof(line)));
	return err.code == ERR_NONE ? 0 : 1;
}
