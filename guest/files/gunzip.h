// SPDX-License-Identifier: Apache-2.0
/*
 * Undoes gzip (RFC 1952) of a body as it comes, in pieces of any size; several members behind each
 * other are one text, as gzip(1) has it. One thread; lives as long as the request. What a body
 * becomes has no bound here: the receiver counts.
 */
#ifndef GUEST_FILES_GUNZIP_H
#define GUEST_FILES_GUNZIP_H

#define ZLIB_CONST
#include <stdbool.h>
#include <zlib.h>

#include "common/err.h"

struct gunzip {
	z_stream z;
	bool ready, between; /* zlib has its memory (about 48 KiB); nothing of the next member was read */
	int (*put)(void *ctx, const char *data, size_t len, struct err *err);
	void *ctx;
};

/* `put` gets the text in pieces of 64 KiB at most; an error of `put` is gunzip_feed()'s. */
MUST_CHECK int gunzip_init(struct gunzip *g, int (*put)(void *ctx, const char *data, size_t len, struct err *err),
			   void *ctx, struct err *err);
void gunzip_done(struct gunzip *g);
/* ERR_INVALID: the bytes are no gzip. */
MUST_CHECK int gunzip_feed(struct gunzip *g, const char *data, size_t len, struct err *err);
/* The body has ended. ERR_INVALID: in the middle of a member. */
MUST_CHECK int gunzip_finish(const struct gunzip *g, struct err *err);

#endif
