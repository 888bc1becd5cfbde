// SPDX-License-Identifier: Apache-2.0
/* vmm/vring: chains good and hostile, notification rules at every wrap, and that no segment ever leaves guest RAM. */
#include "vmm/virtio/vring.h"

#include "tests/unit/unit.h"

#include <errno.h>

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { LOW_BYTES = 0x200000, HIGH_BYTES = 0x100000, RING_BYTES = 0x100000 };
#define HIGH_GPA 0x100000000ULL
#define F_INDIRECT (1ULL << 28)
#define F_EVENT (1ULL << 29)

/* The rings stand at the start of RAM, buffers behind them. */
enum { DESC = 0x0, AVAIL = 0x80000, USED = 0x98000, TABLE = 0x110000, BUF = 0x180000 };

static struct gmem mem;
static struct vring q;

static int make_memory(void **state)
{
	(void)state;
	mem = (struct gmem){
		.n = 2,
		.size = LOW_BYTES + HIGH_BYTES,
		.file_fd = -1,
		.region = { { .gpa = 0, .size = LOW_BYTES, .hva = aligned_alloc(4096, LOW_BYTES) },
			    { .gpa = HIGH_GPA, .size = HIGH_BYTES, .hva = aligned_alloc(4096, HIGH_BYTES) } },
	};
	return mem.region[0].hva && mem.region[1].hva ? 0 : -1;
}

static int free_memory(void **state)
{
	(void)state;
	free(mem.region[0].hva);
	free(mem.region[1].hva);
	return 0;
}

static int reset(void **state)
{
	(void)state;
	memset(mem.region[0].hva, 0, LOW_BYTES);
	memset(mem.region[1].hva, 0, HIGH_BYTES);
	q = (struct vring){};
	return 0;
}

static int finish(void **state)
{
	(void)state;
	vring_deactivate(&q);
	return 0;
}

static void put16(uint64_t gpa, uint16_t v)
{
	memcpy(mem.region[0].hva + gpa, &v, sizeof(v));
}

static uint16_t get16(uint64_t gpa)
{
	uint16_t v;

	memcpy(&v, mem.region[0].hva + gpa, sizeof(v));
	return v;
}

static uint32_t get32(uint64_t gpa)
{
	uint32_t v;

	memcpy(&v, mem.region[0].hva + gpa, sizeof(v));
	return v;
}

static void put_desc(uint64_t table, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t *d = mem.region[0].hva + table + 16ULL * i;

	memcpy(d, &addr, 8);
	memcpy(d + 8, &len, 4);
	memcpy(d + 12, &flags, 2);
	memcpy(d + 14, &next, 2);
}

static uint16_t avail_idx;

/* The driver offers a chain. */
static void offer(uint16_t head)
{
	put16(AVAIL + 4 + 2ULL * (avail_idx & (q.s.size - 1)), head);
	put16(AVAIL + 2, ++avail_idx);
}

static int activate(uint16_t size, uint64_t features)
{
	q.s = (struct vring_state){
		.max_size = VRING_SIZE_MAX,
		.size = size,
		.ready = true,
		.desc_table = DESC,
		.avail_ring = AVAIL,
		.used_ring = USED,
	};
	avail_idx = get16(USED + 2);
	put16(AVAIL + 2, avail_idx);
	return vring_activate(&q, &mem, features);
}

static void pops(struct chain *c)
{
	assert_int_equal(vring_pop(&q, &mem, c), 1);
}

