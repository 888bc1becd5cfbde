// SPDX-License-Identifier: Apache-2.0
/* Base64. The encoder takes 12 bits at a time from a table: the output of every process goes through it. */
#include "guest/base64.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static char pairs[4096][2];
static int8_t values[256];

static void fill_tables(void)
{
	if (pairs[0][0])
		return;
	for (unsigned i = 0; i < 4096; i++) {
		pairs[i][1] = alphabet[i & 63];
		pairs[i][0] = alphabet[i >> 6];
	}
	memset(values, -1, sizeof(values));
	for (int i = 0; i < 64; i++)
		values[(unsigned char)alphabet[i]] = (int8_t)i;
}

void base64_encode(char *to, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	fill_tables();
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

	fill_tables();
	if (len % 4 == 0)
		for (int i = 0; i < 2 && len > 0 && text[len - 1] == '='; i++)
			len--;
	if (len % 4 == 1)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		const int v = values[(unsigned char)text[i]];
		if (v < 0)
			return -EINVAL;
		bits = bits << 6 | (unsigned)v;
		if ((n += 6) >= 8)
			*out++ = (uint8_t)(bits >> (n -= 8));
	}
	return out - (uint8_t *)to;
}
