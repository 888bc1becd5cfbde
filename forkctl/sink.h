// SPDX-License-Identifier: Apache-2.0
/* Bytes on their way to a descriptor, which is never waited for. One thread. */
#ifndef FORKCTL_SINK_H
#define FORKCTL_SINK_H

#include "common/json64.h"

struct sink {
	int fd; /* borrowed; -1: everything is dropped */
	bool regular, broken;
	struct strbuf bytes;
	size_t at;
};

void sink_init(struct sink *s, int fd);
void sink_done(struct sink *s);
/* Bytes that are not written yet. */
static inline size_t sink_len(const struct sink *s)
{
	return s->bytes.len - s->at;
}
/* A broken one drops them. */
void sink_add(struct sink *s, const char *bytes, size_t len);
/* Writes what the descriptor takes now: *ret_sent bytes. False: it takes nothing more (errno); from now on it is broken. */
MUST_CHECK bool sink_push(struct sink *s, size_t *ret_sent);

#endif
