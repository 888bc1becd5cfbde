// SPDX-License-Identifier: Apache-2.0
/*
 * Base64. The encoder takes 12 bits at a time from a table, and puts 8 characters together before it stores them: the output of every
 * process goes through it.
 */
#include "common/base64.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

enum { NONE = 64 }; /* a character that is none of the alphabet */

static char pairs[4096][2];
static uint8_t values[256];
static pthread_once_t filled = PTHREAD_ONCE_INIT;

static void fill_tables(void)
{
	for (unsigned i = 0; i < 4096; i++) {
		pairs[i][1] = alphabet[i & 63];
		pairs[i][0] = alphabet[i >> 6];
	}
	memset(values, NONE, sizeof(values));
	for (int i = 0; i < 64; i++)
		values[(unsigned char)alphabet[i]] = (uint8_t)i;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first character is the lowest byte");

/* The two characters of 12 bits. */
static inline uint64_t pair(uint64_t bits)
{
	uint16_t two;

	memcpy(&two, pairs[bits], sizeof(two));
	return two;
}

void base64_encode(char *to, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	pthread_once(&filled, fill_tables);
	for (; len >= 8; len -= 6, p += 6, to += 8) { /* 6 of the 8 bytes that are loaded */
		uint64_t v;
		memcpy(&v, p, sizeof(v));
		v = be64toh(v);
		const uint64_t out = pair(v >> 52) | pair(v >> 40 & 4095) << 16 | pair(v >> 28 & 4095) << 32 |
				     pair(v >> 16 & 4095) << 48;
		memcpy(to, &out, sizeof(out));
	}
	for (; len >= 3; len -= 3, p += 3, to += 4) {
		const unsigned v = (unsigned)p[0] << 16 | (unsigned)p[1] << 8 | p[2];
		memcpy(to, pairs[v >> 12], 2);
		memcpy(to + 2, pairs[v & 4095], 2);
	}
	if (len == 0)
		return;
	const unsigned v = (unsigned)p[0] << 16 | (len > 1 ? (unsigned)p[1] << 8 : 0);
	memcpy(to, pairs[v >> 12], 2);
	to[2] = len > 1 ? alphabet[v >> 6 & 63] : '=';
	to[3] = '=';
}

void base64_add(struct strbuf *b, const void *bytes, size_t len)
{
	char text[4096];
	const char *p = bytes;

	while (len > 0) {
		const size_t part = len < 3072 ? len : 3072;
		base64_encode(text, p, part);
		strbuf_add(b, text, base64_size(part));
		p += part;
		len -= part;
	}
}

ssize_t base64_decode(void *to, const char *text, size_t len)
{
	uint8_t *out = to;
	uint32_t bits = 0;
	unsigned n = 0;

	pthread_once(&filled, fill_tables);
	if (len % 4 == 0)
		for (int i = 0; i < 2 && len > 0 && text[len - 1] == '='; i++)
			len--;
	if (len % 4 == 1)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		const unsigned v = values[(unsigned char)text[i]];
		if (v == NONE)
			return -EINVAL;
		bits = bits << 6 | v;
		if ((n += 6) >= 8)
			*out++ = (uint8_t)(bits >> (n -= 8));
	}
	return out - (uint8_t *)to;
}
