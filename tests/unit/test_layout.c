// SPDX-License-Identifier: Apache-2.0
/* Names and addresses of slots. */
#include "forkd/net/layout.h"

#include "forkd/errors.h"
#include "tests/unit/unit.h"

static struct layout made(const char *runtime_dir)
{
	struct layout l;
	struct err err = {};

	assert_int_equal(layout_make(runtime_dir, SLOT_RANGE_DEFAULT, SLOT_INNER_DEFAULT, &l, &err), 0);
	return l;
}

static void places(void **state)
{
	const struct layout l = made("/run/forkd");
	char buf[CIDR_TEXT_BYTES];

	(void)state;
	assert_string_equal(l.table, "forkd");
	assert_string_equal(cidr_text(&l.guest4, buf), "172.16.0.2");
	assert_string_equal(cidr_text(&l.inner4, buf), "172.16.0.0/30");
	assert_string_equal(cidr_text(&l.range6, buf), "fd6b:ac9::/48");
	assert_int_equal(l.n, SLOTS_LIMIT);
	const struct slot_place p = layout_place(&l, 258);
	assert_string_equal(p.name, "forkd-258");
	assert_string_equal(p.veth, "fn-258");
	assert_string_equal(cidr_text(&p.host4, buf), "10.201.2.4");
	assert_string_equal(cidr_text(&p.slot4, buf), "10.201.2.5");
	assert_string_equal(cidr_text(&p.host6, buf), "fd6b:ac9:0:102::1");
	assert_string_equal(cidr_text(&p.slot6, buf), "fd6b:ac9:0:102::2");
}

/* Names fit, are read back, and are no names of another daemon's. */
static void names(void **state)
{
	const struct layout plain = made("/run/forkd"), one = made("/run/one"), two = made("/run/two");
	const struct slot_place last = layout_place(&one, SLOTS_LIMIT);

	(void)state;
	assert_string_not_equal(one.tag, two.tag);
	assert_true(strlen(last.veth) < IFNAMSIZ);
	assert_int_equal(layout_ns_number(&one, last.name), SLOTS_LIMIT);
	assert_int_equal(layout_veth_number(&one, last.veth), SLOTS_LIMIT);
	assert_int_equal(layout_ns_number(&plain, last.name), 0);
	assert_int_equal(layout_ns_number(&two, last.name), 0);
	assert_int_equal(layout_ns_number(&one, "forkd-1"), 0);
	static const char *const not [] = { "forkd-",      "forkd-0",           "forkd-01", "forkd-1x",
					    "forkd-16385", "forkd-99999999999", "x" };
	for (size_t i = 0; i < ARRAY_LEN(not ); i++)
		assert_int_equal(layout_ns_number(&plain, not [i]), 0);
}

static void sizes(void **state)
{
	struct layout l;
	struct err err = {};

	(void)state;
	assert_int_equal(layout_make("/x", "192.0.2.0/28", "10.0.0.1/8", &l, &err), 0);
	assert_int_equal(l.n, 7);
	const struct slot_place p = layout_place(&l, l.n);
	assert_true(cidr_within(&p.slot4, &l.range4));
	char buf[CIDR_TEXT_BYTES];
	assert_string_equal(cidr_text(&l.inner4, buf), "10.0.0.0/8");
}

static void refuses(void **state)
{
	static const struct {
		const char *range, *inner, *msg;
	} cases[] = {
		{ "10.0.0.0/29", SLOT_INNER_DEFAULT, "'10.0.0.0/29' is no IPv4 network with a prefix of 8 to 28" },
		{ "10.0.0.1/16", SLOT_INNER_DEFAULT, "'10.0.0.1/16' is no IPv4 network" },
		{ "fd00::/16", SLOT_INNER_DEFAULT, "'fd00::/16' is no IPv4 network" },
		{ "10.0.0.0/16", "172.16.0.1", "'172.16.0.1' is no address with a prefix" },
		{ "10.0.0.0/16", "172.16.0.1/31", "prefix of 8 to 30" },
		{ "10.0.0.0/16", "fd00::1/30", "'fd00::1/30' is no IPv4 address" },
		{ "10.0.0.0/16", "172.16.0.3/30", "the guest has the next address, which is not in this network" },
		{ "172.16.0.0/16", SLOT_INNER_DEFAULT, "overlap" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct layout l = { .n = 77 };
		struct err err = {};
		assert_true(layout_make("/x", cases[i].range, cases[i].inner, &l, &err) < 0);
		if (!strstr(err.msg, cases[i].msg) || err.detail != E_INVALID)
			fail_msg("'%s' is not in '%s'", cases[i].msg, err.msg);
		assert_int_equal(l.n, 77);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(places),
		cmocka_unit_test(names),
		cmocka_unit_test(sizes),
		cmocka_unit_test(refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