static void direct_chain(void **state)
{
	struct chain c = {};

	(void)state;
	assert_int_equal(activate(8, 0), 0);
	assert_int_equal(vring_pop(&q, &mem, &c), 0);
	put_desc(DESC, 5, BUF, 16, NEXT, 2);
	put_desc(DESC, 2, HIGH_GPA + 64, 512, NEXT, 7);
	put_desc(DESC, 7, BUF + 4096, 1, WRITE, 0);
	offer(5);
	pops(&c);
	assert_int_equal(c.head, 5);
	assert_int_equal(c.n_read, 2);
	assert_int_equal(c.n_write, 1);
	assert_ptr_equal(c.iov[0].iov_base, mem.region[0].hva + BUF);
	assert_int_equal(c.iov[0].iov_len, 16);
	assert_ptr_equal(c.iov[1].iov_base, mem.region[1].hva + 64);
	assert_int_equal(c.iov[1].iov_len, 512);
	assert_ptr_equal(c.iov[2].iov_base, mem.region[0].hva + BUF + 4096);
	assert_int_equal(c.iov[2].iov_len, 1);
	assert_int_equal(vring_pop(&q, &mem, &c), 0);
	vring_push(&q, c.head, 77);
	assert_int_equal(get16(USED + 2), 1);
	assert_int_equal(get32(USED + 4), 5);
	assert_int_equal(get32(USED + 8), 77);
}

static void inactive_queue(void **state)
{
	struct chain c;

	(void)state;
	assert_int_equal(vring_pop(&q, &mem, &c), 0);
	assert_false(vring_rearm(&q));
	assert_false(vring_needs_interrupt(&q));
	assert_int_equal(activate(8, F_EVENT), 0);
	offer(0);
	vring_deactivate(&q);
	assert_int_equal(vring_pop(&q, &mem, &c), 0);
	assert_false(vring_rearm(&q));
	assert_false(vring_needs_interrupt(&q));
	vring_deactivate(&q);
}

/* One descriptor, or two with `next`, that must break the ring. */
static void bad_chains(void **state)
{
	static const struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
		int ret;
	} cases[] = {
		{ LOW_BYTES - 16, 16, 0, 0, 1 },       /* up to the last byte */
		{ LOW_BYTES - 16, 17, 0, 0, -EPROTO }, /* into the hole */
		{ LOW_BYTES, 1, 0, 0, -EPROTO },
		{ 0xc0000000, 4096, WRITE, 0, -EPROTO },
		{ HIGH_GPA - 1, 2, 0, 0, -EPROTO }, /* from the hole */
		{ HIGH_GPA, HIGH_BYTES, 0, 0, 1 },
		{ HIGH_GPA, HIGH_BYTES + 1, 0, 0, -EPROTO },
		{ HIGH_GPA + HIGH_BYTES, 1, 0, 0, -EPROTO },
		{ UINT64_MAX, 1, 0, 0, -EPROTO },
		{ UINT64_MAX - 15, 16, 0, 0, -EPROTO }, /* ends at 2^64 */
		{ UINT64_MAX - 15, 32, 0, 0, -EPROTO }, /* wraps to RAM */
		{ BUF, UINT32_MAX, 0, 0, -EPROTO },
		{ 0, LOW_BYTES, 0, 0, 1 },
		{ BUF, 16, NEXT, 8, -EPROTO }, /* next beyond the table */
		{ BUF, 16, NEXT, 0xffff, -EPROTO },
		{ BUF, 16, NEXT, 0, -EPROTO },         /* itself: a loop */
		{ BUF, 16, NEXT, 1, -EPROTO },         /* a loop of two */
		{ BUF, 16, WRITE | NEXT, 2, -EPROTO }, /* readable after writable */
		{ BUF, 16, NEXT, 2, 1 },
		{ TABLE, 16, INDIRECT, 0, -EPROTO }, /* without the feature */
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct chain c = { .head = 0xabcd };
		reset(state);
		assert_int_equal(activate(8, 0), 0);
		put_desc(DESC, 0, cases[i].addr, cases[i].len, cases[i].flags, cases[i].next);
		put_desc(DESC, 1, BUF, 16, NEXT, 0);
		put_desc(DESC, 2, BUF, 16, 0, 0);
		offer(0);
		int r = vring_pop(&q, &mem, &c);
		if (r != cases[i].ret)
			fail_msg("case %zu: got %d, expected %d", i, r, cases[i].ret);
		assert_int_equal(c.head, r == 1 ? 0 : 0xabcd); /* untouched on failure */
		vring_deactivate(&q);
	}
}

