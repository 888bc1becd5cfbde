// SPDX-License-Identifier: Apache-2.0
/* vmm/state/own_pages: which pages of RAM were written, and lists of them that may be anything. */
#include "vmm/state/own_pages.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/unit.h"

enum { PAGES = 8192, RAM = PAGES * GUEST_PAGE };

/* RAM in two regions over a file of which each page begins with its number. */
static struct gmem ram_over(int file)
{
	struct gmem mem = { .file_fd = -1 };
	struct err err = {};

	for (uint32_t i = 0; i < PAGES; i++)
		assert_int_equal(pwrite(file, &i, sizeof(i), (off_t)i * GUEST_PAGE), sizeof(i));
	gmem_layout(&mem, RAM, RAM / 2, 1ULL << 32);
	int fd = dup(file);
	if (gmem_map_cow(&mem, &fd, &err) < 0)
		fail_msg("%s", err.msg);
	return mem;
}

static void write_page(const struct gmem *mem, uint64_t page)
{
	gmem_file_ptr(mem, page * GUEST_PAGE)[8]++;
}

static void listed_and_made(void **state)
{
	static const uint32_t written[] = { 0, 7, 8, 9, PAGES / 2 - 1, PAGES / 2, PAGES - 1 };
	static const struct own_run wanted[] = { { 0, 1 }, { 7, 3 }, { PAGES / 2 - 1, 2 }, { PAGES - 1, 1 } };
	autoclose int file = unit_file();
	struct gmem mem = ram_over(file), other = ram_over(file);
	struct own_pages list, again;
	struct err err = {};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(written); i++)
		write_page(&mem, written[i]);
	assert_int_equal(*gmem_file_ptr(&mem, 100 * GUEST_PAGE), 100); /* read, not written */
	assert_int_equal(own_pages_list(&mem, &list, &err), 0);
	assert_int_equal(list.n, ARRAY_LEN(wanted));
	assert_memory_equal(list.run, wanted, sizeof(wanted));

	own_pages_make(&other, &list);
	assert_int_equal(own_pages_list(&other, &again, &err), 0);
	assert_int_equal(again.n, list.n);
	assert_memory_equal(again.run, list.run, sizeof(wanted));
	assert_int_equal(*gmem_file_ptr(&other, 7 * GUEST_PAGE), 7); /* the snapshot's bytes, not the first clone's */
	assert_int_equal(gmem_file_ptr(&other, 7 * GUEST_PAGE)[8], 0);
	gmem_unmap(&mem);
	gmem_unmap(&other);
}

static uint64_t pages_of(const struct own_pages *list)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < list->n; i++)
		n += list->run[i].n;
	return n;
}

static void bounds(void **state)
{
	autoclose int file = unit_file();
	struct own_pages list;
	struct err err = {};

	(void)state;
	struct gmem mem = ram_over(file);
	for (uint64_t i = 0; i < OWN_PAGES_MAX + 5; i++)
		write_page(&mem, i);
	assert_int_equal(own_pages_list(&mem, &list, &err), 0);
	assert_int_equal(list.n, 1);
	assert_int_equal(pages_of(&list), OWN_PAGES_MAX);
	gmem_unmap(&mem);

	mem = ram_over(file);
	for (uint64_t i = 0; i < OWN_RUNS_MAX + 5; i++)
		write_page(&mem, 2 * i);
	assert_int_equal(own_pages_list(&mem, &list, &err), 0);
	assert_int_equal(list.n, OWN_RUNS_MAX);
	assert_int_equal(pages_of(&list), OWN_RUNS_MAX);
	mem.backing = GMEM_ANON;
	assert_int_equal(own_pages_list(&mem, &list, &err), -EINVAL);
	gmem_unmap(&mem);
}

static void received(void **state)
{
	static const struct {
		struct own_pages list;
		size_t cut; /* bytes that are missing */
		bool fine;
	} cases[] = {
		{ { 0, {} }, 0, true },
		{ { 2, { { 0, 1 }, { PAGES - 1, 1 } } }, 0, true },
		{ { 1, { { 0, OWN_PAGES_MAX } } }, 0, true },
		{ { 1, { { 0, OWN_PAGES_MAX + 1 } } }, 0, false },
		{ { 1, { { PAGES - 1, 2 } } }, 0, false },
		{ { 1, { { UINT32_MAX, UINT32_MAX } } }, 0, false },
		{ { 1, { { 5, 0 } } }, 0, false },
		{ { 2, { { 5, 2 }, { 6, 1 } } }, 0, false },
		{ { 2, { { 5, 2 }, { 8, 1 } } }, 4, false },
	};
	int pair[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct own_pages *from = &cases[i].list;
		size_t len = offsetof(struct own_pages, run) + from->n * sizeof(struct own_run);
		struct own_pages got = { .n = 77 };
		if (cases[i].cut)
			assert_int_equal(send(pair[0], from, len - cases[i].cut, 0), len - cases[i].cut);
		else
			own_pages_send(pair[0], from);
		if (own_pages_recv(pair[1], RAM, &got) != cases[i].fine)
			fail_msg("case %zu: %d", i, !cases[i].fine);
		assert_int_equal(got.n, cases[i].fine ? from->n : 77);
	}
	const struct own_pages many = { .n = OWN_RUNS_MAX + 1 };
	struct own_pages got = {};
	assert_int_equal(send(pair[0], &many, sizeof(many), 0), sizeof(many));
	assert_false(own_pages_recv(pair[1], RAM, &got));
	assert_false(own_pages_recv(pair[1], RAM, &got)); /* nothing came */
	close(pair[1]);
	own_pages_send(pair[0], &many); /* nobody is there */
	close(pair[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(listed_and_made), cmocka_unit_test(bounds),
					    cmocka_unit_test(received) };

	return cmocka_run_group_tests_name("own_pages", tests, NULL, NULL);
}
