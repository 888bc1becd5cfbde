// SPDX-License-Identifier: Apache-2.0
/*
 * What a client sends to the agent of a guest: heads, bodies, chunks, Connect frames and their JSON, cut anywhere. The input's first byte
 * says in which pieces it comes, and what else happens. All that the agent answers must be HTTP/1.1, and nothing of a client that is gone may stay. No program
 * is started: spawn() is the one below, whose processes write what they are given and end when they are signalled, or nobody is there.
 * No file is touched: the routes of files are left out (fuzz_agent_files.c).
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <http_parser.h>
#include <sys/socket.h>

#include "guest/limits.h"
#include "guest/process/process.h"
#include "guest/routes.h"
#include "guest/server.h"

enum { PID_FIRST = 2000000000, PIECE = 4096 };

static struct agent agent;
static struct server server;
static struct route routes[64]; /* those that touch no file of this host */
static pid_t next_pid;
static bool heads; /* a HEAD may be among the requests: where its answer ends only the client knows */

/* ---- processes that are none ---- */

static int empty_pipe(void)
{
	int p[2];

	must(pipe2(p, O_NONBLOCK | O_CLOEXEC) == 0, "a pipe");
	close(p[1]);
	return p[0];
}

int spawn(const struct spawn_spec *spec, struct spawned *ret_spawned, struct err *err)
{
	int in[2], out[2];

	must(spec->argv[0] && spec->cwd[0] == '/' && spec->user->home, "a process without command, cwd or user");
	must(spec->env->vars && !spec->env->vars[spec->env->n], "variables without an end");
	if (strcmp(spec->argv[0], "busy") == 0)
		return err_set(err, ERR_BUSY, "no process is left");
	must(pipe2(in, O_NONBLOCK | O_CLOEXEC) == 0 && pipe2(out, O_NONBLOCK | O_CLOEXEC) == 0, "pipes");
	(void)!write(out[1], spec->cwd, strlen(spec->cwd));
	close(out[1]);
	close(in[0]);
	if (!spec->stdin_pipe && !spec->pty) {
		close(in[1]);
		in[1] = -1;
	}
	*ret_spawned = (struct spawned){ next_pid++, in[1], out[0], spec->pty ? -1 : empty_pipe(), empty_pipe() };
	return 0;
}

int spawn_status(int status_fd, const char *command, const char *cwd, struct err *err)
{
	(void)status_fd;
	(void)cwd;
	return strcmp(command, "none") == 0 ? err_set(err, ERR_INVALID, "'%s' is not there", command) : 1;
}

/* One of the children ends. */
static void end_child(void)
{
	struct child *c = agent.loop.children;

	if (!c)
		return;
	loop_child_forget(c);
	c->ended(c, c->pid % 2 ? 9 : 3 << 8);
}

/* ---- the client ---- */

static int answer_part(http_parser *parser, const char *at, size_t len)
{
	(void)parser;
	(void)at;
	(void)len;
	return 0;
}

static const http_parser_settings settings = { .on_body = answer_part };

/* Reads what the agent has answered. */
static void read_answers(int fd, http_parser *parser)
{
	static char buf[1 << 18];
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
		http_parser_execute(parser, &settings, buf, (size_t)n);
		must(heads || HTTP_PARSER_ERRNO(parser) == HPE_OK, http_errno_description(HTTP_PARSER_ERRNO(parser)));
	}
}

static void rounds(int fd, http_parser *parser)
{
	loop_round(&agent.loop, 0);
	loop_round(&agent.loop, 0);
	read_answers(fd, parser);
}

static bool is_of_files(const struct route *r)
{
	return strncmp(r->path, "/files", 6) == 0 || strncmp(r->path, "/filesystem.", 12) == 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	size_t n = 0;
	struct err err = {};

	(void)argc;
	(void)argv;
	must(loop_init(&agent.loop, &err) == 0, "a loop");
	agent.default_user = strdup("root");
	agent.held.max = LIMIT_HELD;
	for (const struct route *r = api_routes; r->method; r++)
		if (!is_of_files(r))
			routes[n++] = *r;
	must(n > 0 && n < sizeof(routes) / sizeof(*routes), "routes");
	return 0;
}

static void feed(int fd, http_parser *parser, const uint8_t *data, size_t size)
{
	const size_t step = size > 0 && data[0] >> 3 ? (size_t)(data[0] >> 3) * 8 + 1 : PIECE;

	for (size_t at = 1; at < size;) {
		const size_t part = size - at < step ? size - at : step;
		const ssize_t n = send(fd, data + at, part, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			at += (size_t)n;
		rounds(fd, parser);
		if (data[0] & 1)
			end_child();
		if (n < 0 && !(errno == EAGAIN))
			return;
	}
}

/* Another client has started a process, which the input's client may act on; it does not read. */
static int start_one(void)
{
	static const char start[] =
		"POST /process.Process/Start HTTP/1.1\r\nContent-Type: application/connect+json\r\n"
		"Content-Length: 49\r\n\r\n\0\0\0\0\x2c{\"process\":{\"cmd\":\"sh\",\"cwd\":\"/\"},\"tag\":\"t\"}";
	int p[2];

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p) == 0, "a socket");
	server_accept(&server, p[1]);
	must(send(p[0], start, sizeof(start) - 1, 0) == sizeof(start) - 1, "a request");
	loop_round(&agent.loop, 0);
	loop_round(&agent.loop, 0);
	must(agent.n_processes == 1 && agent.processes->runs, "a process");
	return p[0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const int fds = next_fd();
	http_parser parser;
	int p[2];

	next_pid = PID_FIRST;
	heads = memmem(data, size, "HEAD", 4);
	http_parser_init(&parser, HTTP_RESPONSE);
	server_init(&server, &agent, routes);
	const int other = size > 0 && data[0] & 4 ? start_one() : -1;
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p) == 0, "a socket");
	server_accept(&server, p[1]);
	feed(p[0], &parser, data, size);
	rounds(p[0], &parser);
	if (size > 0 && data[0] & 2) {
		shutdown(p[0], SHUT_WR);
		rounds(p[0], &parser);
	}
	close(p[0]);
	if (other >= 0)
		close(other);
	for (int i = 0; i < 4; i++)
		loop_round(&agent.loop, 0);
	must(server.n_connections == 0, "a connection whose client is gone stays");
	while (agent.loop.children)
		end_child();
	must(agent.n_processes == 0 && agent.process_bytes == 0, "a process that has ended stays");
	must(agent.held.used == 0, "bytes of a client that is gone are counted");
	must(!agent.loop.timers, "a timer of a client that is gone stays");
	server_done(&server);
	must(next_fd() == fds, "a descriptor stays open");
	return 0;
}
