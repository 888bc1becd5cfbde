// SPDX-License-Identifier: Apache-2.0
/* Addresses and networks as text. */
#include "forkd/net/cidr.h"

#include "tests/unit/unit.h"

static struct cidr parsed(const char *text)
{
	struct cidr c;

	assert_true(cidr_parse(text, &c));
	return c;
}

static void reads_and_writes(void **state)
{
	static const struct {
		const char *text, *again, *address;
	} cases[] = {
		{ "10.0.0.0/8", "10.0.0.0/8", "10.0.0.0" },
		{ "10.1.2.3", "10.1.2.3", "10.1.2.3" },
		{ "10.1.2.3/32", "10.1.2.3", "10.1.2.3" },
		{ "0.0.0.0/0", "0.0.0.0/0", "0.0.0.0" },
		{ "FD00:0::/8", "fd00::/8", "fd00::" },
		{ "::", "::", "::" },
		{ "2001:db8::1/128", "2001:db8::1", "2001:db8::1" },
	};
	char buf[CIDR_TEXT_BYTES];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct cidr c = parsed(cases[i].text);
		assert_string_equal(cidr_text(&c, buf), cases[i].again);
		assert_string_equal(cidr_address_text(&c, buf), cases[i].address);
	}
}

static void refuses(void **state)
{
	static const char *const texts[] = {
		"",
		"10.0.0",
		"10.0.0.256",
		"10.0.0.0/33",
		"10.0.0.0/",
		"10.0.0.0/08",
		"10.0.0.0/-1",
		"10.0.0.1/8",
		"10.0.0.0/8 ",
		" 10.0.0.0/8",
		"::1/64",
		"::/129",
		"fe80::1%eth0",
		"::/1a",
		"example.com",
		"0x0a.0.0.1",
		"10.0.0.0/8/8",
		"10.0.0.0/0000",
		"1:2:3:4:5:6:7:8:9",
		"0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000",
	};
	struct cidr c = { .version = 7 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (cidr_parse(texts[i], &c))
			fail_msg("'%s' was taken", texts[i]);
	assert_int_equal(c.version, 7);
	assert_false(cidr_parse_address("10.0.0.0/8", &c));
}

static void compares(void **state)
{
	static const struct {
		const char *a, *b;
		bool within, overlap;
	} cases[] = {
		{ "10.1.0.0/16", "10.0.0.0/8", true, true },
		{ "10.0.0.0/8", "10.1.0.0/16", false, true },
		{ "10.0.0.0/8", "11.0.0.0/8", false, false },
		{ "10.0.0.0/8", "10.0.0.0/8", true, true },
		{ "0.0.0.0/0", "0.0.0.0/0", true, true },
		{ "::/0", "0.0.0.0/0", false, false },
		{ "fd00::1", "fc00::/7", true, true },
		{ "fe80::1", "fc00::/7", false, false },
		{ "172.31.255.255", "172.16.0.0/12", true, true },
		{ "172.32.0.0", "172.16.0.0/12", false, false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct cidr a = parsed(cases[i].a), b = parsed(cases[i].b);
		if (cidr_within(&a, &b) != cases[i].within || cidr_overlap(&a, &b) != cases[i].overlap ||
		    cidr_overlap(&b, &a) != cases[i].overlap)
			fail_msg("%s and %s", cases[i].a, cases[i].b);
	}
}

static void counts(void **state)
{
	const struct cidr four = parsed("10.201.0.0/16"), six = parsed("fd6b::/48");
	char buf[CIDR_TEXT_BYTES];

	(void)state;
	struct cidr c = cidr_nth(&four, 515);
	assert_string_equal(cidr_text(&c, buf), "10.201.2.3");
	c = cidr_nth(&six, 65537);
	assert_string_equal(cidr_text(&c, buf), "fd6b::1:1");
	assert_true(cidr_is_single(&c) && !cidr_is_single(&six));
}

static void knows_loopback(void **state)
{
	static const struct {
		const char *text;
		bool loopback;
	} cases[] = { { "127.0.0.1", true },
		      { "127.255.0.1", true },
		      { "128.0.0.1", false },
		      { "::1", true },
		      { "::2", false } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct cidr c = parsed(cases[i].text);
		assert_int_equal(cidr_is_loopback(&c), cases[i].loopback);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_writes), cmocka_unit_test(refuses),        cmocka_unit_test(compares),
		cmocka_unit_test(counts),           cmocka_unit_test(knows_loopback),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
