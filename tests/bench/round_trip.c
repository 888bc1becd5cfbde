// SPDX-License-Identifier: Apache-2.0
/*
 * Round trips of HTTP over unix sockets, in turns.
 *
 *   round_trip WARM RUNS <PLANS
 *
 * A plan is a line of words with tabs in between: name, socket, a greeting, and files with requests, which are sent one
 * after the other, each when the answer to the one before is whole. The greeting "-": none, and the connection is
 * kept for all runs; else each run connects anew, sends the greeting as a line, and takes one line as the answer. The
 * socket "echo": a child process that sends back what it gets. Prints the name and ns, a line per run.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/bench/bench.h"

enum { PLANS_MAX = 16, REQUESTS_MAX = 4, BYTES = 64 * 1024 };

struct request {
	char *text;
	size_t len;
};

struct plan {
	char *name, *path, *greeting;
	struct request request[REQUESTS_MAX];
	unsigned n;
	int fd; /* -1: none is kept */
};

static struct request load(const char *path)
{
	struct request r = { .text = malloc(BYTES) };
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	need(fd >= 0 && r.text, path);
	ssize_t n = read(fd, r.text, BYTES);
	need(n > 0, path);
	close(fd);
	r.len = (size_t)n;
	return r;
}

static int echo(void)
{
	static char bytes[BYTES];
	int pair[2];

	need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	pid_t child = fork();
	need(child >= 0, "fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pair[0]);
		for (ssize_t n; (n = read(pair[1], bytes, sizeof(bytes))) > 0;)
			write_all(pair[1], bytes, (size_t)n);
		_exit(0);
	}
	close(pair[1]);
	return pair[0];
}

static int reach(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	if (strcmp(path, "echo") == 0)
		return echo();
	if (strlen(path) >= sizeof(to.sun_path))
		errx(1, "the path %s is too long", path);
	memcpy(to.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	need(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0, path);
	return fd;
}

/* How long the answer will be; 0: its head is not there yet. An echo begins with the request's method, and is as long. */
static size_t whole(const char *text, const struct request *rq)
{
	const char *end = strstr(text, "\r\n\r\n"), *length = strcasestr(text, "\r\nContent-Length: ");

	if (strncmp(text, rq->text, 4) == 0)
		return rq->len;
	if (!end)
		return 0;
	if (strncmp(text, "HTTP/1.1 20", 11) != 0 || !length || length > end)
		errx(1, "the answer is %s", text);
	return (size_t)(end - text) + 4 + strtoul(length + 18, NULL, 10);
}

static void exchange(int fd, const struct request *rq)
{
	static char text[BYTES + 1];
	size_t got = 0, want = 0;

	write_all(fd, rq->text, rq->len);
	while (want == 0 || got < want) {
		ssize_t n = read(fd, text + got, BYTES - got);
		need(n > 0, "read");
		got += (size_t)n;
		text[got] = '\0';
		want = whole(text, rq);
	}
}

static void greet(int fd, const char *greeting)
{
	char c = 0;

	write_all(fd, greeting, strlen(greeting));
	write_all(fd, "\n", 1);
	while (c != '\n')
		need(read(fd, &c, 1) == 1, "read the answer to the greeting");
}

static double run(struct plan *p)
{
	bool kept = p->fd >= 0;
	double begin = now_s();
	int fd = kept ? p->fd : reach(p->path);

	if (!kept)
		greet(fd, p->greeting);
	for (unsigned i = 0; i < p->n; i++)
		exchange(fd, &p->request[i]);
	double took = now_s() - begin;
	if (!kept)
		close(fd);
	return took;
}

static struct plan parse(char *line)
{
	struct plan p = { .name = strtok(line, "\t\n"),
			  .path = strtok(NULL, "\t\n"),
			  .greeting = strtok(NULL, "\t\n") };

	for (char *file; (file = strtok(NULL, "\t\n"));) {
		if (p.n == REQUESTS_MAX)
			errx(1, "plan '%s' has more than %d requests", p.name, REQUESTS_MAX);
		p.request[p.n++] = load(file);
	}
	if (p.n == 0)
		errx(1, "a plan has no request");
	p.fd = strcmp(p.greeting, "-") == 0 ? reach(p.path) : -1;
	return p;
}

int main(int argc, char **argv)
{
	static struct plan plans[PLANS_MAX];
	unsigned n = 0;
	char *line = NULL;
	size_t size = 0;

	if (argc != 3)
		errx(1, "usage: round_trip WARM RUNS <PLANS");
	for (; getline(&line, &size, stdin) > 0; line = NULL, size = 0) {
		if (n == PLANS_MAX)
			errx(1, "more than %d plans", PLANS_MAX);
		plans[n++] = parse(line);
	}
	for (int i = -atoi(argv[1]); i < atoi(argv[2]); i++)
		for (unsigned k = 0; k < n; k++) {
			double took = run(&plans[k]);
			if (i >= 0)
				printf("%s\t%.0f\n", plans[k].name, took * 1e9);
		}
	return 0;
}
