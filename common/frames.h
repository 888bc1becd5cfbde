// SPDX-License-Identifier: Apache-2.0
/*
 * The messages of a stream of the Connect protocol (https://connectrpc.com/docs/protocol, "Streaming RPCs"): 1 byte of flags,
 * 4 bytes of length, big-endian, and the message. The last one has FRAME_END, and says how the call has ended. Plain data.
 */
#ifndef COMMON_FRAMES_H
#define COMMON_FRAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "common/auto.h"
#include "common/budget.h"
#include "common/err.h"

enum { FRAME_HEAD = 5, FRAME_COMPRESSED = 1, FRAME_END = 2 };

void frame_head(unsigned char head[static FRAME_HEAD], unsigned flags, size_t len);

/* Takes a stream apart, however its bytes are cut. Starts zeroed but for `max` and `budget`. What came is all that is held. */
struct frames {
	size_t max;            /* bytes of a message */
	struct budget *budget; /* what is held counts there; NULL: nowhere */
	/* private, but for what frames_take() says */
	unsigned char head[FRAME_HEAD];
	unsigned head_len;
	char *bytes; /* of the message that is being read */
	size_t len, cap;
	bool ended;   /* the message with FRAME_END came */
	size_t taken; /* from the budget */
};

/*
 * Takes bytes up to the end of one message: *ret_used of them. *ret_message: f->bytes has a message of f->len bytes, writable and
 * with a NUL behind, until the next call; it is the last one when f->ended. f->head_len is 0 between two messages. ERR_INVALID:
 * compressed or unknown flags, bytes after the end. ERR_BUSY: the length is above f->max, or the budget is used up.
 */
MUST_CHECK int frames_take(struct frames *f, const char *data, size_t len, size_t *ret_used, bool *ret_message,
			   struct err *err);
/* A message that is in memory as a whole: checks its head, and gives its length without the head. Errors as above. */
MUST_CHECK int frame_whole(const char *data, size_t len, size_t max, size_t *ret_len, struct err *err);
void frames_done(struct frames *f);

#endif
