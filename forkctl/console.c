// SPDX-License-Identifier: Apache-2.0
/*
 * forkctl logs and console: the serial port of a clone, from its log file and through its socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/sock.h"
#include "forkctl/forkctl.h"
#include "forkctl/table.h"
#include "forkctl/terminal.h"

enum { LEAVE_KEY = 0x1d, QUIET_MS = 500, FOLLOW_MS = 200 };

const struct option_row console_logs_options[] = {
	{ "follow", NULL, "go on with what comes, until the clone is gone", 'f', false },
	{ "console", NULL, "the virtio console instead of the serial port", 0, false },
	{ NULL, NULL, NULL, 0, false },
};

const struct option_row console_attach_options[] = {
	{ "console", NULL, "the virtio console instead of the serial port", 0, false },
	{ NULL, NULL, NULL, 0, false },
};

/* The path in a member of the clone. */
static int find_path(struct cli *cli, const char *key, char **ret)
{
	autoanswer struct answer a = {};
	autostrbuf struct strbuf path = {};

	path_add(&path, "/v1/clones/", cli->args->words[0]);
	int status = client_call_json(cli->client, "GET", path.text, NULL, &a);
	if (status != EXIT_FINE)
		return status;
	const char *found = member_text(a.json.nodes, key, NULL);
	if (!found) {
		fprintf(stderr, "forkctl: clone %s has no %s\n", cli->args->words[0], key);
		return EXIT_FAILED;
	}
	*ret = strdup(found);
	return *ret ? EXIT_FINE : EXIT_FAILED;
}

/* ---- logs ---- */

/*
 * What the file has from *at on. A file that got shorter has reached its bound and was cut: reading begins at the start
 * again.
 */
static bool copy_rest(int fd, off_t *at)
{
	char piece[65536];
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) == 0 && st.st_size < *at)
		*at = 0;
	while ((n = pread(fd, piece, sizeof(piece), *at)) > 0) {
		if (!write_all(STDOUT_FILENO, piece, (size_t)n))
			return false;
		*at += n;
	}
	return n == 0;
}

int console_logs(struct cli *cli)
{
	bool follow = args_option(cli->args, "follow");
	autofree char *path = NULL;
	struct stat st = {};
	off_t at = 0;
	int status = find_path(cli, args_option(cli->args, "console") ? "console" : "serial", &path);

	if (status != EXIT_FINE)
		return status;
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		fprintf(stderr, "forkctl: cannot open the log '%s': %s\n", path, strerror(errno));
		return EXIT_FAILED;
	}
	while (copy_rest(fd, &at)) {
		if (!follow || fstat(fd, &st) < 0 || st.st_nlink == 0)
			return EXIT_FINE;
		poll(NULL, 0, FOLLOW_MS);
	}
	fprintf(stderr, "forkctl: cannot copy the log '%s': %s\n", path, strerror(errno));
	return EXIT_FAILED;
}

/* ---- console ---- */

/* Bytes from the keyboard; false: leave. */
static bool from_keyboard(int to, bool raw, bool *ret_eof)
{
	char bytes[1024];
	ssize_t n = read(STDIN_FILENO, bytes, sizeof(bytes));
	const char *leave = raw && n > 0 ? memchr(bytes, LEAVE_KEY, (size_t)n) : NULL;

	if (n <= 0)
		*ret_eof = true;
	if (n > 0 && !write_all(to, bytes, leave ? (size_t)(leave - bytes) : (size_t)n))
		return false;
	return !leave;
}

static bool from_guest(int from)
{
	char bytes[65536];
	ssize_t n = read(from, bytes, sizeof(bytes));

	return n > 0 && write_all(STDOUT_FILENO, bytes, (size_t)n);
}

/* Copies until either side ends. Input that is no terminal may end earlier: then until the guest is quiet. */
static void pump(int socket_fd, int signal_fd, bool raw)
{
	struct pollfd p[] = { { .fd = STDIN_FILENO, .events = POLLIN },
			      { .fd = socket_fd, .events = POLLIN },
			      { .fd = signal_fd, .events = POLLIN } };
	bool eof = false;

	for (;;) {
		int n = poll(p, ARRAY_LEN(p), eof ? QUIET_MS : -1);
		if (n == 0 || (n < 0 && errno != EINTR) ||
		    (n > 0 && p[2].revents && signals_next(signal_fd) != SIGWINCH))
			return;
		if (n > 0 && p[1].revents && !from_guest(socket_fd))
			return;
		if (n > 0 && p[0].revents && !from_keyboard(socket_fd, raw, &eof))
			return;
		if (eof)
			p[0].fd = -1;
	}
}

int console_attach(struct cli *cli)
{
	const char *key = args_option(cli->args, "console") ? "console_socket" : "serial_socket";
	autofree char *path = NULL;
	struct err err = {};
	char line[ERR_MSG_BYTES];
	int status = find_path(cli, key, &path);

	if (status != EXIT_FINE)
		return status;
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock_connect(fd, path, &err) < 0) {
		fprintf(stderr, "forkctl: %s\n", err_line(&err, line, sizeof(line)));
		return EXIT_FAILED;
	}
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "clone %s: Ctrl-] leaves\n", cli->args->words[0]);
	autoterminal struct terminal terminal = {};
	autoclose int signal_fd = signals_open();
	terminal_raw(&terminal);
	pump(fd, signal_fd, terminal.raw);
	if (terminal.raw)
		fprintf(stderr, "\r\n");
	return EXIT_FINE;
}