static void bad_heads(void **state)
{
	struct chain c;

	(void)state;
	assert_int_equal(activate(8, 0), 0);
	offer(8);
	assert_int_equal(vring_pop(&q, &mem, &c), -EPROTO);
	assert_int_equal(vring_pop(&q, &mem, &c), -EPROTO); /* it stays broken */
	vring_deactivate(&q);
	assert_int_equal(activate(8, 0), 0);
	offer(0xffff);
	assert_int_equal(vring_pop(&q, &mem, &c), -EPROTO);
}

static void indirect_chain(void **state)
{
	struct chain c;

	(void)state;
	assert_int_equal(activate(4, F_INDIRECT), 0);
	put_desc(DESC, 1, BUF, 8, NEXT, 3); /* a direct one before it is fine */
	put_desc(DESC, 3, TABLE, 3 * 16, INDIRECT, 0);
	put_desc(TABLE, 0, BUF + 100, 10, NEXT, 2);
	put_desc(TABLE, 2, BUF + 200, 20, NEXT | WRITE, 1);
	put_desc(TABLE, 1, BUF + 300, 30, WRITE, 0);
	offer(1);
	pops(&c);
	assert_int_equal(c.head, 1);
	assert_int_equal(c.n_read, 2);
	assert_int_equal(c.n_write, 2);
	assert_ptr_equal(c.iov[0].iov_base, mem.region[0].hva + BUF);
	assert_ptr_equal(c.iov[1].iov_base, mem.region[0].hva + BUF + 100);
	assert_ptr_equal(c.iov[3].iov_base, mem.region[0].hva + BUF + 300);
	assert_int_equal(iov_bytes(c.iov, 4), 8 + 10 + 20 + 30);
}

static void bad_indirect_chains(void **state)
{
	static const struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, inner_flags, inner_next;
		int ret;
	} cases[] = {
		{ TABLE, 32, INDIRECT, NEXT, 1, 1 },
		{ TABLE, 32, INDIRECT | WRITE, NEXT, 1, 1 }, /* 2.7.5.3.2: WRITE is ignored there */
		{ TABLE, 32, INDIRECT | NEXT, 0, 0, -EPROTO },
		{ TABLE, 0, INDIRECT, 0, 0, -EPROTO },
		{ TABLE, 24, INDIRECT, 0, 0, -EPROTO },
		{ TABLE, 15, INDIRECT, 0, 0, -EPROTO },
		{ TABLE, 32, INDIRECT, INDIRECT, 0, -EPROTO }, /* nested */
		{ TABLE, 32, INDIRECT, NEXT, 2, -EPROTO },     /* beyond the inner table, inside the outer */
		{ TABLE, 32, INDIRECT, NEXT, 0, -EPROTO },     /* loop */
		{ LOW_BYTES - 16, 32, INDIRECT, 0, 0, -EPROTO },
		{ UINT64_MAX - 15, 32, INDIRECT, 0, 0, -EPROTO },
		{ 0xc0000000, 32, INDIRECT, 0, 0, -EPROTO },
		{ TABLE, (VRING_SIZE_MAX + 1) * 16, INDIRECT, 0, 0, -EPROTO }, /* longer than any chain */
		{ TABLE, 0xfffffff0, INDIRECT, 0, 0, -EPROTO },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct chain c;
		reset(state);
		assert_int_equal(activate(8, F_INDIRECT), 0);
		put_desc(DESC, 0, cases[i].addr, cases[i].len, cases[i].flags, 1);
		put_desc(DESC, 1, BUF, 16, 0, 0);
		put_desc(TABLE, 0, BUF, 16, cases[i].inner_flags, cases[i].inner_next);
		put_desc(TABLE, 1, BUF, 16, 0, 0);
		put_desc(TABLE, 2, BUF, 16, 0, 0);
		offer(0);
		int r = vring_pop(&q, &mem, &c);
		if (r != cases[i].ret)
			fail_msg("case %zu: got %d, expected %d", i, r, cases[i].ret);
		vring_deactivate(&q);
	}
}

