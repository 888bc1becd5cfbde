// SPDX-License-Identifier: Apache-2.0
/* Reads the command line. */
#include "guest/options.h"

#include <getopt.h>
#include <string.h>

enum {
	OPT_LISTEN = 256,
	OPT_LISTEN_PRIVATE,
	OPT_DEFAULT_USER,
	OPT_IMAGE_CONFIG,
	OPT_INIT,
	OPT_STAY,
	OPT_HELP,
	OPT_VERSION
};

static const struct option longs[] = {
	{ "listen", required_argument, NULL, OPT_LISTEN },
	{ "listen-private", required_argument, NULL, OPT_LISTEN_PRIVATE },
	{ "default-user", required_argument, NULL, OPT_DEFAULT_USER },
	{ "image-config", required_argument, NULL, OPT_IMAGE_CONFIG },
	{ "init", no_argument, NULL, OPT_INIT },
	{ "stay", no_argument, NULL, OPT_STAY },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{},
};

void options_help(void)
{
	puts("forkd-agent: runs commands and moves files in a guest, for forkd\n"
	     "  --listen unix:PATH          the API on a unix socket, instead of vsock port 983\n"
	     "  --listen-private unix:PATH  the daemon's own port on a unix socket, instead of vsock port 984\n"
	     "                              (with --listen and without this option: no such port)\n"
	     "  --default-user NAME         who a request is for that names no user; root\n"
	     "  --image-config FILE         JSON with Env, User and WorkingDir: what processes have unless a request says otherwise\n"
	     "  --init [--stay] [--] [COMMAND [ARGUMENT…]]\n"
	     "                              be the first process of the system: mount, reap, run the command, power off when it\n"
	     "                              has ended (--stay: stay up)\n"
	     "  --help, --version");
}

static int unix_path(const char *option, const char *text, const char **ret_path, struct err *err)
{
	if (strncmp(text, "unix:", 5) != 0 || text[5] == '\0')
		return err_set(err, ERR_INVALID, "%s %s: must be unix:PATH", option, text);
	*ret_path = text + 5;
	return 0;
}

int options_parse(int argc, char **argv, struct options *ret_options, struct err *err)
{
	struct options o = {};
	int r = 0;

	opterr = 0;
	optind = 0;
	for (int c; r == 0 && (c = getopt_long(argc, argv, "+", longs, NULL)) != -1;) {
		if (c == OPT_LISTEN)
			r = unix_path("--listen", optarg, &o.listen, err);
		else if (c == OPT_LISTEN_PRIVATE)
			r = unix_path("--listen-private", optarg, &o.listen_private, err);
		else if (c == OPT_DEFAULT_USER && !*optarg)
			r = err_set(err, ERR_INVALID, "--default-user: the name is empty");
		else if (c == OPT_DEFAULT_USER)
			o.default_user = optarg;
		else if (c == OPT_IMAGE_CONFIG)
			o.image_config = optarg;
		else if (c == OPT_INIT)
			o.init = true;
		else if (c == OPT_STAY)
			o.stay = true;
		else if (c == OPT_HELP)
			o.help = true;
		else if (c == OPT_VERSION)
			o.version = true;
		else
			r = err_set(err, ERR_INVALID, "'%s' is not an option of forkd-agent, or lacks its value",
				    argv[optind > 0 ? optind - 1 : 0]);
	}
	if (r == 0 && o.stay && !o.init)
		r = err_set(err, ERR_INVALID, "--stay is for --init");
	if (r == 0 && o.init && optind < argc)
		o.command = argv + optind;
	else if (r == 0 && optind < argc)
		r = err_set(err, ERR_INVALID, "'%s' is not an option of forkd-agent", argv[optind]);
	if (r == 0)
		*ret_options = o;
	return r;
}
