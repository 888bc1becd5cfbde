// SPDX-License-Identifier: Apache-2.0
/*
 * One HTTP/1.x message that comes in, a request or a response (RFC 9112). The head is gathered line by
 * line and checked here; http_parser gets whole lines, decides how the body is framed, and takes the
 * frames off. What two programs could read in different ways is refused: two lengths, a length and
 * chunks, any transfer coding but "chunked", lines without CR, folded lines.
 * Nothing here is shared between threads.
 */
#ifndef FORKD_FRONT_MESSAGE_H
#define FORKD_FRONT_MESSAGE_H

#include <http_parser.h>

#include "common/json64.h"

enum { MESSAGE_METHOD_MAX = 31 };

struct message {
	/* Of a request: */
	char method[MESSAGE_METHOD_MAX + 1];
	char *target; /* heap */
	/* Of a response: */
	unsigned status;
	bool answers_head; /* set by the caller before the head: no body comes, whatever the head says */

	unsigned minor; /* 1 of HTTP/1.1 */
	bool has_head, complete;
	/* Gets the body, without frames. Set by the caller. */
	void (*body)(struct message *m, const char *bytes, size_t len);

	/* for message.c alone */
	enum http_parser_type type;
	size_t head_max, head_bytes;
	struct http_parser parser;
	struct strbuf line;   /* the beginning of a line that has not come whole */
	struct strbuf fields; /* name NUL value NUL … */
	bool begun, has_length, has_coding;
};

/* Begins a message. *m must be zeroed, or ended with message_done(). `head_max`: bytes of all lines of the head. */
void message_begin(struct message *m, enum http_parser_type type, size_t head_max);
void message_done(struct message *m);

/*
 * Takes bytes up to the end of the head, or of the message where that has no body. Returns how many
 * were taken. E_TOO_LARGE: the head is longer than head_max; E_INVALID: it is no such message.
 */
MUST_CHECK ssize_t message_head(struct message *m, const char *bytes, size_t len, struct err *err);
/* Takes bytes of the body, `len` > 0, up to the end of the message. Returns how many were taken, or E_INVALID. */
MUST_CHECK ssize_t message_body(struct message *m, const char *bytes, size_t len, struct err *err);
/* The connection has ended. E_INVALID: in the middle of the message. */
MUST_CHECK int message_eof(struct message *m, struct err *err);

/* The value of the first field of this name, in any case; NULL: there is none. Valid until message_done(). */
const char *message_field(const struct message *m, const char *name);
/* Goes through all fields in their order; *pos begins with 0. False: that was the last one. */
bool message_next(const struct message *m, size_t *pos, const char **ret_name, const char **ret_value);
/* Whether a list such as that of "Connection: close, x" has the word. `list` NULL: an empty one. */
bool message_listed(const char *list, const char *word);

/* The head has come: */
bool message_has_body(const struct message *m);
bool message_is_chunked(const struct message *m);
/* The body's length by Content-Length; UINT64_MAX: the head does not say it. */
uint64_t message_length(const struct message *m);
/* Whether the sender lets the connection stay open. */
bool message_keeps_alive(const struct message *m);
/* Whether the sender waits for "100 Continue". */
bool message_expects_continue(const struct message *m);

#endif
