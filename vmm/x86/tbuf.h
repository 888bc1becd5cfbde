// SPDX-License-Identifier: Apache-2.0
/*
 * Table buffer: appends little-endian bytes to a caller's buffer, and counts on when the buffer is
 * full. One thread, no allocation. `len` past `size` says that the table did not fit, and by how
 * much.
 */
#ifndef VMM_X86_TBUF_H
#define VMM_X86_TBUF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct tbuf {
	uint8_t *buf;
	size_t size, len;
};

/* Overwrites bytes that were written before, from `at` on. */
static inline void tbuf_set(struct tbuf *t, size_t at, const void *data, size_t n)
{
	if (at <= t->size && n <= t->size - at)
		memcpy(t->buf + at, data, n);
}

static inline void tbuf_put(struct tbuf *t, const void *data, size_t n)
{
	tbuf_set(t, t->len, data, n);
	t->len += n;
}

/* Moves everything from `at` on up by n bytes, and writes data into the gap. */
static inline void tbuf_insert(struct tbuf *t, size_t at, const void *data, size_t n)
{
	if (t->len <= t->size && n <= t->size - t->len)
		memmove(t->buf + at + n, t->buf + at, t->len - at);
	tbuf_set(t, at, data, n);
	t->len += n;
}

static inline void tbuf_u8(struct tbuf *t, uint8_t v)
{
	tbuf_put(t, &v, 1);
}

static inline void tbuf_u16(struct tbuf *t, uint16_t v)
{
	tbuf_put(t, &v, 2);
}

static inline void tbuf_u32(struct tbuf *t, uint32_t v)
{
	tbuf_put(t, &v, 4);
}

static inline void tbuf_u64(struct tbuf *t, uint64_t v)
{
	tbuf_put(t, &v, 8);
}

static inline void tbuf_zero(struct tbuf *t, size_t n)
{
	for (size_t i = 0; i < n; i++)
		tbuf_u8(t, 0);
}

/* Writes the byte at `at` that makes all bytes of [from, to) add up to zero. */
static inline void tbuf_checksum(struct tbuf *t, size_t from, size_t to, size_t at)
{
	uint8_t sum = 0;

	tbuf_set(t, at, &sum, 1);
	for (size_t i = from; i < to && i < t->size; i++)
		sum = (uint8_t)(sum - t->buf[i]);
	tbuf_set(t, at, &sum, 1);
}

#endif
