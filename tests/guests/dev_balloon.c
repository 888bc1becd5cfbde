/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-balloon test: pages go into the balloon and come out again, some are reported as free. Every page has a content
 * that no snapshot has; one that was given away is zero or has it still, never anything else.
 */
#include "devices.h"

#define F_DEFLATE_ON_OOM (1ul << 2)
#define F_REPORTING (1ul << 5)
#define BATCH 256
#define REPORTS 8

static struct virtio *balloon;
static struct virtq inflate_queue, deflate_queue, report_queue;
static bool reporting, strict;
static uint64_t *pool;
static uint32_t n_pages, n_given, *generation;
static bool *given;
static uint32_t pfn[BATCH];
static uint64_t n_zero, n_kept;

static uint64_t word(uint32_t page)
{
	return mix64((uint64_t)page << 32 ^ generation[page]) | 1;
}

static void fill(uint32_t page)
{
	generation[page]++;
	uint64_t base = word(page);
	for (unsigned w = 0; w < 512; w++)
		pool[page * 512ul + w] = base + w * 2;
}

static bool has_content(uint32_t page)
{
	uint64_t base = word(page);
	for (unsigned w = 0; w < 512; w++)
		if (pool[page * 512ul + w] != base + w * 2)
			return false;
	return true;
}

static bool is_zero(uint32_t page)
{
	for (unsigned w = 0; w < 512; w++)
		if (pool[page * 512ul + w])
			return false;
	return true;
}

/* A page that is ours again. */
static void check_back(uint32_t page, const char *how)
{
	if (is_zero(page))
		n_zero++;
	else if (!strict && has_content(page))
		n_kept++;
	else
		fail("balloon: page %u came back from %s with foreign bytes: %lx %lx, expected %lx", page, how,
		     pool[page * 512ul], pool[page * 512ul + 511], word(page));
	fill(page);
}

static void send(struct virtq *q, unsigned n)
{
	uint32_t len;
	const struct seg seg = { pfn, n * 4, false };
	if (n == 0)
		return;
	virtq_add(q, &seg, 1, false, pfn);
	virtq_kick(q);
	virtq_wait(q, "balloon");
	virtq_take(q, &len);
	if (len)
		fail("balloon: %u bytes written into a list of pages", len);
}

/* Pages from a random one on, until `want` or a batch are found whose state is `from`; they get the other state. */
static unsigned choose(bool from, uint32_t want, uint64_t *random)
{
	uint32_t page = (uint32_t)(random64(random) % n_pages);
	unsigned n = 0;
	for (uint32_t i = 0; i < n_pages && n < want && n < BATCH; i++, page = (page + 1) % n_pages) {
		if (given[page] != from)
			continue;
		given[page] = !from;
		pfn[n++] = (uint32_t)((uintptr_t)pool / PAGE) + page;
	}
	n_given += from ? -n : n;
	return n;
}

static void inflate(uint32_t want, uint64_t *random)
{
	unsigned n = choose(false, want, random);
	for (unsigned i = 0; i < n; i++) /* in no order */
		if (random64(random) % 4 == 0) {
			unsigned k = (unsigned)(random64(random) % n);
			uint32_t x = pfn[i];
			pfn[i] = pfn[k];
			pfn[k] = x;
		}
	send(&inflate_queue, n);
}

static void deflate(uint32_t want, uint64_t *random)
{
	unsigned n = choose(true, want, random);
	send(&deflate_queue, n);
	for (unsigned i = 0; i < n; i++)
		check_back(pfn[i] - (uint32_t)((uintptr_t)pool / PAGE), "the balloon");
}

/* Runs of pages that are ours, of many lengths. */
static void report(uint64_t *random)
{
	struct seg segs[REPORTS];
	uint32_t first[REPORTS], count[REPORTS], len;
	unsigned n = 0;
	for (unsigned i = 0; i < REPORTS; i++) {
		uint32_t page = (uint32_t)(random64(random) % n_pages), k = 0, most = 1u << random64(random) % 8;
		for (; k < most && page + k < n_pages && !given[page + k]; k++)
			given[page + k] = true; /* not twice */
		if (k == 0)
			continue;
		first[n] = page;
		count[n] = k;
		segs[n++] = (struct seg){ pool + page * 512ul, k * (uint32_t)PAGE, true };
	}
	if (n == 0)
		return;
	virtq_add(&report_queue, segs, n, false, pool);
	virtq_kick(&report_queue);
	virtq_wait(&report_queue, "balloon report");
	virtq_take(&report_queue, &len);
	for (unsigned i = 0; i < n; i++)
		for (uint32_t k = 0; k < count[i]; k++) {
			given[first[i] + k] = false;
			check_back(first[i] + k, "a report");
		}
}

void balloon_open(struct virtio *v)
{
	balloon = v;
	n_pages = (uint32_t)(option_number("balloon", 4) * MIB / PAGE);
	strict = option_number("strict", 0);
	pool = ram_alloc(n_pages * PAGE, PAGE);
	generation = ram_alloc(n_pages * 4, 64);
	given = ram_alloc(n_pages, 64);
	for (uint32_t page = 0; page < n_pages; page++)
		fill(page);
	reporting = virtio_offered(v) & F_REPORTING;
	virtio_begin(v, F_DEFLATE_ON_OOM | F_REPORTING);
	virtq_init(&inflate_queue, v, 0, QUEUE_MAX, plan_vector(), 0);
	virtq_init(&deflate_queue, v, 1, QUEUE_MAX, plan_vector(), 0);
	if (reporting)
		virtq_init(&report_queue, v, 2, QUEUE_MAX, plan_vector(), 0);
	virtio_go(v);
	print("balloon: %u pages, queues of %u and %u, features %lx\n", n_pages, inflate_queue.size,
	      reporting ? report_queue.size : 0, v->features);
}

void balloon_round(unsigned cpu, uint64_t *random)
{
	if (cpu != 0 || !balloon)
		return;
	uint32_t wanted = (uint32_t)virtio_config(balloon, 0, 4), before = n_given;
	for (uint32_t page = 0; page < n_pages; page++) {
		if (given[page])
			continue;
		if (!has_content(page))
			fail("balloon: page %u, which was not given away, changed", page);
		if (random64(random) % 4 == 0)
			fill(page);
	}
	wanted = MIN(wanted, n_pages);
	deflate(16, random);
	while (n_given > wanted)
		deflate(n_given - wanted, random);
	while (n_given < wanted)
		inflate(wanted - n_given, random);
	if (reporting)
		report(random);
	mmio_write(balloon->config + 4, n_given, 4);
	if (n_given != before)
		print("balloon: %u pages given, back %lu zero and %lu as they were\n", n_given, n_zero, n_kept);
}
