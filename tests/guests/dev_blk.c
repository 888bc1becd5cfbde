/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk test: random requests whose every byte is known from (sector, generation), and the
 * speed figures.
 */
#include "devices.h"

#define SECTOR 512u
#define SLOTS 16        /* requests in flight per CPU, each in its own part of the disk */
#define SLOT_SECTORS 64 /* the longest request */
#define DESCS_MAX 34    /* of a request: 32 of data, header, status */
#define UNKNOWN 0xffffffffu
#define QUEUES_MAX MAX_CPUS

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xff };

#define F_RO (1ul << 5)
#define F_FLUSH (1ul << 9)
#define F_MQ (1ul << 12)
#define F_DISCARD (1ul << 13)
#define F_WRITE_ZEROES (1ul << 14)
#define F_WANTED                                                                                             \
	(1ul << 2 | 1ul << 6 | F_RO | F_FLUSH | 1ul << 10 | F_MQ | F_DISCARD | F_WRITE_ZEROES | F_INDIRECT | \
	 F_EVENT_IDX)

struct request {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	struct {
		uint64_t sector;
		uint32_t n_sectors, flags;
	} range;
	uint8_t status;
	uint8_t expect;
	uint32_t n_sectors;
	uint64_t started; /* speed mode */
	uint8_t *data;
};

struct blk {
	struct virtio *v;
	struct virtq q[QUEUES_MAX];
	unsigned n_queues;
	uint64_t capacity;
	uint64_t area;        /* sectors per CPU */
	uint32_t *generation; /* of each sector of all areas; 0: zeros */
	uint64_t generation_max;
	struct request req[MAX_CPUS][SLOTS];
	uint64_t n_done[MAX_CPUS];
	bool odd_splits, one_piece, out_of_range;
};

static struct blk *blks;
static unsigned n_blks;

static uint64_t sector_word(uint64_t sector, uint32_t generation, unsigned word)
{
	if (generation == 0)
		return 0;
	if (word == 0)
		return sector;
	if (word == 1)
		return generation;
	return mix64(sector << 32 ^ generation) + word * 0x9e3779b97f4a7c15;
}

static void sectors_fill(uint8_t *data, uint64_t sector, const uint32_t *generation, uint32_t n)
{
	for (uint32_t s = 0; s < n; s++)
		for (unsigned w = 0; w < SECTOR / 8; w++)
			((uint64_t *)(data + s * SECTOR))[w] = sector_word(sector + s, generation[s], w);
}

static void sectors_check(const uint8_t *data, uint64_t sector, const uint32_t *generation, uint32_t n)
{
	for (uint32_t s = 0; s < n; s++) {
		if (generation[s] == UNKNOWN)
			continue;
		for (unsigned w = 0; w < SECTOR / 8; w++) {
			uint64_t got = ((const uint64_t *)(data + s * SECTOR))[w];
			uint64_t expect = sector_word(sector + s, generation[s], w);
			if (got != expect)
				fail("blk sector %lu generation %u word %u: expected %lx, got %lx", sector + s,
				     generation[s], w, expect, got);
		}
	}
}

static unsigned split(const struct blk *b, struct seg *segs, struct request *r, bool write, unsigned queue_size,
		      uint64_t *random)
{
	uint32_t left = r->n_sectors * SECTOR;
	uint8_t *at = r->data;
	unsigned n = 1;
	unsigned pieces = random && !b->one_piece ? 1 + random64(random) % MIN(32u, queue_size - 2u) : 1;
	while (left) {
		uint32_t len = left;
		if (pieces > 1 && n < pieces)
			len = (uint32_t)(random64(random) % (2 * left / (pieces - n) + 1));
		if (!b->odd_splits)
			len = MIN(left, (len + SECTOR - 1) & ~(SECTOR - 1));
		if (len == 0)
			len = MIN(left, SECTOR);
		segs[n++] = (struct seg){ at, MIN(len, left), write };
		at += MIN(len, left);
		left -= MIN(len, left);
	}
	return n;
}

static void submit(struct blk *b, struct virtq *q, struct request *r, uint64_t *random)
{
	struct seg segs[SEGS_MAX] = { { &r->header, sizeof(r->header), false } };
	unsigned n = 1;
	switch (r->header.type) {
	case T_IN:
	case T_OUT:
		n = split(b, segs, r, r->header.type == T_IN, q->size, random);
		break;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		r->range.sector = r->header.sector;
		r->range.n_sectors = r->n_sectors;
		r->range.flags = 0;
		r->header.sector = 0;
		segs[n++] = (struct seg){ &r->range, sizeof(r->range), false };
		break;
	case T_GET_ID:
		segs[n++] = (struct seg){ r->data, 20, true };
		break;
	}
	r->status = S_NONE;
	segs[n++] = (struct seg){ &r->status, 1, true };
	bool indirect = random && random64(random) & 1;
	if (!virtq_add(q, segs, n, indirect, r))
		fail("blk: %u segments do not fit, %u descriptors of %u are free", n, q->n_free, q->size);
}

