/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-rng test: buffers of many sizes come back written, and never twice the same. */
#include "devices.h"

#define BYTES 1024

static struct virtio *rng;
static struct virtq queue;
static uint8_t buffer[2][BYTES] __attribute__((aligned(16)));
static uint64_t last;
static unsigned turn;

void rng_open(struct virtio *v)
{
	rng = v;
	virtio_begin(v, F_EVENT_IDX | F_INDIRECT);
	virtq_init(&queue, v, 0, QUEUE_MAX, plan_vector(), 0);
	virtio_go(v);
	print("rng: queue of %u, features %lx\n", queue.size, v->features);
}

void rng_round(unsigned cpu)
{
	if (cpu != 0 || !rng)
		return;
	for (unsigned i = 0; i < 8; i++) {
		uint8_t *b = buffer[turn++ % 2];
		uint32_t bytes = 16u << (turn % 7), len = 0;
		memset(b, 0, BYTES);
		const struct seg segs[] = { { b, 8, true }, { b + 8, bytes - 8, true } };
		virtq_add(&queue, segs, 2, turn & 1, b);
		virtq_kick(&queue);
		virtq_wait(&queue, "rng");
		if (virtq_take(&queue, &len) != b || len == 0)
			fail("rng: expected %u bytes, got %u", bytes, len);
		uint64_t word = *(uint64_t *)b;
		if (len >= 8 && (word == 0 || word == last))
			fail("rng: %lx after %lx", word, last);
		last = word;
		for (uint32_t at = len; at < BYTES; at++)
			if (b[at])
				fail("rng: byte %u written, length %u", at, len);
	}
}
