// SPDX-License-Identifier: Apache-2.0
/* vmm/gmem: the split at the hole, every border of gmem_ptr(), and the two kinds of mapping. */
#include "vmm/core/gmem.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#define GIB (1ULL << 30)
#define LOW_END 0xc0000000ULL
#define HIGH 0x100000000ULL

static void layout_at_the_hole(void **state)
{
	static const struct {
		uint64_t size, low, high;
	} cases[] = {
		{ 4096, 4096, 0 },
		{ 128 << 20, 128 << 20, 0 },
		{ LOW_END - 4096, LOW_END - 4096, 0 },
		{ LOW_END, LOW_END, 0 },
		{ LOW_END + 4096, LOW_END, 4096 },
		{ 4 * GIB, LOW_END, GIB },
		{ 1024 * GIB, LOW_END, 1021 * GIB },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct gmem m;
		gmem_layout(&m, cases[i].size, LOW_END, HIGH);
		assert_int_equal(m.size, cases[i].size);
		assert_int_equal(m.file_fd, -1);
		assert_int_equal(m.n, cases[i].high ? 2 : 1);
		assert_int_equal(m.region[0].gpa, 0);
		assert_int_equal(m.region[0].size, cases[i].low);
		assert_int_equal(m.region[0].file_offset, 0);
		if (cases[i].high) {
			assert_int_equal(m.region[1].gpa, HIGH);
			assert_int_equal(m.region[1].size, cases[i].high);
			assert_int_equal(m.region[1].file_offset, cases[i].low);
		}
	}
}

