// SPDX-License-Identifier: Apache-2.0
/* The agent's GET /v1/tunnel, whose connection becomes the stream. */
#include "forkd/agent/tunnel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "forkd/agent/agent_http.h"
#include "forkd/errors.h"
#include "forkd/wire/control.h"

enum { HEAD_MAX = 1024 };

static int send_request(int fd, unsigned port, struct err *err)
{
	char text[160];

	int len = snprintf(text, sizeof(text),
			   "GET /v1/tunnel?port=%u HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\n"
			   "Upgrade: tcp\r\n\r\n",
			   port);
	/* A new connection has room for it. */
	return send(fd, text, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) == len
		       ? 0
		       : fail(err, E_AGENT, "the guest's agent takes no request: %s", strerror(errno));
}

/* What is there of the answer, as text. Returns its length. */
static int look(int fd, char head[HEAD_MAX + 1], uint64_t deadline_ns, struct err *err)
{
	size_t seen = strlen(head);

	for (;;) {
		ssize_t n = recv(fd, head, HEAD_MAX, MSG_PEEK | MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return fail(err, E_AGENT, "the guest's agent has hung up before it answered");
		if (n > 0 && (size_t)n > seen) {
			head[n] = '\0';
			return (int)n;
		}
		/* What was seen stays readable, so the wait for more is a short sleep. */
		if (seen > 0)
			usleep(1000);
		if (monotonic_ns() >= deadline_ns || (seen == 0 && wait_readable(fd, deadline_ns) <= 0))
			return fail(err, E_AGENT, "the guest's agent has not answered in time");
	}
}

/* The answer is no agreement: its own words are the error. */
static int take_refusal(int fd, unsigned port, uint64_t deadline_ns, struct err *err)
{
	autoanswer struct agent_answer a = {};
	char what[32];

	snprintf(what, sizeof(what), "a stream to port %u", port);
	if (agent_receive(fd, deadline_ns, &a, err) < 0)
		return err->num;
	return agent_want(&a, 101, what, err);
}

int agent_tunnel(int fd, unsigned port, uint64_t deadline_ns, struct err *err)
{
	static const char agreed[] = "HTTP/1.1 101 ";
	char head[HEAD_MAX + 1] = "";
	const char *end = NULL;

	if (send_request(fd, port, err) < 0)
		return err->num;
	while (!end) {
		int len = look(fd, head, deadline_ns, err);
		if (len < 0)
			return len;
		size_t known = (size_t)len < strlen(agreed) ? (size_t)len : strlen(agreed);
		if (memcmp(head, agreed, known) != 0)
			return take_refusal(fd, port, deadline_ns, err);
		end = strstr(head, "\r\n\r\n");
		if (!end && len == HEAD_MAX)
			return fail(err, E_AGENT, "the guest's agent sends a head of more than %d bytes", HEAD_MAX);
	}
	size_t len = (size_t)(end - head) + 4;
	return recv(fd, head, len, MSG_DONTWAIT) == (ssize_t)len ? 0 : fail(err, E_AGENT, "no way to port %u", port);
}
