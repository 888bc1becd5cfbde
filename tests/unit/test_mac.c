// SPDX-License-Identifier: Apache-2.0
/* common/mac: what is a MAC address, and back to text. */
#include "common/mac.h"

#include "tests/unit/unit.h"

#include <strings.h>

static void mac_addresses(void **state)
{
	static const struct {
		const char *text;
		uint8_t mac[MAC_BYTES];
	} good[] = {
		{ "00:00:00:00:00:00", { 0 } },
		{ "12:34:56:78:9a:bc", { 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc } },
		{ "FF:eE:Dd:cC:bb:AA", { 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa } },
	};
	static const char *const bad[] = {
		"",
		":",
		"12:34:56:78:9a",
		"12:34:56:78:9a:",
		"12:34:56:78:9a:bc:",
		"12:34:56:78:9a:bc:de",
		"12:34:56:78:9a:bcd",
		"12:34:56:78:9a:bg",
		"123:34:56:78:9a:bc",
		"12-34-56-78-9a-bc",
		"12:34:56:78:9a:bc ",
		"1234:56:78:9a:bc",
		"12:34::78:9a:bc",
		"1:2:3:4:5:6",
		"-1:+1:00:00:00:00",
		" 1: 2: 3: 4: 5: 6",
		"0x:34:56:78:9a:bc",
		"gg:34:56:78:9a:bc",
	};
	uint8_t mac[MAC_BYTES];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_true(mac_parse(good[i].text, mac));
		assert_memory_equal(mac, good[i].mac, MAC_BYTES);
		char text[MAC_TEXT_BYTES];
		mac_text(mac, text);
		assert_int_equal(strcasecmp(text, good[i].text), 0);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (mac_parse(bad[i], mac))
			fail_msg("'%s' was taken", bad[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(mac_addresses) };

	return cmocka_run_group_tests_name("mac", tests, NULL, NULL);
}
