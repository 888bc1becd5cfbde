// SPDX-License-Identifier: Apache-2.0
/*
 * Times programs from just before they are started to the first byte that they print.
 *
 *   first_byte WARM RUNS <PLAN        PLAN: a line per program, fields separated by tabs:
 *       name  api-socket  request-file  program  argument…
 * With an api-socket other than "-" the bytes of request-file are sent to that socket as soon as it exists; a status
 * other than 2xx ends everything, as does a program that prints nothing for 30 s: a failure cannot look like speed.
 * The programs take turns. Prints "name<tab>ns" per run, the warm ones apart.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PLANS_MAX = 64, ARGS_MAX = 64, LINE_MAX_BYTES = 16384, PATIENCE_MS = 30000, RETRY_US = 20 };

struct plan {
	char line[LINE_MAX_BYTES];
	const char *name, *socket;
	char *argv[ARGS_MAX];
	char request[4096];
	size_t request_len;
};

extern char **environ;
static struct plan plans[PLANS_MAX];

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void read_request(struct plan *p, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, p->request, sizeof(p->request));

	if (n < 0 || n == (ssize_t)sizeof(p->request))
		err(1, "read request '%s'", path);
	p->request_len = (size_t)n;
	close(fd);
}

static void parse(struct plan *p)
{
	const char *fields[3] = {};
	unsigned n = 0, n_args = 0;
	char *save = NULL;

	p->line[strcspn(p->line, "\n")] = 0;
	for (char *word = strtok_r(p->line, "\t", &save); word; word = strtok_r(NULL, "\t", &save)) {
		if (n < 3)
			fields[n++] = word;
		else if (n_args < ARGS_MAX - 1)
			p->argv[n_args++] = word;
	}
	if (n_args == 0)
		errx(2, "a plan needs a name, a socket, a request and a program");
	p->name = fields[0];
	p->socket = strcmp(fields[1], "-") == 0 ? NULL : fields[1];
	if (p->socket)
		read_request(p, fields[2]);
}

/* Connects as soon as the program listens; < 0: it ended first. */
static int connect_to(const char *path, pid_t pid)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(1, "socket");
	strncpy(at.sun_path, path, sizeof(at.sun_path) - 1);
	while (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0) {
		if (kill(pid, 0) < 0 || waitpid(pid, NULL, WNOHANG) == pid) {
			close(fd);
			return -1;
		}
		usleep(RETRY_US);
	}
	return fd;
}

static void ask(const struct plan *p, pid_t pid)
{
	char answer[512] = { 0 };
	int fd = connect_to(p->socket, pid);

	if (fd < 0)
		errx(1, "%s ended before it listened", p->name);
	if (write(fd, p->request, p->request_len) != (ssize_t)p->request_len)
		err(1, "%s: send the request", p->name);
	if (read(fd, answer, sizeof(answer) - 1) < 12 || answer[9] != '2')
		errx(1, "%s: the request failed: %s", p->name, answer);
	close(fd);
}

static void wait_byte(const struct plan *p, int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	char byte;

	if (poll(&poll_fd, 1, PATIENCE_MS) <= 0)
		errx(1, "%s printed nothing in %d s", p->name, PATIENCE_MS / 1000);
	if (read(fd, &byte, 1) != 1)
		errx(1, "%s ended without a byte", p->name);
}

static uint64_t run(const struct plan *p)
{
	posix_spawn_file_actions_t actions;
	int pipe_fd[2];
	pid_t pid;

	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		err(1, "pipe");
	if (p->socket)
		unlink(p->socket);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, pipe_fd[1], STDOUT_FILENO);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	uint64_t start = now_ns();
	int r = posix_spawn(&pid, p->argv[0], &actions, NULL, p->argv, environ);
	if (r != 0)
		errx(1, "start '%s': %s", p->argv[0], strerror(r));
	close(pipe_fd[1]);
	if (p->socket)
		ask(p, pid);
	wait_byte(p, pipe_fd[0]);
	uint64_t took = now_ns() - start;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(pipe_fd[0]);
	posix_spawn_file_actions_destroy(&actions);
	return took;
}

static long number(const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (*end || n < 0 || n > 1000000)
		errx(2, "'%s' is not a number of runs", text);
	return n;
}

int main(int argc, char **argv)
{
	unsigned n_plans = 0;

	if (argc != 3)
		errx(2, "usage: first_byte WARM RUNS <PLAN");
	long warm = number(argv[1]), runs = number(argv[2]);
	while (n_plans < PLANS_MAX && fgets(plans[n_plans].line, LINE_MAX_BYTES, stdin))
		parse(&plans[n_plans++]);
	for (long i = -warm; i < runs; i++) {
		for (unsigned k = 0; k < n_plans; k++) {
			uint64_t ns = run(&plans[k]);
			if (i >= 0)
				printf("%s\t%llu\n", plans[k].name, (unsigned long long)ns);
		}
	}
	return 0;
}