/* hva are invented: nothing here is followed. */
static void pointer_at_every_border(void **state)
{
	static const struct {
		uint64_t gpa, len;
		uintptr_t hva;
	} cases[] = {
		{ 0, 0, 0x1000000 },
		{ 0, 1, 0x1000000 },
		{ 0, 0x10000, 0x1000000 },
		{ 0, 0x10001, 0 },
		{ 0xffff, 1, 0x100ffff },
		{ 0xffff, 2, 0 },
		{ 0x10000, 0, 0x1010000 },
		{ 0x10000, 1, 0 },
		{ 0x10001, 0, 0 },
		{ HIGH - 1, 0, 0 },
		{ HIGH - 1, 1, 0 },
		{ HIGH - 1, 2, 0 },
		{ HIGH, 0, 0x9000000 },
		{ HIGH, 1, 0x9000000 },
		{ HIGH, 0x8000, 0x9000000 },
		{ HIGH, 0x8001, 0 },
		{ HIGH + 0x7fff, 1, 0x9007fff },
		{ HIGH + 0x8000, 0, 0x9008000 },
		{ HIGH + 0x8000, 1, 0 },
		{ 0, UINT64_MAX, 0 },
		{ 1, UINT64_MAX, 0 },
		{ UINT64_MAX, 1, 0 },
		{ UINT64_MAX, 2, 0 },
		{ HIGH + 16, UINT64_MAX - 15, 0 },
		{ 0, HIGH + 0x8000, 0 },
	};
	const struct gmem m = {
		.n = 2,
		.region = { { .gpa = 0, .size = 0x10000, .hva = (uint8_t *)0x1000000 },
			    { .gpa = HIGH, .size = 0x8000, .hva = (uint8_t *)0x9000000 } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		if (gmem_ptr(&m, cases[i].gpa, cases[i].len) != (void *)cases[i].hva)
			fail_msg("0x%llx+0x%llx: wrong pointer", (unsigned long long)cases[i].gpa,
				 (unsigned long long)cases[i].len);
	assert_null(gmem_ptr(&(struct gmem){}, 0, 0));
}

/* Else KVM maps a guest that has huge pages of the host's by 4 KiB: the host's and the guest's address differ in the low 21 bits. */
static void assert_huge_pages_fit(const struct gmem *m)
{
	for (unsigned i = 0; i < m->n; i++)
		assert_int_equal(((uintptr_t)m->region[i].hva - m->region[i].gpa) % (2 << 20), 0);
}

static void anonymous_memory(void **state)
{
	struct err err = {};
	struct gmem m;

	(void)state;
	gmem_layout(&m, 0x30000, 0x20000, HIGH);
	assert_int_equal(gmem_map_anon(&m, true, false, &err), 0);
	assert_int_equal(m.backing, GMEM_ANON);
	assert_huge_pages_fit(&m);
	for (unsigned i = 0; i < m.size; i += 4096)
		assert_int_equal(*(uint8_t *)gmem_ptr(&m, i < 0x20000 ? i : HIGH + i - 0x20000, 4096), 0);
	assert_int_equal(gmem_write(&m, 0x1fffe, "xy", 2, "text", &err), 0);
	assert_memory_equal(m.region[0].hva + 0x1fffe, "xy", 2);
	assert_int_equal(gmem_write(&m, 0x1fffe, "xyz", 3, "text", &err), -EINVAL);
	assert_string_equal(err.msg, "text: 3 bytes at 0x1fffe do not fit in guest RAM of 196608 bytes");
	assert_int_equal(m.region[1].hva[0], 0);
	assert_int_equal(gmem_prefault(&m, &err), 0);
	unsigned char resident[0x20];
	assert_int_equal(mincore(m.region[0].hva, 0x20000, resident), 0);
	for (size_t i = 0; i < ARRAY_LEN(resident); i++)
		assert_true(resident[i] & 1);
	gmem_unmap(&m);
	assert_int_equal(m.n, 0);
	gmem_unmap(&m);
}

/* Writes stay in the mapping; the second region begins where the first ends in the file. */
static void copy_on_write(void **state)
{
	int fd = unit_file();
	struct err err = {};
	struct gmem m;
	char byte;

	(void)state;
	gmem_layout(&m, 0x3000, 0x2000, HIGH);
	assert_int_equal(ftruncate(fd, 0x3000), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pwrite(fd, &"abc"[i], 1, i * 0x1000), 1);
	autoclose int mine = dup(fd);
	assert_int_equal(gmem_map_cow(&m, &fd, &err), 0);
	assert_int_equal(fd, -1);
	assert_int_equal(m.backing, GMEM_FILE_COW);
	assert_huge_pages_fit(&m);
	assert_true(m.file_fd >= 0);
	assert_int_equal(m.region[0].hva[0], 'a');
	assert_int_equal(m.region[0].hva[0x1000], 'b');
	assert_int_equal(m.region[1].hva[0], 'c');
	m.region[1].hva[0] = 'X';
	assert_int_equal(pread(mine, &byte, 1, 0x2000), 1);
	assert_int_equal(byte, 'c');
	int owned = m.file_fd;
	gmem_unmap(&m);
	assert_int_equal(fcntl(owned, F_GETFD), -1);

	gmem_layout(&m, 0x3000, 0x2000, HIGH);
	autoclose int dir = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int given = dir;
	assert_int_equal(gmem_map_cow(&m, &given, &err), -ENODEV);
	assert_int_equal(given, dir); /* not taken on failure */
	assert_non_null(strstr(err.msg, "map 8192 bytes of guest RAM at 0x0"));
	gmem_unmap(&m);
}

/* Every page: zero where `gone` says so, else as it was. */
static void check_pages(const struct gmem *m, const bool *gone, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *p = m->region[0].hva + i * 0x1000UL;
		if (p[0] != (gone[i] ? 0 : 'x') || p[0xfff] != (gone[i] ? 0 : 'x'))
			fail_msg("page %u: %02x %02x", i, p[0], p[0xfff]);
	}
}

/* Runs as gmem_replaced_run() lists them, against a plain count. */
static void check_runs(const struct gmem *m, const bool *gone, unsigned n)
{
	uint64_t end;
	unsigned runs = 0;
	bool replaced;

	for (uint64_t at = 0; at < n; at = end) {
		end = gmem_replaced_run(m, at, &replaced);
		runs += replaced;
		assert_true(end > at && end <= n);
		for (uint64_t i = at; i < end; i++)
			assert_int_equal(gone[i], replaced);
		assert_true(end == n || gone[end] != replaced);
	}
	assert_int_equal(runs, m->n_replaced_runs);
}

enum { DISCARD_PAGES = 700 };

static void discard_at_random(bool refills)
{
	static bool gone[DISCARD_PAGES];
	int fd = unit_file();
	struct err err = {};
	struct gmem m;
	char page[0x1000];

	memset(gone, 0, sizeof(gone));
	memset(page, 'x', sizeof(page));
	for (unsigned i = 0; i < DISCARD_PAGES; i++)
		assert_int_equal(pwrite(fd, page, sizeof(page), i * 0x1000), sizeof(page));
	gmem_layout(&m, DISCARD_PAGES * 0x1000, 1 << 30, HIGH);
	if (refills) {
		assert_int_equal(gmem_map_cow(&m, &fd, &err), 0);
	} else {
		assert_int_equal(gmem_map_anon(&m, false, false, &err), 0);
		memset(m.region[0].hva, 'x', m.size);
		close(fd);
	}
	uint32_t random = 1;
	for (unsigned round = 0; round < 200; round++) {
		random = random * 1664525 + 1013904223;
		unsigned first = (random >> 8) % DISCARD_PAGES, len = 1 + (random >> 24) % (round % 10 ? 5 : 90);
		if (len > DISCARD_PAGES - first)
			len = DISCARD_PAGES - first;
		memset(m.region[0].hva + first * 0x1000UL, 'y', 0x1000); /* the guest's own page by now */
		/* bytes that are no whole page do not count */
		assert_true(gmem_discard(&m, m.region[0].hva + first * 0x1000UL - (first > 0),
					 len * 0x1000UL + (first > 0)));
		memset(gone + first, true, len);
		if (refills)
			check_runs(&m, gone, DISCARD_PAGES);
	}
	unsigned char resident;
	for (unsigned i = 0; i < DISCARD_PAGES; i++) { /* the host has them back */
		assert_int_equal(mincore(m.region[0].hva + i * 0x1000UL, 0x1000, &resident), 0);
		assert_false(gone[i] && (resident & 1));
	}
	check_pages(&m, gone, DISCARD_PAGES);
	assert_true(gmem_discard(&m, m.region[0].hva + 5, 0x1000));
	assert_false(gmem_discard(&m, m.region[0].hva + m.size - 0x1000, 0x1001));
	assert_false(gmem_discard(&m, m.region[0].hva - 0x1000, 0x2000));
	check_pages(&m, gone, DISCARD_PAGES);
	gmem_unmap(&m);
}

static void discard(void **state)
{
	(void)state;
	discard_at_random(false);
	discard_at_random(true);
}

/* What would need one mapping too many stays as the guest left it; what needs none more goes. */
static void discard_has_a_limit(void **state)
{
	const unsigned pages = 2 * GMEM_MAX_REPLACED_RUNS + 4;
	int fd = unit_file();
	struct err err = {};
	struct gmem m;

	(void)state;
	gmem_layout(&m, pages * 0x1000UL, 0x5000, HIGH);
	assert_int_equal(ftruncate(fd, (off_t)m.size), 0);
	assert_int_equal(gmem_map_cow(&m, &fd, &err), 0);
	uint8_t *high = m.region[1].hva;
	for (unsigned i = 0; i < GMEM_MAX_REPLACED_RUNS - 1; i++)
		assert_true(gmem_discard(&m, high + i * 0x2000UL, 0x1000));
	assert_true(
		gmem_discard(&m, m.region[0].hva + 0x4000, 0x1000)); /* the next page of the file is another mapping */
	assert_int_equal(m.n_replaced_runs, GMEM_MAX_REPLACED_RUNS);
	memset(m.region[0].hva, 'g', 0x2000);
	assert_false(gmem_discard(&m, m.region[0].hva, 0x1000));
	assert_int_equal(m.region[0].hva[0], 'g');
	assert_int_equal(m.n_replaced_runs, GMEM_MAX_REPLACED_RUNS);
	memset(high + 0x1000, 'g', 0x1000);
	assert_true(gmem_discard(&m, high + 0x1000, 0x1000)); /* joins two */
	assert_int_equal(high[0x1000], 0);
	assert_int_equal(m.n_replaced_runs, GMEM_MAX_REPLACED_RUNS - 1);
	assert_true(gmem_discard(&m, m.region[0].hva, 0x1000));
	assert_int_equal(m.region[0].hva[0], 0);
	assert_int_equal(m.region[0].hva[0x1000], 'g');
	gmem_unmap(&m);
}

/* The flags of the mapping at `p`, from /proc/self/smaps. */
static char *mapping_flags(const void *p, char *line, size_t size)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long first, last;
	bool here = false;

	assert_non_null(f);
	while (fgets(line, (int)size, f)) {
		if (sscanf(line, "%lx-%lx ", &first, &last) == 2)
			here = first <= (uintptr_t)p && (uintptr_t)p < last;
		else if (here && strncmp(line, "VmFlags:", 8) == 0)
			break;
	}
	fclose(f);
	return line;
}