/* A chain may be as long as the queue, whichever way it is written, and not longer. */
static void longest_chains(void **state)
{
	static const uint16_t sizes[] = { 1, 2, 4, 256, 4096, 32768 };
	struct chain c;

	for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
		unsigned n = sizes[k];
		reset(state);
		assert_int_equal(activate((uint16_t)n, F_INDIRECT), 0);
		for (unsigned i = 0; i < n; i++)
			put_desc(DESC, i, BUF + i, 1, (uint16_t)((i + 1 < n ? NEXT : 0) | (i >= n / 2 ? WRITE : 0)),
				 (uint16_t)(i + 1));
		offer(0);
		pops(&c);
		assert_int_equal(c.n_read + c.n_write, n);
		assert_int_equal(c.n_read, n / 2);
		assert_ptr_equal(c.iov[n - 1].iov_base, mem.region[0].hva + BUF + n - 1);
		c.iov[n].iov_len = 1; /* the promised room for one more */
		vring_deactivate(&q);
	}
	for (unsigned extra = 0; extra < 2; extra++) { /* an indirect table of the queue's size, and one more */
		reset(state);
		assert_int_equal(activate(8, F_INDIRECT), 0);
		put_desc(DESC, 0, TABLE, (8 + extra) * 16, INDIRECT, 0);
		for (unsigned i = 0; i < 8 + extra; i++)
			put_desc(TABLE, i, BUF, 1, i + 1 < 8 + extra ? NEXT : 0, (uint16_t)(i + 1));
		offer(0);
		assert_int_equal(vring_pop(&q, &mem, &c), extra ? -EPROTO : 1);
		vring_deactivate(&q);
	}
}

