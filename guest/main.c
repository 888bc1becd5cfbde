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
#include "guest/limits.h"
#include "guest/options.h"
#include "guest/process/process.h"
#include "guest/process/spawn.h"
#include "guest/routes.h"
#include "guest/server.h"

enum { PORT_API = 983 };

static int listen_api(struct server *s, const char *path, struct err *err)
{
	return path ? server_listen_unix(s, path, err) : server_listen_vsock(s, PORT_API, err);
}

static int serve(const struct options *options, struct err *err)
{
	static struct agent agent;
	static struct server api;

	if (loop_init(&agent.loop, err) < 0)
		return err->num;
	agent.default_user = strdup("root");
	agent.held.max = LIMIT_HELD;
	if (!agent.default_user)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start");
	spawn_raise_files();
	server_init(&api, &agent, api_routes);
	int r = listen_api(&api, options->listen, err);
	if (r == 0) {
		log_info("forkd-agent %s is ready", FORKD_VERSION);
		r = loop_run(&agent.loop);
	}
	processes_done(&agent);
	server_done(&api);
	loop_done(&agent.loop);
	env_done(&agent.env);
	free(agent.default_user);
	return r;
}

int main(int argc, char **argv)
{
	struct options options;
	struct err err = {};
	char line[ERR_MSG_BYTES];

	log_init("forkd-agent", LOG_INFO, STDERR_FILENO);
	if (options_parse(argc, argv, &options, &err) < 0) {
		fprintf(stderr, "forkd-agent: %s\n", err_line(&err, line, sizeof(line)));
		return 2;
	}
	if (options.help)
		options_help();
	else if (options.version)
		printf("forkd-agent %s\n", FORKD_VERSION);
	else if (serve(&options, &err) < 0)
		fprintf(stderr, "forkd-agent: %s\n", err_line(&err, line, sizeof(line)));
	return err.code == ERR_NONE ? 0 : 1;
}
