// SPDX-License-Identifier: Apache-2.0
/* A disk's guest that wishes at random, with many requests at a time, for unit tests of images; and qemu-img, which tells the truth. */
#ifndef TESTS_UNIT_WISHES_H
#define TESTS_UNIT_WISHES_H

#include "tests/unit/disk.h"

#include <time.h>

enum { BATCH_MAX = 8, SLOTS = 0x10000, SLOT_BYTES = 0x30000, SLOT_DATA = 0x1000, DATA_MAX_SECTORS = 320 };

static uint64_t seed;

static inline uint32_t draw(uint32_t below)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(seed >> 33) % below;
}

static inline void sh(const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	int r = system(text);
	if (r != 0)
		fail_msg("%s: %d", text, r);
}

struct wish {
	uint32_t type, flags, sector, n;
	unsigned slot;
	uint8_t *data;
};

static inline uint64_t slot_at(const struct wish *w)
{
	return SLOTS + (uint64_t)w->slot * SLOT_BYTES;
}

/* Puts the chain of a wish into the queue: its data in some odd pieces. Returns the descriptor after its last. */
static inline unsigned put_wish(const struct wish *w, unsigned desc)
{
	const struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head = { w->type, 0, w->sector };
	const struct {
		uint64_t sector;
		uint32_t n, flags;
	} range = { w->sector, w->n, w->flags };
	uint64_t at = slot_at(w), data = at + SLOT_DATA;
	bool is_range = w->type == T_DISCARD || w->type == T_WRITE_ZEROES;
	size_t len = w->type == T_FLUSH ? 0 : is_range ? sizeof(range) : w->n * (size_t)SECTOR;

	put(at, &head, sizeof(head));
	put(at + 32, &(uint8_t){ S_NONE }, 1);
	if (is_range)
		put(data, &range, sizeof(range));
	else if (w->type == T_OUT)
		put(data, w->data, len);
	put_desc(desc++, at, sizeof(head), NEXT);
	while (len > 0) {
		uint32_t piece = draw(2) || is_range ? (uint32_t)len : 1 + draw((uint32_t)len);
		put_desc(desc++, data, piece, w->type == T_IN ? NEXT | WRITE : NEXT);
		data += piece;
		len -= piece;
		if (desc % 12 == 10 && len > 0) { /* not too many pieces */
			put_desc(desc++, data, (uint32_t)len, w->type == T_IN ? NEXT | WRITE : NEXT);
			len = 0;
		}
	}
	put_desc(desc++, at + 32, 1, WRITE);
	return desc;
}

/* S_… */
static inline uint8_t answer_of(const struct wish *w)
{
	return *(uint8_t *)ram(slot_at(w) + 32, 1);
}

static inline void ask_wishes(const struct wish *w, unsigned n, bool paused)
{
	uint16_t idx = used_idx();

	for (unsigned i = 0; i < n; i++) {
		uint16_t first = (uint16_t)(i * 14);
		assert_true(put_wish(&w[i], first) <= first + 14U);
		put(AVAIL + 4 + 2 * ((idx + i) % 128), &first, 2);
	}
	serve_until((uint16_t)(idx + n), paused);
}

static inline void do_wishes(const struct wish *w, unsigned n, bool paused)
{
	ask_wishes(w, n, paused);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(answer_of(&w[i]), S_OK);
}

static inline void do_wish(struct wish w)
{
	do_wishes(&w, 1, false);
}

/* From FORKD_TEST_SEED, else new. */
static inline void draw_seed(void)
{
	const char *given = getenv("FORKD_TEST_SEED");

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 8 ^ (uint64_t)getpid();
	print_message("FORKD_TEST_SEED=%llu\n", (unsigned long long)seed);
}

#endif