static void activation_checks(void **state)
{
	static const struct {
		uint16_t max_size, size;
		uint64_t desc, avail, used;
		int ret;
	} cases[] = {
		{ 256, 256, 0x1000, 0x2000, 0x3000, 0 },
		{ 256, 1, 0x1000, 0x2000, 0x3000, 0 },
		{ 256, 0, 0x1000, 0x2000, 0x3000, -EPROTO },
		{ 256, 3, 0x1000, 0x2000, 0x3000, -EPROTO },
		{ 256, 512, 0x1000, 0x2000, 0x3000, -EPROTO },
		{ 256, 256, 0x1008, 0x2000, 0x3000, -EPROTO },
		{ 256, 256, 0x1000, 0x2001, 0x3000, -EPROTO },
		{ 256, 256, 0x1000, 0x2002, 0x3000, 0 },
		{ 256, 256, 0x1000, 0x2000, 0x3002, -EPROTO },
		{ 256, 256, 0x1000, 0x2000, 0x3004, 0 },
		{ 256, 256, LOW_BYTES - 4096, 0x2000, 0x3000, 0 },
		{ 256, 256, LOW_BYTES - 4080, 0x2000, 0x3000, -EPROTO },
		{ 256, 256, 0x1000, LOW_BYTES - 518, 0x3000, 0 },
		{ 256, 256, 0x1000, LOW_BYTES - 516, 0x3000, -EPROTO },
		{ 256, 256, 0x1000, 0x2000, LOW_BYTES - 2056, 0 },
		{ 256, 256, 0x1000, 0x2000, LOW_BYTES - 2052, -EPROTO },
		{ 256, 256, 0x80000000, 0x2000, 0x3000, -EPROTO },
		{ 256, 256, UINT64_MAX - 15, 0x2000, 0x3000, -EPROTO },
		{ 32768, 32768, HIGH_GPA, 0x2000, 0x80000, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		reset(state);
		q.s = (struct vring_state){ cases[i].max_size, cases[i].size,  true,
					    cases[i].desc,     cases[i].avail, cases[i].used };
		int r = vring_activate(&q, &mem, 0);
		if (r != cases[i].ret)
			fail_msg("case %zu: got %d, expected %d", i, r, cases[i].ret);
		if (r < 0)
			assert_null(q.desc);
		vring_deactivate(&q);
	}
}

static void avail_index_jumps(void **state)
{
	struct chain c;

	(void)state;
	assert_int_equal(activate(8, 0), 0);
	put_desc(DESC, 0, BUF, 16, 0, 0);
	put16(AVAIL + 2, 8);
	pops(&c);
	put16(AVAIL + 2, 10); /* 9 pending of 8 */
	assert_int_equal(vring_pop(&q, &mem, &c), -EPROTO);
	put16(AVAIL + 2, 0); /* backwards */
	assert_int_equal(vring_pop(&q, &mem, &c), -EPROTO);
	put16(AVAIL + 2, 9);
	pops(&c);
}

/* A restored queue goes on at the used index in RAM; indices wrap at 2^16, slots at the size. */
static void indices_wrap(void **state)
{
	struct chain c;

	(void)state;
	put16(USED + 2, 65534);
	assert_int_equal(activate(4, 0), 0);
	assert_int_equal(q.next_avail, 65534);
	for (unsigned i = 0; i < 8; i++) {
		uint16_t head = (uint16_t)(i * 3 % 4), slot = (uint16_t)(65534 + i) % 4;
		put_desc(DESC, head, BUF + i, 1, 0, 0);
		offer(head);
		pops(&c);
		assert_int_equal(c.head, head);
		assert_ptr_equal(c.iov[0].iov_base, mem.region[0].hva + BUF + i);
		vring_push(&q, c.head, i);
		assert_int_equal(get16(USED + 2), (uint16_t)(65534 + i + 1));
		assert_int_equal(get32(USED + 4 + 8ULL * slot), head);
		assert_int_equal(get32(USED + 8 + 8ULL * slot), i);
		assert_int_equal(vring_pop(&q, &mem, &c), 0);
	}
}

static void unpop(void **state)
{
	struct chain c;

	(void)state;
	assert_int_equal(activate(4, 0), 0);
	put_desc(DESC, 2, BUF, 5, 0, 0);
	put_desc(DESC, 3, BUF, 6, 0, 0);
	offer(2);
	offer(3);
	pops(&c);
	vring_unpop(&q);
	assert_true(vring_rearm(&q));
	pops(&c);
	assert_int_equal(c.head, 2);
	pops(&c);
	assert_int_equal(c.head, 3);
	assert_int_equal(c.iov[0].iov_len, 6);
}

static void rearm(void **state)
{
	struct chain c;
	enum { AVAIL_EVENT = USED + 4 + 8 * 4 };

	for (unsigned event = 0; event < 2; event++) {
		reset(state);
		assert_int_equal(activate(4, event ? F_EVENT : 0), 0);
		put16(AVAIL_EVENT, 0x5555);
		put_desc(DESC, 0, BUF, 5, 0, 0);
		offer(0);
		pops(&c);
		assert_false(vring_rearm(&q));
		assert_int_equal(get16(AVAIL_EVENT), event ? 1 : 0x5555);
		offer(0); /* came between the last pop and the rearm */
		assert_true(vring_rearm(&q));
		assert_int_equal(get16(AVAIL_EVENT), event ? 1 : 0x5555);
		pops(&c);
		assert_false(vring_rearm(&q));
		assert_int_equal(get16(AVAIL_EVENT), event ? 2 : 0x5555);
		vring_deactivate(&q);
	}
}

static void interrupts_without_event_index(void **state)
{
	(void)state;
	assert_int_equal(activate(4, 0), 0);
	vring_push(&q, 0, 0);
	assert_true(vring_needs_interrupt(&q));
	put16(AVAIL, 1); /* VIRTQ_AVAIL_F_NO_INTERRUPT */
	vring_push(&q, 0, 0);
	assert_false(vring_needs_interrupt(&q));
	put16(AVAIL, 0xfffe);
	assert_true(vring_needs_interrupt(&q));
}

/* used_event against the used index before and after: 2.7.7.2, also where both wrap. */
static void interrupts_with_event_index(void **state)
{
	static const struct {
		uint16_t start, pushed, event;
		bool wanted;
	} cases[] = {
		{ 0, 1, 0, true },         { 0, 1, 1, false },      { 0, 3, 2, true },
		{ 0, 3, 3, false },        { 0, 3, 0xffff, false }, { 100, 1, 99, false },
		{ 100, 1, 100, true },     { 100, 4, 103, true },   { 100, 4, 104, false },
		{ 65535, 1, 65535, true }, { 65535, 1, 0, false },  { 65535, 2, 0, true },
		{ 65533, 4, 0, true },     { 65533, 4, 1, false },  { 65533, 4, 65532, false },
		{ 65533, 3, 65535, true },
	};
	enum { USED_EVENT = AVAIL + 4 + 2 * 8 };

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		reset(state);
		put16(USED + 2, (uint16_t)(cases[i].start - 1));
		assert_int_equal(activate(8, F_EVENT), 0);
		put16(AVAIL, 1); /* the flag means nothing with the event index */
		put16(USED_EVENT, 0x4000);
		vring_push(&q, 0, 0);
		assert_true(vring_needs_interrupt(&q));  /* the first: nothing is known of the driver */
		assert_false(vring_needs_interrupt(&q)); /* nothing new */
		put16(USED_EVENT, cases[i].event);
		for (unsigned n = 0; n < cases[i].pushed; n++)
			vring_push(&q, 0, 0);
		bool wanted = vring_needs_interrupt(&q);
		if (wanted != cases[i].wanted)
			fail_msg("case %zu: got %d", i, wanted);
		assert_false(vring_needs_interrupt(&q));
		vring_deactivate(&q);
		assert_int_equal(vring_activate(&q, &mem, F_EVENT), 0);
		assert_true(vring_needs_interrupt(&q)); /* activated anew: as at first */
		vring_deactivate(&q);
	}
}

