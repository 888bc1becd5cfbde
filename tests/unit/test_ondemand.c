// SPDX-License-Identifier: Apache-2.0
/* vmm/ondemand: pages touched by this process come from the file, all come in the end, and it can be stopped early. */
#include "vmm/state/ondemand.h"

#include "tests/unit/small_blocks.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

enum { PAGE = 4096, LOW_PAGES = 3000, HIGH_PAGES = 1000, PAGES = LOW_PAGES + HIGH_PAGES };
#define HIGH (1ULL << 32)

static int file_fd;
static struct gmem mem;

static bool is_data(unsigned n)
{
	return n < 700 || (n >= 900 && n < 903) || (n > 1500 && n % 100 == 1) || (n >= 2950 && n < 3050) ||
	       n == PAGES - 1;
}

static void fill(uint8_t *buf, unsigned n)
{
	for (unsigned i = 0; i < PAGE; i++)
		buf[i] = is_data(n) ? (uint8_t)(n * 31 + i * 7 + 1) : 0;
}

static int make(void **state)
{
	uint8_t buf[PAGE];
	struct err err = {};

	(void)state;
	file_fd = unit_file();
	if (ftruncate(file_fd, (off_t)PAGES * PAGE) < 0)
		return -1;
	for (unsigned n = 0; n < PAGES; n++) {
		fill(buf, n);
		if (is_data(n) && pwrite(file_fd, buf, PAGE, (off_t)n * PAGE) != PAGE)
			return -1;
	}
	gmem_layout(&mem, (uint64_t)PAGES * PAGE, (uint64_t)LOW_PAGES * PAGE, HIGH);
	return gmem_map_anon(&mem, false, false, &err);
}

static int done(void **state)
{
	(void)state;
	gmem_unmap(&mem);
	if (file_fd >= 0)
		close(file_fd);
	return 0;
}

static uint8_t *page(unsigned n)
{
	return gmem_ptr(&mem, n < LOW_PAGES ? (gpa_t)n * PAGE : HIGH + (gpa_t)(n - LOW_PAGES) * PAGE, PAGE);
}

/* NULL, and the test skipped, where this host forbids it. */
static struct ondemand *start(void)
{
	struct ondemand *od = NULL;
	struct err err = {};
	int before = file_fd;

	if (ondemand_start(&mem, &file_fd, &od, &err) < 0) {
		assert_int_equal(file_fd, before); /* not taken on failure */
		print_message("no userfaultfd here: %s\n", err.msg);
		skip();
	}
	assert_int_equal(file_fd, -1);
	return od;
}

static void *touch(void *arg)
{
	unsigned first = *(unsigned *)arg;
	uint8_t want[PAGE];
	uintptr_t bad = 0;

	for (unsigned i = 0; i < PAGES; i++) { /* far from the order of the background */
		unsigned n = (first + i * 1877) % PAGES;
		fill(want, n);
		bad += memcmp(page(n), want, PAGE) != 0;
	}
	return (void *)bad;
}

static void touched_pages_come_from_the_file(void **state)
{
	struct ondemand *od = start();
	pthread_t thread[3];
	unsigned first[3] = { PAGES - 1, 1700, 0 };

	(void)state;
	page(1000)[5] = 0x77; /* written by the guest before it came: stays */
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, touch, &first[i]), 0);
	for (unsigned i = 0; i < 3; i++) {
		void *bad;
		assert_int_equal(pthread_join(thread[i], &bad), 0);
		assert_int_equal((uintptr_t)bad, 1); /* the written one */
	}
	for (unsigned i = 0; i < 5000 && !ondemand_complete(od); i++)
		usleep(1000);
	assert_true(ondemand_complete(od));
	ondemand_stop(od);
	assert_int_equal(page(1000)[5], 0x77);
}

