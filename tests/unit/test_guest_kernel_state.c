// SPDX-License-Identifier: Apache-2.0
/* guest/kernel_state and guest/link: what the kernel is told, without telling this host's. */
#include "guest/kernel_state.h"

#include "guest/link.h"
#include "tests/unit/unit.h"

#include <linux/random.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <time.h>

static struct timespec clock_set;
static unsigned n_clock_sets;

int clock_settime(clockid_t clock, const struct timespec *t)
{
	assert_int_equal(clock, CLOCK_REALTIME);
	clock_set = *t;
	n_clock_sets++;
	return 0;
}

/* The calls in their order: 'e' entropy, 'r' reseed. */
static char calls[16], pool[4096];
static size_t pool_len;

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;

	(void)fd;
	va_start(ap, request);
	const struct rand_pool_info *info = request == RNDADDENTROPY ? va_arg(ap, const struct rand_pool_info *) : NULL;
	va_end(ap);
	strcat(calls, info ? "e" : request == RNDRESEEDCRNG ? "r" : "?");
	if (info) {
		assert_int_equal(info->entropy_count, 8 * info->buf_size);
		memcpy(pool + pool_len, info->buf, (size_t)info->buf_size);
		pool_len += (size_t)info->buf_size;
	}
	return 0;
}

static void reseed(void **state)
{
	char bytes[1100];
	struct err err = {};

	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(i * 7);
	assert_int_equal(kernel_reseed(bytes, sizeof(bytes), &err), 0);
	assert_string_equal(calls, "eeer"); /* the kernel's key is drawn last */
	assert_int_equal(pool_len, sizeof(bytes));
	assert_memory_equal(pool, bytes, sizeof(bytes));
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void wall_clock(void **state)
{
	struct err err = {};
	uint64_t future = now_ns() + 3600000000000;

	(void)state;
	assert_int_equal(wall_clock_set(future, &err), 0);
	assert_int_equal(n_clock_sets, 1);
	assert_int_equal((uint64_t)clock_set.tv_sec * 1000000000 + (uint64_t)clock_set.tv_nsec, future);
	assert_int_equal(wall_clock_set(1000000001, &err), 0); /* 1970 */
	assert_int_equal(n_clock_sets, 2);
	assert_int_equal(clock_set.tv_sec, 1);
	assert_int_equal(clock_set.tv_nsec, 1);
	/* A clock that is right is left alone: setting it makes everybody who waits for it look again. */
	unsigned left_alone = 0;
	for (unsigned i = 0; i < 100; i++) { /* this test may stand still for longer than the tolerance */
		unsigned before = n_clock_sets;
		assert_int_equal(wall_clock_set(now_ns(), &err), 0);
		left_alone += n_clock_sets == before;
	}
	assert_true(left_alone > 0);
}

static void addresses(void **state)
{
	static const struct {
		const char *text;
		struct link_address address;
	} good[] = {
		{ "10.0.0.2/24", { AF_INET, 24, { 10, 0, 0, 2 } } },
		{ "10.0.0.2", { AF_INET, 32, { 10, 0, 0, 2 } } },
		{ "0.0.0.0/0", { AF_INET, 0, {} } },
		{ "fd00::9/64", { AF_INET6, 64, { 0xfd, [15] = 9 } } },
		{ "::1", { AF_INET6, 128, { [15] = 1 } } },
	};
	static const char *const bad[] = { "",
					   "10.0.0",
					   "10.0.0.2/",
					   "10.0.0.2/33",
					   "10.0.0.2/-1",
					   "::1/129",
					   "10.0.0.2/1x",
					   "10.0.0.256",
					   "10.0.0.2/024000000000",
					   "fe80::1%eth0",
					   "host",
					   "10.0.0.2/24/1",
					   " 10.0.0.2",
					   "/24" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct link_address got;
		if (!link_address_parse(good[i].text, &got))
			fail_msg("'%s' was refused", good[i].text);
		assert_memory_equal(&got, &good[i].address, sizeof(got));
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct link_address got = { .prefix = 77 };
		if (link_address_parse(bad[i], &got) || got.prefix != 77)
			fail_msg("'%s' was taken", bad[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reseed),
		cmocka_unit_test(wall_clock),
		cmocka_unit_test(addresses),
	};

	return cmocka_run_group_tests_name("guest_kernel_state", tests, NULL, NULL);
}
