// SPDX-License-Identifier: Apache-2.0
/* The socket pair of a dial, and the line "OK PORT" of the guest's acceptance. */
#include "forkd/agent/dial.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "forkd/agent/agent_http.h"
#include "forkd/errors.h"

enum { LINE_MAX_BYTES = 16 };

/* The bytes wait in the socket pair: the VM process reads none of them before the guest has accepted. */
static void say_first(struct dial *dial, const struct dial_to *to)
{
	if (to->first_len == 0)
		return;
	ssize_t n = send(dial->ours, to->first, to->first_len, MSG_NOSIGNAL | MSG_DONTWAIT);
	size_t sent = n > 0 ? (size_t)n : 0;
	dial->rest = to->first + sent;
	dial->rest_len = to->first_len - sent;
}

int dial_begin(struct dial *dial, const struct dial_to *to, struct err *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, ERR_INTERNAL, "connect to vsock port %u", to->port);
	dial->ours = pair[0];
	dial->theirs = pair[1];
	dial->rq.port = to->port;
	say_first(dial, to);
	dial->call = (struct control_call){
		.op = "dial",
		.rows = ctl_dial_fields,
		.obj = &dial->rq,
		.fds = &dial->theirs,
		.n_fds = 1,
		.timeout_ms = to->timeout_ms,
	};
	return 0;
}

void dial_done(struct dial *dial)
{
	auto_close_p(&dial->ours);
	auto_close_p(&dial->theirs);
	dial->ours = dial->theirs = -1;
}

/*
 * Takes the line, which the VM process sends at once, and no byte behind the line. 1: the guest has
 * accepted; 0: nothing came; -ECONNREFUSED: the stream has ended, or what came is no such line.
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

int dial_end(struct dial *dial, uint64_t deadline_ns, struct err *err)
{
	auto_close_p(&dial->theirs);
	dial->theirs = -1;
	for (;;) {
		int r = wait_readable(dial->ours, deadline_ns);
		if (r == 0)
			return fail(err, E_AGENT, "the guest does not answer on vsock port %u", dial->rq.port);
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "wait for vsock port %u", dial->rq.port);
		r = take_line(dial->ours);
		if (r < 0)
			return fail(err, E_AGENT, "the guest refuses vsock port %u", dial->rq.port);
		if (r > 0 && agent_send_text(dial->ours, dial->rest, dial->rest_len, deadline_ns, err) < 0)
			return err->num;
		if (r > 0)
			return steal_fd(&dial->ours);
	}
}