static uint64_t seed = 0x243f6a8885a308d3;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static bool in_ram(const struct iovec *v)
{
	uintptr_t at = (uintptr_t)v->iov_base;

	for (unsigned i = 0; i < mem.n; i++) {
		uintptr_t base = (uintptr_t)mem.region[i].hva, end = base + mem.region[i].size;
		if (at >= base && at <= end && v->iov_len <= end - at)
			return true;
	}
	return false;
}

/* Addresses near every border, lengths of every magnitude. */
static uint64_t hostile_address(void)
{
	static const uint64_t bases[] = { 0, BUF, TABLE, LOW_BYTES, HIGH_GPA, HIGH_GPA + HIGH_BYTES, 0xc0000000, 0 };

	return bases[rnd() % ARRAY_LEN(bases)] + (rnd() % 3 ? rnd() % 64 : 0 - rnd() % 64);
}

static void scribble(unsigned size)
{
	uint64_t table = rnd() % 2 ? DESC : TABLE;
	uint32_t len = rnd() % 4 ? (uint32_t)(rnd() % 8) * 16 : (uint32_t)(rnd() >> (32 + rnd() % 32));

	put_desc(table, (unsigned)(rnd() % size), hostile_address(), len, rnd() % 8 ? rnd() % 8 : (uint16_t)rnd(),
		 rnd() % 8 ? (uint16_t)(rnd() % size) : (uint16_t)rnd());
	if (rnd() % 4 == 0)
		put16(AVAIL + 4 + 2 * (rnd() % size), rnd() % 8 ? (uint16_t)(rnd() % size) : (uint16_t)rnd());
	if (rnd() % 64 == 0)
		put16(AVAIL + 2, (uint16_t)rnd());
}

