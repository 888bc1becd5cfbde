// SPDX-License-Identifier: Apache-2.0
/* forkd: from the command line to the signal that ends it. */
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "common/log.h"
#include "common/version.h"
#include "forkd/daemon.h"
#include "forkd/options.h"
#include "forkd/rest/api.h"

enum { EXIT_USAGE = 2 };

/* The socket that systemd listens on for us; -1: none. */
static int inherited_socket(int *ret_fd, struct err *err)
{
	int n = sd_listen_fds(1);

	if (n < 0)
		return err_num(err, ERR_INVALID, -n, "read LISTEN_FDS");
	if (n > 1)
		return err_set(err, ERR_INVALID, "systemd hands %d sockets over; there must be one", n);
	*ret_fd = n == 1 ? SD_LISTEN_FDS_START : -1;
	return 0;
}

static int start_http(struct forkd *d, const struct forkd_options *opt, int socket_fd, struct err *err)
{
	const struct http_options ho = {
		.routes = forkd_routes,
		.n_routes = forkd_n_routes,
		.metrics = d->metrics,
		.socket_path = opt->socket,
		.socket_fd = socket_fd,
		.listen_addr = opt->listen,
		.token_file = opt->token_file,
		.tls_cert = opt->tls_cert,
		.tls_key = opt->tls_key,
		.socket_group = opt->socket_group,
		.insecure_plain_http = opt->insecure_plain_http,
	};

	return http_start(d, &ho, &d->http, err);
}

static void say_ready(const struct forkd *d)
{
	printf("forkd " FORKD_VERSION " is ready: %s\n", http_where(d->http));
	fflush(stdout);
	sd_notify(0, "READY=1");
	log_info("forkd " FORKD_VERSION " is ready: %s", http_where(d->http));
}

static void stop(struct forkd *d)
{
	http_stop(steal_ptr(&d->http));
	forkd_stop(d);
}

/* The whole life of the daemon. */
static int run_daemon(const struct forkd_options *opt, const sigset_t *ends, struct err *err)
{
	__attribute__((cleanup(stop))) struct forkd d = {};
	int socket_fd = -1, number = 0;

	if (inherited_socket(&socket_fd, err) < 0)
		return err->num;
	/* REST after the clones of an earlier daemon were taken back. */
	if (forkd_start(&d, opt, err) < 0 || start_http(&d, opt, socket_fd, err) < 0)
		return err->num;
	say_ready(&d);
	sigwait(ends, &number);
	log_info("stopping: %s", strsignal(number));
	sd_notify(0, "STOPPING=1");
	return 0;
}

/* Before the first thread, so that every thread blocks the signals that end the daemon. */
static void block_signals(sigset_t *ends)
{
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(ends);
	sigaddset(ends, SIGTERM);
	sigaddset(ends, SIGINT);
	sigaddset(ends, SIGHUP);
	sigprocmask(SIG_BLOCK, ends, NULL);
}

int main(int argc, char **argv)
{
	__attribute__((cleanup(options_done))) struct forkd_options opt = {};
	struct err err = {};
	char line[ERR_MSG_BYTES];
	sigset_t ends;

	umask(022); /* whoever makes a file or directory gives the right mode */
	if (options_parse(argc, argv, &opt, &err) < 0) {
		fprintf(stderr, "forkd: %s\nTry 'forkd --help'.\n", err_line(&err, line, sizeof(line)));
		return EXIT_USAGE;
	}
	if (opt.action == OPTIONS_HELP)
		options_help(stdout);
	if (opt.action == OPTIONS_VERSION)
		puts("forkd " FORKD_VERSION);
	if (opt.action != OPTIONS_RUN)
		return 0;
	log_init("forkd", opt.log_level, STDERR_FILENO);
	block_signals(&ends);
	if (run_daemon(&opt, &ends, &err) < 0) {
		fprintf(stderr, "forkd: %s\n", err_line(&err, line, sizeof(line)));
		return EXIT_FAILURE;
	}
	return 0;
}