static void finish(struct blk *b, struct request *r, unsigned cpu)
{
	uint32_t *generation = b->generation + r->header.sector;
	uint64_t sector = r->header.sector;
	if (r->status != r->expect)
		fail("blk request type %u sector %lu count %u: expected status %u, got %u", r->header.type, sector,
		     r->n_sectors, r->expect, r->status);
	b->n_done[cpu]++;
	if (r->expect != S_OK)
		return;
	switch (r->header.type) {
	case T_IN:
		sectors_check(r->data, sector, generation, r->n_sectors);
		break;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		for (uint32_t i = 0; i < r->n_sectors; i++)
			b->generation[r->range.sector + i] = r->header.type == T_DISCARD ? UNKNOWN : 0;
		break;
	}
}

/* Which request comes next, in this slot's own sectors [first, first + count). */
static void choose(struct blk *b, struct request *r, uint64_t first, uint64_t count, uint64_t *random)
{
	uint64_t dice = random64(random) % 100;
	r->n_sectors = 1 + (uint32_t)(random64(random) % MIN(count, (uint64_t)SLOT_SECTORS));
	r->header.sector = first + random64(random) % (count - r->n_sectors + 1);
	r->expect = S_OK;
	r->header.type = T_IN;
	if (dice < 4 && b->v->features & F_FLUSH) {
		r->header.type = T_FLUSH;
		r->header.sector = 0;
	} else if (dice < 6) {
		r->header.type = T_GET_ID;
		r->header.sector = 0;
		memset(r->data, 0xee, 24);
	} else if (dice < 8 && b->out_of_range) {
		r->header.type = random64(random) & 1 && !(b->v->features & F_RO) ? T_OUT : T_IN;
		r->header.sector = random64(random) & 1 ? b->capacity - r->n_sectors + 1
							: random64(random) << (random64(random) % 40);
		if (r->header.sector + r->n_sectors <= b->capacity && r->header.sector < b->capacity)
			r->header.sector = b->capacity;
		r->expect = S_IOERR;
	} else if (b->v->features & F_RO) {
		return;
	} else if (dice < 11 && b->v->features & F_DISCARD) {
		r->header.type = T_DISCARD;
	} else if (dice < 14 && b->v->features & F_WRITE_ZEROES) {
		r->header.type = T_WRITE_ZEROES;
	} else if (dice < 56) {
		r->header.type = T_OUT;
		uint32_t *generation = b->generation + r->header.sector;
		for (uint32_t i = 0; i < r->n_sectors; i++)
			generation[i] = (generation[i] + 1) & 0x7fffffff ?: 1;
		sectors_fill(r->data, r->header.sector, generation, r->n_sectors);
	}
}

static void reap(struct blk *b, struct virtq *q, unsigned n, unsigned cpu)
{
	uint32_t len;
	while (n > 0) {
		virtq_wait(q, "blk");
		for (struct request *r; (r = virtq_take(q, &len)); n--)
			finish(b, r, cpu);
	}
}

/* Reads this CPU's whole area. */
static void check_all(struct blk *b, struct virtq *q, uint64_t first, unsigned cpu)
{
	for (uint64_t at = 0; at < b->area;) {
		unsigned n = 0;
		for (; n < SLOTS && at < b->area && q->n_free >= 3; n++) {
			struct request *r = &b->req[cpu][n];
			r->header.type = T_IN;
			r->header.sector = first + at;
			r->n_sectors = (uint32_t)MIN(b->area - at, (uint64_t)SLOT_SECTORS);
			r->expect = S_OK;
			memset(r->data, 0x5a, r->n_sectors * SECTOR);
			submit(b, q, r, NULL);
			at += r->n_sectors;
		}
		virtq_kick(q);
		reap(b, q, n, cpu);
	}
}

void blk_round(struct blk *b, unsigned cpu, uint64_t *random)
{
	if (cpu >= b->n_queues)
		return;
	struct virtq *q = &b->q[cpu];
	uint64_t first = b->area * cpu, part = b->area / SLOTS;
	for (unsigned batch = 0; batch < plan.batches; batch++) {
		unsigned n = 0, most = 1 + (unsigned)(random64(random) % SLOTS);
		for (; n < most && (n == 0 || q->n_free >= MIN(DESCS_MAX, q->size)); n++) {
			struct request *r = &b->req[cpu][n];
			choose(b, r, first + part * n, part, random);
			if (r->header.type == T_IN)
				memset(r->data, 0x5a, r->n_sectors * SECTOR);
			submit(b, q, r, random);
			if (random64(random) & 1)
				virtq_kick(q);
		}
		virtq_kick(q);
		reap(b, q, n, cpu);
	}
	check_all(b, q, first, cpu);
}