static void everything_comes_by_itself(void **state)
{
	struct ondemand *od = start();
	uint8_t want[PAGE];

	(void)state;
	for (unsigned i = 0; i < 5000 && !ondemand_complete(od); i++)
		usleep(1000);
	assert_true(ondemand_complete(od));
	ondemand_stop(od); /* what is there now was there before */
	for (unsigned n = 0; n < PAGES; n++) {
		fill(want, n);
		assert_memory_equal(page(n), want, PAGE);
	}
}

/* Pages that are given up while they are still to come, or after they came, are zero and stay so. */
static void discarded_pages_do_not_come(void **state)
{
	struct ondemand *od = start();
	uint8_t want[PAGE], zero[PAGE] = {};

	(void)state;
	mem.refills = true;
	assert_true(gmem_discard(&mem, page(PAGES - 1), PAGE)); /* the pager is not there yet */
	assert_true(gmem_discard(&mem, page(2960), 20 * PAGE));
	for (unsigned n = 0; n < 5; n++)
		assert_true(gmem_discard(&mem, page(n), PAGE));
	for (unsigned i = 0; i < 5000 && !ondemand_complete(od); i++)
		usleep(1000);
	assert_true(ondemand_complete(od));
	assert_true(gmem_discard(&mem, page(600), 3 * PAGE));
	for (unsigned n = 0; n < PAGES; n++) {
		bool gone = n < 5 || (n >= 600 && n < 603) || (n >= 2960 && n < 2980) || n == PAGES - 1;
		fill(want, n);
		if (memcmp(page(n), gone ? zero : want, PAGE) != 0)
			fail_msg("page %u", n);
	}
	ondemand_stop(od);
}

static void stops_early(void **state)
{
	struct ondemand *od = start();
	uint8_t want[PAGE];

	(void)state;
	fill(want, PAGES - 1);
	assert_memory_equal(page(PAGES - 1), want, PAGE);
	ondemand_stop(od);
	for (unsigned n = 0; n < PAGES; n++) { /* all or nothing, and no hang */
		fill(want, n);
		assert_true(page(n)[1] == want[1] || page(n)[1] == 0);
	}
	assert_memory_equal(page(PAGES - 1), want, PAGE);
	ondemand_stop(NULL);
	assert_true(ondemand_complete(NULL));
}

/* A hole that ends within a page and is longer than the buffer of the pager. */
static void holes_within_pages(void **state)
{
	static const struct {
		off_t at;
		const char *text;
	} data[] = { { 300 * PAGE + 1024, "first" },
		     { 1700 * PAGE + 3072, "low" },
		     { (PAGES - 500) * PAGE + 1024, "high" } };
	uint8_t want[PAGE];

	(void)state;
	close(file_fd);
	file_fd = small_blocks_file();
	assert_int_equal(ftruncate(file_fd, (off_t)PAGES * PAGE), 0);
	for (size_t i = 0; i < ARRAY_LEN(data); i++)
		assert_int_equal(pwrite(file_fd, data[i].text, 4, data[i].at), 4);
	struct ondemand *od = start();
	for (unsigned i = 0; i < 5000 && !ondemand_complete(od); i++)
		usleep(1000);
	assert_true(ondemand_complete(od));
	ondemand_stop(od);
	for (unsigned n = 0; n < PAGES; n++) {
		memset(want, 0, PAGE);
		for (size_t i = 0; i < ARRAY_LEN(data); i++)
			if (data[i].at / PAGE == n)
				memcpy(want + data[i].at % PAGE, data[i].text, 4);
		assert_memory_equal(page(n), want, PAGE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(touched_pages_come_from_the_file, make, done),
		cmocka_unit_test_setup_teardown(everything_comes_by_itself, make, done),
		cmocka_unit_test_setup_teardown(discarded_pages_do_not_come, make, done),
		cmocka_unit_test_setup_teardown(stops_early, make, done),
		cmocka_unit_test_setup_teardown(holes_within_pages, make, done),
	};

	return cmocka_run_group_tests_name("ondemand", tests, NULL, NULL);
}
