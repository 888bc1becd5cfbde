// SPDX-License-Identifier: Apache-2.0
/* Asks a clone's process to dial, and waits for the line "OK PORT" of the guest's acceptance. */
#include "forkd/clone/dial.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "forkd/clone/talk.h"
#include "forkd/errors.h"

enum { DIAL_VERSION = 2, LINE_MAX_BYTES = 16 };

static int ask_process(struct forkd *d, struct clone *c, uint32_t port, const struct control_call *call,
		       struct err *err)
{
	int r = clone_needs_version(d, c, DIAL_VERSION, "connect to its guest", err);

	if (r >= 0)
		r = clone_talk(d, c, call, true, err);
	if (r < 0 && err->code == ERR_NOT_FOUND && !err->detail)
		return fail_as(err, E_AGENT, "reach vsock port %u", port);
	return r;
}

/*
 * Takes the line, which the clone's process sends at once, and no byte behind the line. 1: the guest
 * has accepted; 0: nothing came; -ECONNREFUSED: the stream has ended, or what came is no such line.
 */
static int take_line(int fd)
{
	char line[LINE_MAX_BYTES];
	ssize_t n = recv(fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	const char *end = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;
	if (!end || strncmp(line, "OK ", 3) != 0)
		return -ECONNREFUSED;
	size_t len = (size_t)(end + 1 - line);
	return recv(fd, line, len, MSG_DONTWAIT) == (ssize_t)len ? 1 : -ECONNREFUSED;
}

static int await_line(const struct clone *c, int fd, uint32_t port, uint64_t deadline_ns, struct err *err)
{
	for (;;) {
		int r = wait_readable(fd, deadline_ns);
		if (r == 0)
			return fail(err, E_AGENT, "clone '%s': its guest does not answer on vsock port %u",
				    c->record.id, port);
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "wait for vsock port %u", port);
		r = take_line(fd);
		if (r < 0)
			return fail(err, E_AGENT, "clone '%s': its guest refuses vsock port %u", c->record.id, port);
		if (r > 0)
			return 0;
	}
}

int clone_dial(struct forkd *d, struct clone *c, uint32_t port, uint64_t timeout_ms, struct err *err)
{
	uint64_t deadline_ns = deadline_in_ms(timeout_ms);
	const struct ctl_dial rq = { .port = port };
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, ERR_INTERNAL, "connect to vsock port %u", port);
	autoclose int ours = pair[0], theirs = pair[1];
	const struct control_call call = {
		.op = "dial",
		.rows = ctl_dial_fields,
		.obj = &rq,
		.fds = &theirs,
		.n_fds = 1,
		.timeout_ms = timeout_ms,
	};
	if (ask_process(d, c, port, &call, err) < 0)
		return err->num;
	close(steal_fd(&theirs));
	if (await_line(c, ours, port, deadline_ns, err) < 0)
		return err->num;
	return steal_fd(&ours);
}
