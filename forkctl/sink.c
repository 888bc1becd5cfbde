// SPDX-License-Identifier: Apache-2.0
#include "forkctl/sink.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

void sink_init(struct sink *s, int fd)
{
	struct stat st;

	*s = (struct sink){ .fd = fd, .broken = fd < 0, .regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) };
}

void sink_done(struct sink *s)
{
	strbuf_done(&s->bytes);
}

void sink_add(struct sink *s, const char *bytes, size_t len)
{
	if (s->at > 0 && s->at >= sink_len(s)) {
		memmove(s->bytes.text, s->bytes.text + s->at, sink_len(s));
		s->bytes.len -= s->at;
		s->at = 0;
	}
	if (!s->broken)
		strbuf_add(&s->bytes, bytes, len);
}

/* A pipe or terminal that is writable has room for PIPE_BUF bytes; the descriptor blocks, for others have it, too. */
static size_t takes(const struct sink *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLOUT };

	if (s->regular)
		return sink_len(s);
	if (poll(&p, 1, 0) <= 0)
		return 0;
	return sink_len(s) < PIPE_BUF ? sink_len(s) : PIPE_BUF;
}

bool sink_push(struct sink *s, size_t *ret_sent)
{
	size_t len;

	*ret_sent = 0;
	while (sink_len(s) > 0 && (len = takes(s)) > 0) {
		ssize_t n = write(s->fd, s->bytes.text + s->at, len);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0) {
			s->broken = true;
			s->bytes.len = s->at = 0;
			return false;
		}
		s->at += (size_t)n;
		*ret_sent += (size_t)n;
	}
	if (sink_len(s) == 0)
		s->bytes.len = s->at = 0;
	return true;
}