static void mergeable(void **state)
{
	struct err err = {};
	struct gmem m;
	char line[256];

	(void)state;
	if (access("/sys/kernel/mm/ksm", F_OK) < 0) {
		print_message("this kernel has no KSM\n");
		skip();
	}
	gmem_layout(&m, 0x30000, 0x20000, HIGH);
	assert_int_equal(gmem_map_anon(&m, false, false, &err), 0);
	for (unsigned i = 0; i < m.n; i++)
		assert_null(strstr(mapping_flags(m.region[i].hva, line, sizeof(line)), " mg"));
	gmem_merge(&m);
	for (unsigned i = 0; i < m.n; i++)
		assert_non_null(strstr(mapping_flags(m.region[i].hva, line, sizeof(line)), " mg"));
	m.refills = true;
	assert_true(gmem_discard(&m, m.region[0].hva, 0x1000));
	assert_non_null(strstr(mapping_flags(m.region[0].hva, line, sizeof(line)), " mg"));
	gmem_unmap(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layout_at_the_hole),
		cmocka_unit_test(pointer_at_every_border),
		cmocka_unit_test(anonymous_memory),
		cmocka_unit_test(copy_on_write),
		cmocka_unit_test(discard),
		cmocka_unit_test(discard_has_a_limit),
		cmocka_unit_test(mergeable),
	};

	return cmocka_run_group_tests_name("gmem", tests, NULL, NULL);
}
