// SPDX-License-Identifier: Apache-2.0
/*
 * POST /files of the agent of a guest: raw bodies, multipart and gzip, cut anywhere. The input's first byte says in which pieces the bytes
 * come. No file is touched: the uploads are those below, which count. Of each file that is committed the answer has the path, and a file
 * whose request breaks off in the middle of it is not committed.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <sys/socket.h>

#include "guest/files/files.h"
#include "guest/files/upload.h"
#include "guest/limits.h"
#include "guest/server.h"

enum { PIECE = 4096 };

static struct agent agent;
static struct server server;
static const struct route routes[] = { { "POST", "/files", BODY_STREAM, STYLE_PLAIN, 0, files_post }, {} };
static int open_uploads, committed;

/* ---- uploads that are none ---- */

int upload_begin(struct upload *up, const char *path, const struct owner_ids *owner, struct err *err)
{
	*up = (struct upload){ .dir_fd = -1, .fd = -1, .owner = *owner };
	must(path[0] == '/' && strlen(path) <= PATH_BYTES_MAX, "a path that is not absolute, or too long");
	must(!strstr(path, "//") && !strstr(path, "/../") && !strstr(path, "/./"), "a path that is not clean");
	if (strcmp(path, "/full") == 0)
		return err_num(err, path_code(ENOSPC), ENOSPC, "write '%s'", path);
	open_uploads++;
	up->name = strdup(path);
	return 0;
}

int upload_write(struct upload *up, const char *data, size_t len, struct err *err)
{
	static volatile char seen;

	must(up->name != NULL, "bytes for no file");
	for (size_t i = 0; i < len; i++)
		seen = data[i];
	(void)seen;
	up->size += len;
	return up->size > 1 << 20 ? err_num(err, path_code(ENOSPC), ENOSPC, "write '%s'", up->name) : 0;
}

int upload_commit(struct upload *up, const struct metadata *metadata, unsigned n_metadata, struct err *err)
{
	(void)err;
	must(up->name != NULL, "a file that was not begun is committed");
	for (unsigned i = 0; i < n_metadata; i++)
		must(metadata[i].key[0] && metadata[i].value, "metadata without a name");
	committed++;
	return 0;
}

void upload_done(struct upload *up)
{
	open_uploads -= up->name != NULL;
	free(up->name);
	up->name = NULL;
}

/* ---- the client ---- */

/* How many files the answers name. */
static int read_answers(int fd)
{
	static char buf[1 << 16];
	int named = 0;
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT)) > 0)
		for (buf[n] = '\0'; n > 0; n--)
			named += memcmp(buf + n - 1, "\"type\":\"file\"", 13) == 0;
	return named;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct err err = {};

	(void)argc;
	(void)argv;
	must(loop_init(&agent.loop, &err) == 0, "a loop");
	agent.default_user = strdup("root");
	agent.held.max = LIMIT_HELD;
	return 0;
}

static void rounds(void)
{
	for (int i = 0; i < 3; i++)
		loop_round(&agent.loop, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const int fds = next_fd();
	const size_t step = size > 0 && data[0] ? data[0] : PIECE;
	int p[2];

	committed = 0;
	server_init(&server, &agent, routes);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p) == 0, "a socket");
	server_accept(&server, p[1]);
	int named = 0, n_before = 0;
	for (size_t at = 1; at < size;) {
		const ssize_t n =
			send(p[0], data + at, size - at < step ? size - at : step, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			break;
		at += n > 0 ? (size_t)n : 0;
		rounds();
		named += read_answers(p[0]);
		must(named <= committed, "a file is answered that was not committed");
	}
	n_before = committed;
	close(p[0]);
	rounds();
	must(committed == n_before, "a request that broke off has committed a file");
	must(server.n_connections == 0 && open_uploads == 0, "what is left of a client that is gone");
	must(!agent.loop.timers && agent.held.used == 0, "a timer or bytes of a client that is gone");
	server_done(&server);
	must(next_fd() == fds, "a descriptor stays open");
	return 0;
}
