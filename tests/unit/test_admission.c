// SPDX-License-Identifier: Apache-2.0
/* Who gets in, against given numbers; and that what got in counts for the next. */
#include "forkd/access/admission.h"

#include "forkd/errors.h"
#include "tests/unit/unit.h"

#define MIB (1ULL << 20)

static const struct admission_host host = {
	.available_bytes = 1000 * MIB,
	.reserve_bytes = 100 * MIB,
	.threads_now = 500,
	.threads_max = 1000,
	.files_max = 1024,
};

static void decides(void **state)
{
	static const struct {
		struct admission_ask ask;
		uint64_t pending;
		enum error_row row; /* E_NONE: in */
	} cases[] = {
		{ { 9, 100 * MIB, 1, 0 }, 0, E_NONE },
		{ { 9, 100 * MIB, 1, 0 }, 1, E_NO_MEMORY },
		{ { 9, 100 * MIB + 1, 1, 0 }, 0, E_NO_MEMORY },
		{ { 1000, UINT64_MAX / 1000, 1, 0 }, 0, E_NO_MEMORY },
		{ { 1, 0, 1, 0 }, 2000 * MIB, E_NO_MEMORY },
		{ { 100, 1, 5, 0 }, 0, E_NONE },
		{ { 101, 1, 5, 0 }, 0, E_BUSY },
		{ { 1, 1, 1, (1024 - ADMISSION_FDS_OTHER) / ADMISSION_FDS_EACH - 1 }, 0, E_NONE },
		{ { 1, 1, 1, (1024 - ADMISSION_FDS_OTHER) / ADMISSION_FDS_EACH }, 0, E_BUSY },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {};
		int r = admission_decide(&cases[i].ask, &host, cases[i].pending, &err);
		assert_int_equal(r < 0, cases[i].row != E_NONE);
		assert_int_equal(err.detail, cases[i].row);
	}
}

static void says_the_numbers(void **state)
{
	const struct admission_ask ask = { .count = 10, .bytes_each = 100 * MIB };
	struct err err = {};

	(void)state;
	assert_true(admission_decide(&ask, &host, 50 * MIB, &err) < 0);
	assert_string_equal(err.msg,
			    "10 VMs of 100 MiB each need 1000 MiB: there are 1000 MiB available, of which 100 MiB are "
			    "kept in reserve and 50 MiB promised to requests of the last second");
}

static void counts_what_got_in(void **state)
{
	struct admission *a;
	struct err err = {};
	const struct admission_ask all = { .count = 1, .bytes_each = 1ULL << 50 },
				   some = { .count = 1, .bytes_each = 1 };

	(void)state;
	assert_int_equal(admission_new(1, &a, &err), 0);
	assert_int_equal(admission_enter(a, &some, &err), 0);
	assert_true(admission_enter(a, &all, &err) < 0);
	assert_int_equal(err.detail, E_NO_MEMORY);
	assert_int_equal(admission_enter(a, &some, &err), 0);
	admission_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decides),
		cmocka_unit_test(says_the_numbers),
		cmocka_unit_test(counts_what_got_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
