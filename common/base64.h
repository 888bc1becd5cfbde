// SPDX-License-Identifier: Apache-2.0
/* Base64 as in RFC 4648, section 4: the standard alphabet. Any thread. */
#ifndef COMMON_BASE64_H
#define COMMON_BASE64_H

#include <stddef.h>
#include <sys/types.h>

#include "common/json64.h"

/* Characters that `len` bytes become, padding included. */
static inline size_t base64_size(size_t len)
{
	return (len + 2) / 3 * 4;
}

/* Writes base64_size(len) characters, without a NUL. */
void base64_encode(char *to, const void *bytes, size_t len);
/* Adds the characters to the text. */
void base64_add(struct strbuf *b, const void *bytes, size_t len);
/*
 * Decodes `len` characters; `to` may be `text` itself and needs room for len / 4 * 3 + 2 bytes otherwise.
 * Padding may be left out; bits behind the last byte are ignored. The number of bytes, or -EINVAL: a
 * character that is none of base64's, padding in the middle, or a length that cannot be.
 */
MUST_CHECK ssize_t base64_decode(void *to, const char *text, size_t len);

#endif