static void print_id(struct blk *b)
{
	struct request *r = &b->req[0][0];
	*r = (struct request){ .header.type = T_GET_ID, .data = r->data };
	submit(b, &b->q[0], r, NULL);
	virtq_kick(&b->q[0]);
	reap(b, &b->q[0], 1, 0);
	char id[21] = { 0 };
	for (unsigned i = 0; i < 20 && r->data[i]; i++)
		id[i] = r->data[i] >= 32 && r->data[i] < 127 ? (char)r->data[i] : '?';
	print("blk: %lu sectors, %u queues of %u, features %lx, id %s\n", b->capacity, b->n_queues, b->q[0].size,
	      b->v->features, id);
}

struct blk *blk_open(struct virtio *v)
{
	if (!blks)
		blks = ram_alloc(sizeof(*blks) * DEVS_MAX, 64);
	struct blk *b = blks;
	while (b < blks + n_blks && b->v)
		b++;
	if (b == blks + DEVS_MAX)
		fail("blk: more than %u", DEVS_MAX);
	n_blks = MAX(n_blks, (unsigned)(b - blks) + 1);
	b->v = v;
	virtio_begin(v, F_WANTED);
	b->odd_splits = option_is("split", "odd");
	b->one_piece = option_is("split", "none");
	b->out_of_range = option_number("bad", 1);
	b->capacity = virtio_config(v, 0, 8);
	b->n_queues = v->features & F_MQ ? MIN((unsigned)virtio_config(v, 34, 2), QUEUES_MAX) : 1;
	b->n_queues = MIN(b->n_queues, plan.n_cpus);
	for (uint16_t i = 0; i < b->n_queues; i++)
		virtq_init(&b->q[i], v, i, QUEUE_MAX, plan_vector(), i);
	virtio_go(v);
	b->area = MIN(b->capacity / b->n_queues, option_number("sectors", 4096));
	if (b->area < SLOTS)
		fail("blk: %lu sectors are too few", b->capacity);
	if (b->area * b->n_queues > b->generation_max) {
		b->generation_max = b->area * b->n_queues;
		b->generation = ram_alloc(b->generation_max * sizeof(uint32_t), 64);
	}
	memset(b->generation, 0xff, b->area * b->n_queues * sizeof(uint32_t));
	for (unsigned cpu = 0; cpu < b->n_queues; cpu++)
		for (unsigned slot = 0; slot < SLOTS; slot++)
			b->req[cpu][slot].data = b->req[cpu][slot].data ?: ram_alloc(SLOT_SECTORS * SECTOR, PAGE);
	print_id(b);
	return b;
}

void blk_close(struct blk *b)
{
	virtio_reset(b->v);
	b->v = NULL;
}

/*
 * One figure: 4 KiB requests for `secs` seconds of TSC time, or `count` of them. Sequential ones are `kib`
 * KiB apart.
 */
static void speed_one(struct blk *b, uint32_t type, bool sequential, unsigned depth, uint32_t *sample, unsigned max)
{
	struct virtq *q = &b->q[0];
	uint64_t blocks = b->capacity / 8, step = option_number("kib", 4) / 4, next = 0, random = 1, n = 0;
	uint64_t left = option_number("count", 0) ?: UINT64_MAX;
	uint64_t start = rdtsc(), stop = start + ns_to_cycles(option_number("secs", 1) * 1000000000);
	unsigned in_flight = 0;
	if (left != UINT64_MAX)
		stop = UINT64_MAX;
	while ((rdtsc() < stop && left > 0) || in_flight) {
		while (in_flight < depth && rdtsc() < stop && left > 0) {
			struct request *r = &b->req[0][0];
			for (unsigned i = 0; i < SLOTS && r->started; i++)
				r = &b->req[0][i];
			r->header.type = type;
			r->header.sector = (sequential ? next++ * step % blocks : random64(&random) % blocks) * 8;
			left--;
			r->n_sectors = 8;
			r->started = rdtsc();
			submit(b, q, r, NULL);
			in_flight++;
			virtq_kick(q);
		}
		virtq_wait(q, "blk speed");
		uint32_t len;
		for (struct request *r; (r = virtq_take(q, &len)); in_flight--) {
			if (r->status != S_OK)
				fail("blk speed: status %u", r->status);
			sample[n++ % max] = (uint32_t)cycles_to_ns(rdtsc() - r->started);
			r->started = 0;
		}
	}
	uint64_t ns = cycles_to_ns(rdtsc() - start);
	print("speed blk %s %s qd %u: %lu iops, p50 %u ns\n", sequential ? "sequential" : "random",
	      type == T_IN ? "read" : "write", depth, n * 1000000 / (ns / 1000),
	      median(sample, (unsigned)MIN(n, (uint64_t)max)));
}

void blk_speed(struct blk *b)
{
	unsigned max = 65536;
	uint32_t *sample = ram_alloc(max * sizeof(*sample), 64);
	for (unsigned slot = 0; slot < SLOTS; slot++)
		b->req[0][slot].started = 0;
	uint64_t only = option_number("only", 8);
	for (unsigned i = 0; i < 8; i++) {
		if ((only < 8 && i != only) || (i & 1 && b->v->features & F_RO))
			continue;
		speed_one(b, i & 1 ? T_OUT : T_IN, i < 4, i & 2 ? 16 : 1, sample, max);
	}
}