static void random_rings_stay_in_ram(void **state)
{
	unsigned good = 0, segments = 0, bad = 0;

	(void)state;
	for (unsigned round = 0; round < 400; round++) {
		unsigned size = 1U << rnd() % 7;
		assert_int_equal(activate((uint16_t)size, rnd() % 4 ? F_INDIRECT | F_EVENT : 0), 0);
		for (unsigned step = 0; step < 200; step++) {
			struct chain c;
			scribble(size);
			offer((uint16_t)(rnd() % size));
			int r = vring_pop(&q, &mem, &c);
			if (r < 0) {
				assert_int_equal(r, -EPROTO);
				bad++;
				put16(AVAIL + 2, avail_idx = q.next_avail);
				continue;
			}
			if (r == 0)
				continue;
			good++;
			segments += c.n_read + c.n_write;
			assert_true(c.n_read + c.n_write <= size && c.n_read + c.n_write > 0);
			for (unsigned i = 0; i < c.n_read + c.n_write; i++)
				assert_true(in_ram(&c.iov[i]));
			vring_push(&q, c.head, 1);
			(void)vring_needs_interrupt(&q);
			(void)vring_rearm(&q);
		}
		vring_deactivate(&q);
	}
	assert_true(good > 5000 && bad > 5000 && segments > good); /* both ways were taken often */
}

static void iov_copies(void **state)
{
	char a[3] = "abc", b[1] = "d", c[4] = "efgh", out[16];
	struct iovec iov[] = { { a, 3 }, { b, 0 }, { b, 1 }, { c, 4 } };

	(void)state;
	assert_int_equal(iov_bytes(iov, 4), 8);
	assert_int_equal(iov_bytes(iov, 0), 0);
	assert_int_equal(iov_to_buf(iov, 4, 0, out, sizeof(out)), 8);
	assert_memory_equal(out, "abcdefgh", 8);
	for (size_t off = 0; off <= 9; off++) {
		for (size_t len = 0; len <= 9; len++) {
			size_t want = off >= 8 ? 0 : len < 8 - off ? len : 8 - off;
			memset(out, '.', sizeof(out));
			assert_int_equal(iov_to_buf(iov, 4, off, out, len), want);
			assert_memory_equal(out, &"abcdefgh."[off < 8 ? off : 8], want);
			assert_int_equal(out[want], '.');
		}
	}
	assert_int_equal(iov_from_buf(iov, 4, 2, "XYZ", 3), 3);
	assert_memory_equal(a, "abX", 3);
	assert_memory_equal(b, "Y", 1);
	assert_memory_equal(c, "Zfgh", 4);
	assert_int_equal(iov_from_buf(iov, 4, 7, "123", 3), 1);
	assert_memory_equal(c, "Zfg1", 4);
	assert_int_equal(iov_bytes((struct iovec[]){ { a, UINT32_MAX }, { b, UINT32_MAX } }, 2), 2ULL * UINT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(direct_chain, reset, finish),
		cmocka_unit_test_setup_teardown(inactive_queue, reset, finish),
		cmocka_unit_test_setup_teardown(bad_chains, reset, finish),
		cmocka_unit_test_setup_teardown(bad_heads, reset, finish),
		cmocka_unit_test_setup_teardown(indirect_chain, reset, finish),
		cmocka_unit_test_setup_teardown(bad_indirect_chains, reset, finish),
		cmocka_unit_test_setup_teardown(longest_chains, reset, finish),
		cmocka_unit_test_setup_teardown(activation_checks, reset, finish),
		cmocka_unit_test_setup_teardown(avail_index_jumps, reset, finish),
		cmocka_unit_test_setup_teardown(indices_wrap, reset, finish),
		cmocka_unit_test_setup_teardown(unpop, reset, finish),
		cmocka_unit_test_setup_teardown(rearm, reset, finish),
		cmocka_unit_test_setup_teardown(interrupts_without_event_index, reset, finish),
		cmocka_unit_test_setup_teardown(interrupts_with_event_index, reset, finish),
		cmocka_unit_test_setup_teardown(random_rings_stay_in_ram, reset, finish),
		cmocka_unit_test(iov_copies),
	};

	return cmocka_run_group_tests_name("vring", tests, make_memory, free_memory);
}
