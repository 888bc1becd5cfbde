// SPDX-License-Identifier: Apache-2.0
/*
 * Reads a body of multipart/form-data (RFC 7578, RFC 2046) as it comes, in pieces of any size, and
 * holds nothing of it but the head of the part that is being read. One thread; lives as long as the
 * request.
 */
#ifndef GUEST_FILES_MULTIPART_H
#define GUEST_FILES_MULTIPART_H

#include <stdbool.h>

#include "common/err.h"

enum { MULTIPART_BOUNDARY_MAX = 70, MULTIPART_HEAD_MAX = 16384, MULTIPART_PARTS_MAX = 1024 };

/* Who takes the parts. An error of a call ends the reading, and is multipart_feed()'s. */
struct multipart_sink {
	/* `name` and `filename` are those of Content-Disposition, valid during the call; NULL: not given. */
	int (*begin)(void *ctx, const char *name, const char *filename, struct err *err);
	int (*data)(void *ctx, const char *data, size_t len, struct err *err);
	int (*end)(void *ctx, struct err *err); /* the part came whole */
};

struct multipart {
	const struct multipart_sink *sink;
	void *ctx;
	enum { MP_PREAMBLE, MP_DELIMITER, MP_HEAD, MP_DATA, MP_EPILOGUE } state;
	char delimiter[4 + MULTIPART_BOUNDARY_MAX]; /* "\r\n--" and the boundary */
	size_t delimiter_len, matched;              /* so much of the delimiter was read in PREAMBLE or DATA */
	size_t implied;                             /* of `matched`: its CRLF belongs to what stands before */
	char *head;                                 /* of the part; in DELIMITER what stands behind the boundary */
	size_t head_len;
	unsigned parts;
};

/*
 * Starts with the request's Content-Type, which has the boundary; `sink` and `ctx` outlive the
 * reader. ERR_INVALID: the type is not multipart, or has no usable boundary.
 */
MUST_CHECK int multipart_init(struct multipart *m, const char *content_type, const struct multipart_sink *sink,
			      void *ctx, struct err *err);
void multipart_done(struct multipart *m);
/* Reads the next bytes of the body. ERR_INVALID: they are no multipart, or too much of it. */
MUST_CHECK int multipart_feed(struct multipart *m, const char *data, size_t len, struct err *err);
/* The body has ended. ERR_INVALID: its last delimiter is missing. */
MUST_CHECK int multipart_finish(const struct multipart *m, struct err *err);

/*
 * The parameter `key` of a header's value, "form-data; name=\"file\"; filename=\"a\"": without
 * quotes and with \" and \\ undone; key*=UTF-8''a%20b (RFC 5987) comes before key. On the heap;
 * NULL: there is none.
 */
char *header_param(const char *value, const char *key);

#endif
