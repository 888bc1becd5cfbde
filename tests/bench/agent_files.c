// SPDX-License-Identifier: Apache-2.0
/*
 * How fast /files of the agent is, beside the plainest copy: a child that reads from a unix socket and writes to a file, or the other way
 * round, with the agent's own sizes of reads and writes. Up and down, both take turns. A JSON line for each direction: MB in a second
 * (medians), "ratio", the agent's speed against the copy's, and the agent's own memory in the end.
 *
 *     agent_files AGENT [MIB] [TURNS] [DIR]      the program build/forkd-agent; DIR: where the file is (/dev/shm)
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

enum { UP_PIECE = 64 << 10, DOWN_PIECE = 128 << 10, CLIENT_PIECE = 256 << 10, TURNS_MAX = 100 };

static uint64_t bytes = UINT64_C(1) << 30;
static const char *dir = "/dev/shm";
static char work[256], file[300];
static struct sockaddr_un addr = { .sun_family = AF_UNIX };
static char buf[CLIENT_PIECE];

/* ---- the client ---- */

static void send_bytes(int fd)
{
	for (uint64_t left = bytes; left > 0; left -= CLIENT_PIECE)
		write_all(fd, buf, CLIENT_PIECE);
}

static void receive(int fd, uint64_t n)
{
	while (n > 0) {
		const ssize_t part = read(fd, buf, sizeof(buf));
		need(part > 0, "read");
		n -= (uint64_t)part;
	}
}

/* ---- the plain copy ---- */

static void copy(int from, int to, size_t piece)
{
	ssize_t n;

	while ((n = read(from, buf, piece)) > 0)
		write_all(to, buf, (size_t)n);
	need(n == 0, "copy");
}

static double turn_copy(bool up)
{
	int p[2], status;
	const double start = now_s();

	need(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0, "socketpair");
	const pid_t pid = fork();
	if (pid == 0) {
		close(p[0]);
		const int fd = up ? open(dir, O_TMPFILE | O_WRONLY, 0600) : open(file, O_RDONLY);
		need(fd >= 0, "open");
		copy(up ? p[1] : fd, up ? fd : p[1], up ? UP_PIECE : DOWN_PIECE);
		_exit(0);
	}
	close(p[1]);
	if (up)
		send_bytes(p[0]);
	else
		receive(p[0], bytes);
	close(p[0]);
	need(waitpid(pid, &status, 0) == pid && status == 0, "the copy");
	return now_s() - start;
}

/* ---- the agent ---- */

static int connected(void)
{
	const int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	need(fd >= 0, "socket");
	for (int i = 0; connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0; i++) {
		need(i < 1000, "connect to the agent");
		usleep(10000);
	}
	return fd;
}

/* Reads the head of a 200. Returns how many bytes of the body came with it. */
static size_t read_head(int fd)
{
	size_t len = 0;

	for (;;) {
		const ssize_t n = read(fd, buf + len, sizeof(buf) - len);
		need(n > 0, "read an answer");
		len += (size_t)n;
		const char *end = memmem(buf, len, "\r\n\r\n", 4);
		if (!end)
			continue;
		need(strncmp(buf, "HTTP/1.1 200 ", 13) == 0, "an answer that is not 200");
		return len - (size_t)(end + 4 - buf);
	}
}

static double turn_agent(bool up)
{
	const double start = now_s();
	const int fd = connected();

	dprintf(fd,
		"%s /files?path=%s%s HTTP/1.1\r\nContent-Type: application/octet-stream\r\nContent-Length: %llu\r\n\r\n",
		up ? "POST" : "GET", file, up ? ".up" : "", up ? (unsigned long long)bytes : 0ull);
	if (up)
		send_bytes(fd);
	const size_t with_head = read_head(fd);
	if (!up)
		receive(fd, bytes - with_head);
	close(fd);
	return now_s() - start;
}

static pid_t start_agent(const char *program)
{
	char listen[160];

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%.90s/s", work);
	snprintf(listen, sizeof(listen), "unix:%s", addr.sun_path);
	const pid_t pid = fork();
	if (pid == 0) {
		execl(program, program, "--listen", listen, NULL);
		_exit(127);
	}
	close(connected());
	return pid;
}

static unsigned long own_kib(pid_t pid)
{
	char path[64], line[128];
	unsigned long kib = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

/* ---- turns ---- */

static double median(double *seconds, int n)
{
	qsort(seconds, (size_t)n, sizeof(*seconds), by_value);
	return (double)bytes / 1e6 / seconds[n / 2];
}

static void measure(bool up, int turns, pid_t agent)
{
	double agents[TURNS_MAX] = {}, copies[TURNS_MAX] = {};

	for (int i = 0; i < turns; i++) {
		agents[i] = turn_agent(up);
		copies[i] = turn_copy(up);
	}
	const double a = median(agents, turns), c = median(copies, turns);
	printf("{\"bench\": \"agent_files_%s\", \"mib\": %llu, \"agent_mb_s\": %.0f, \"copy_mb_s\": %.0f, \"ratio\": %.2f, "
	       "\"agent_kib\": %lu}\n",
	       up ? "up" : "down", (unsigned long long)(bytes >> 20), a, c, a / c, own_kib(agent));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	need(argc > 1, "usage: agent_files AGENT [MIB] [TURNS] [DIR]");
	if (argc > 2)
		bytes = strtoull(argv[2], NULL, 10) << 20;
	const int turns = argc > 3 ? atoi(argv[3]) : 5;
	dir = argc > 4 ? argv[4] : dir;
	need(bytes > 0 && turns > 0 && turns <= TURNS_MAX, "MIB and TURNS are positive");
	snprintf(work, sizeof(work), "%s/forkd-agent-bench-XXXXXX", dir);
	need(mkdtemp(work), "mkdtemp");
	snprintf(file, sizeof(file), "%s/file", work);
	const int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	need(fd >= 0, "create the file");
	send_bytes(fd);
	close(fd);
	const pid_t agent = start_agent(argv[1]);
	measure(true, turns, agent);
	measure(false, turns, agent);
	kill(agent, SIGTERM);
	waitpid(agent, NULL, 0);
	strcat(file, ".up");
	unlink(file);
	file[strlen(file) - 3] = '\0';
	unlink(file);
	unlink(addr.sun_path);
	return rmdir(work);
}
