// SPDX-License-Identifier: Apache-2.0
/*
 * How fast a process' output comes through the agent, beside the plainest copy: a process that writes zeroes into its stdout; from the pipe
 * to a unix socket by reads of 64 KiB, as the agent reads; a client that reads and throws away. Both take turns. A JSON line: MB of the
 * process' bytes in a second (median), and "ratio", the agent's part of the copy's.
 *
 *     agent_stdout AGENT [MIB] [TURNS]      the program build/forkd-agent
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/bench.h"

enum { PIECE = 64 << 10, TURNS_MAX = 100 };

static uint64_t bytes = 256 << 20;
static char path[] = "/tmp/forkd-agent-bench-XXXXXX";
static struct sockaddr_un addr = { .sun_family = AF_UNIX };

/* The process whose output it is. */
static int produce(uint64_t n)
{
	static const char zeroes[PIECE];

	for (; n > 0; n -= PIECE)
		write_all(STDOUT_FILENO, zeroes, PIECE);
	return 0;
}

/* Reads until the end, or until `end` was seen. The number of bytes. */
static uint64_t consume(int fd, const char *end)
{
	static char buf[256 << 10];
	uint64_t all = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		all += (uint64_t)n;
		const size_t tail = n > 512 ? 512 : (size_t)n;
		if (end && memmem(buf + (size_t)n - tail, tail, end, strlen(end)))
			break;
	}
	return all;
}

static void copy(int from, int to)
{
	static char buf[PIECE];
	ssize_t n;

	while ((n = read(from, buf, sizeof(buf))) > 0)
		write_all(to, buf, (size_t)n);
}

/* Seconds for the plain copy. */
static double time_copy(void)
{
	int p[2], s[2];
	const double begin = now_s();

	need(pipe2(p, O_CLOEXEC) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) == 0, "pipe");
	if (fork() == 0) {
		setsid(); /* as the agent does; the kernel may share processor time among sessions */
		need(dup2(p[1], STDOUT_FILENO) >= 0, "dup2");
		_exit(produce(bytes));
	}
	close(p[1]);
	if (fork() == 0) {
		close(s[0]);
		copy(p[0], s[1]);
		_exit(0);
	}
	close(p[0]);
	close(s[1]);
	need(consume(s[0], NULL) == bytes, "read what was copied");
	const double took = now_s() - begin;
	close(s[0]);
	for (int i = 0; i < 2; i++)
		(void)wait(NULL);
	return took;
}

/* Seconds for the same through the agent. */
static double time_agent(const char *self)
{
	char request[1024], head[512];
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const double begin = now_s();

	need(connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)) == 0, "connect to the agent");
	const int n = snprintf(request + 5, sizeof(request) - 5,
			       "{\"process\":{\"cmd\":\"%s\",\"args\":[\"--produce\",\"%llu\"]}}", self,
			       (unsigned long long)bytes);
	for (int i = 0; i < 5; i++)
		request[i] = (char)(i < 3 ? 0 : n >> (32 - 8 * i));
	const int m = snprintf(
		head, sizeof(head),
		"POST /process.Process/Start HTTP/1.1\r\nContent-Type: application/connect+json\r\nContent-Length: %d\r\n\r\n",
		n + 5);
	write_all(fd, head, (size_t)m);
	write_all(fd, request, (size_t)n + 5);
	need(consume(fd, "\"exitCode\":0") > bytes / 3 * 4, "read the process' output");
	close(fd);
	return now_s() - begin;
}

static pid_t start_agent(const char *program)
{
	char listen[128];

	need(mkdtemp(path) != NULL, "mkdtemp");
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/s", path);
	snprintf(listen, sizeof(listen), "unix:%s", addr.sun_path);
	const pid_t pid = fork();
	if (pid == 0) {
		execl(program, program, "--listen", listen, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < 1000 && access(addr.sun_path, F_OK) < 0; i++)
		usleep(5000);
	usleep(50000);
	return pid;
}

int main(int argc, char **argv)
{
	static double copies[TURNS_MAX], agents[TURNS_MAX];
	char self[256] = "";

	if (argc == 3 && strcmp(argv[1], "--produce") == 0)
		return produce(strtoull(argv[2], NULL, 10));
	if (argc < 2) {
		fputs("agent_stdout AGENT [MIB] [TURNS]\n", stderr);
		return 2;
	}
	if (argc > 2)
		bytes = strtoull(argv[2], NULL, 10) << 20;
	const long turns = argc > 3 && atol(argv[3]) > 0 && atol(argv[3]) <= TURNS_MAX ? atol(argv[3]) : 7;
	need(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0, "readlink");
	const pid_t agent = start_agent(argv[1]);
	for (long i = -1; i < turns; i++) { /* the first turn warms up */
		const double a = time_copy(), b = time_agent(self);
		if (i >= 0) {
			copies[i] = a;
			agents[i] = b;
		}
	}
	kill(agent, SIGTERM);
	waitpid(agent, NULL, 0);
	unlink(addr.sun_path);
	rmdir(path);
	qsort(copies, (size_t)turns, sizeof(*copies), by_value);
	qsort(agents, (size_t)turns, sizeof(*agents), by_value);
	const double mb = (double)bytes / 1e6, c = mb / copies[turns / 2], a = mb / agents[turns / 2];
	printf("{\"bench\": \"agent_stdout\", \"mib\": %llu, \"turns\": %ld, \"copy_mb_s\": %.0f, \"agent_mb_s\": %.0f, \"ratio\": %.2f}\n",
	       (unsigned long long)(bytes >> 20), turns, c, a, a / c);
	return 0;
}
