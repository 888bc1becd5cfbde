// SPDX-License-Identifier: Apache-2.0
/* overrides.network: what is taken, and every refusal by its words. */
#include "forkd/net/wish.h"

#include "forkd/errors.h"
#include "tests/unit/unit.h"

static int load(const char *text, struct net_wish *ret, struct err *err)
{
	size_t len = strlen(text);
	autofree char *copy = exact_copy(text, len);
	autojson struct json json = {};

	assert_int_equal(json_parse(&json, copy, len, err), 0);
	return net_wish_load(&json.nodes[0], ret, err);
}

/* Whatever is taken comes out in the form of the request, and goes in again. */
static void says_it_again(void **state)
{
	static const struct {
		const char *text, *again;
		bool plain;
	} cases[] = {
		{ "{}", "{\"egress\":\"open\",\"ports\":[]}", true },
		{ "{\"egress\":null,\"ports\":null,\"dns\":[],\"bandwidth\":null}",
		  "{\"egress\":\"open\",\"ports\":[]}", true },
		{ "{\"egress\":\"none\"}", "{\"egress\":\"none\",\"ports\":[]}", false },
		{ "{\"egress\":{}}", "{\"egress\":{\"deny\":[]},\"ports\":[]}", false },
		{ "{\"egress\":{\"allow\":[]}}", "{\"egress\":{\"allow\":[],\"deny\":[]},\"ports\":[]}", false },
		{ "{\"egress\":{\"allow\":[\"*.Example.COM\",\"10.0.0.0/8\",\"::1\",\"a_b.x-y\"],\"deny\":[\"1.2.3.4/32\"]}}",
		  "{\"egress\":{\"allow\":[\"example.com\",\"10.0.0.0/8\",\"::1\",\"a_b.x-y\"],\"deny\":[\"1.2.3.4\"]},\"ports\":[]}",
		  false },
		{ "{\"ports\":[{\"guest\":80},{\"host\":53,\"guest\":54,\"protocol\":\"udp\",\"address\":\"::\"}]}",
		  "{\"egress\":\"open\",\"ports\":[{\"host\":0,\"guest\":80,\"protocol\":\"tcp\",\"address\":\"127.0.0.1\"},"
		  "{\"host\":53,\"guest\":54,\"protocol\":\"udp\",\"address\":\"::\"}]}",
		  false },
		{ "{\"dns\":[\"9.9.9.9\",\"2620:fe::9\"]}",
		  "{\"egress\":\"open\",\"ports\":[],\"dns\":[\"9.9.9.9\",\"2620:fe::9\"]}", false },
		{ "{\"bandwidth\":{\"tx_bytes_per_s\":1024}}",
		  "{\"egress\":\"open\",\"ports\":[],\"bandwidth\":{\"tx_bytes_per_s\":1024}}", false },
		{ "{\"bandwidth\":{\"tx_bytes_per_s\":2000000000,\"rx_bytes_per_s\":4096}}",
		  "{\"egress\":\"open\",\"ports\":[],\"bandwidth\":{\"rx_bytes_per_s\":4096,\"tx_bytes_per_s\":2000000000}}",
		  false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autonetwish struct net_wish w = {}, copy = {};
		autostrbuf struct strbuf text = {}, again = {};
		struct err err = {};
		assert_int_equal(load(cases[i].text, &w, &err), 0);
		net_wish_json(&w, &text);
		assert_string_equal(text.text, cases[i].again);
		assert_int_equal(net_wish_is_plain(&w), cases[i].plain);
		assert_int_equal(net_wish_copy(&w, &copy, &err), 0);
		net_wish_json(&copy, &again);
		assert_string_equal(again.text, cases[i].again);
	}
}

#define NETWORK "overrides.network"
#define RULE "neither an address, nor a network"

static void refuses(void **state)
{
	static const struct {
		const char *text, *msg;
		enum error_row row;
	} cases[] = {
		{ "[]", NETWORK ": expected an object, found an array", E_BAD_OVERRIDE },
		{ "{\"x\":1}", NETWORK ": there is no field 'x'", E_UNKNOWN_FIELD },
		{ "{\"address\":\"unique\"}", NETWORK ": there is no field 'address'", E_UNKNOWN_FIELD },
		{ "{\"egress\":\"shut\"}", NETWORK ".egress: expected \"open\", \"none\" or an object",
		  E_BAD_OVERRIDE },
		{ "{\"egress\":[]}", NETWORK ".egress: expected", E_BAD_OVERRIDE },
		{ "{\"egress\":{\"x\":[]}}", NETWORK ".egress: there is no field 'x'", E_UNKNOWN_FIELD },
		{ "{\"egress\":{\"allow\":\"a\"}}", NETWORK ".egress.allow: expected an array of at most 256",
		  E_BAD_OVERRIDE },
		{ "{\"egress\":{\"allow\":[1]}}", NETWORK ".egress.allow: expected an array", E_BAD_OVERRIDE },
		{ "{\"egress\":{\"allow\":[\"a.b\",{}]}}",
		  NETWORK ".egress.allow[1]: expected a string, found an object", E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"\"]}}", NETWORK ".egress.deny[0]: '' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"10.0.0.1/8\"]}}", "'10.0.0.1/8' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"10.0.0.256\"]}}", "'10.0.0.256' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"a..b\"]}}", "'a..b' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\".a\"]}}", "'.a' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"a.\"]}}", "'a.' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"*\"]}}", "'*' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"*.*.a\"]}}", "'*.*.a' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"a/b\"]}}", "'a/b' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"a#b\"]}}", "'a#b' is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"a\\nserver=1.2.3.4\"]}}", "is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"\xc3\xa4.de\"]}}", "is " RULE, E_BAD_OVERRIDE },
		{ "{\"egress\":{\"deny\":[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.de\"]}}",
		  "is " RULE, E_BAD_OVERRIDE },
		{ "{\"ports\":{}}", NETWORK ".ports: expected an array of at most 64 objects", E_BAD_OVERRIDE },
		{ "{\"ports\":[{}]}", NETWORK ".ports[0].guest: missing", E_BAD_OVERRIDE },
		{ "{\"ports\":[{\"guest\":0}]}", NETWORK ".ports[0].guest: 0 is below 1", E_BAD_OVERRIDE },
		{ "{\"ports\":[{\"guest\":65536}]}", NETWORK ".ports[0].guest: 65536 is above 65535", E_BAD_OVERRIDE },
		{ "{\"ports\":[{\"guest\":1,\"x\":1}]}", NETWORK ".ports[0]: there is no field 'x'", E_UNKNOWN_FIELD },
		{ "{\"ports\":[{\"guest\":1,\"protocol\":\"sctp\"}]}",
		  NETWORK ".ports[0].protocol: 'sctp' is neither tcp nor udp", E_BAD_OVERRIDE },
		{ "{\"ports\":[{\"guest\":1,\"address\":\"eth0\"}]}",
		  NETWORK ".ports[0].address: 'eth0' is no IP address", E_BAD_OVERRIDE },
		{ "{\"ports\":[{\"guest\":1,\"address\":\"::1\"}]}",
		  NETWORK ".ports[0].address: the kernel forwards nothing from ::1", E_BAD_OVERRIDE },
		{ "{\"dns\":\"1.1.1.1\"}", NETWORK ".dns: expected an array of at most 8 addresses", E_BAD_OVERRIDE },
		{ "{\"dns\":[\"a\"]}", NETWORK ".dns[0]: 'a' is no IP address of a server", E_BAD_OVERRIDE },
		{ "{\"dns\":[\"127.0.0.53\"]}", NETWORK ".dns[0]: '127.0.0.53' is no IP address of a server",
		  E_BAD_OVERRIDE },
		{ "{\"dns\":[\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\"]}",
		  NETWORK ".dns: expected an array of at most 8", E_BAD_OVERRIDE },
		{ "{\"bandwidth\":1}", NETWORK ".bandwidth: expected an object", E_BAD_OVERRIDE },
		{ "{\"bandwidth\":{\"rx_bytes_per_s\":1}}", NETWORK ".bandwidth.rx_bytes_per_s: 1 is below 1024",
		  E_BAD_OVERRIDE },
		{ "{\"bandwidth\":{\"x\":1}}", NETWORK ".bandwidth: there is no field 'x'", E_UNKNOWN_FIELD },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct net_wish w = { .n_ports = 77 };
		struct err err = {};
		assert_true(load(cases[i].text, &w, &err) < 0);
		if (!strstr(err.msg, cases[i].msg) || err.detail != (unsigned)cases[i].row)
			fail_msg("%s: '%s' (row %u) instead of '%s'", cases[i].text, err.msg, err.detail, cases[i].msg);
		assert_int_equal(w.n_ports, 77);
	}
}

/* As many as may be, and one more. */
static void bounds(void **state)
{
	static const struct {
		const char *before, *each, *after;
		unsigned max;
	} cases[] = {
		{ "{\"egress\":{\"allow\":[", "\"a.b\"", "]}}", WISH_RULES_MAX },
		{ "{\"egress\":{\"deny\":[", "\"1.2.3.4\"", "]}}", WISH_RULES_MAX },
		{ "{\"ports\":[", "{\"guest\":1}", "]}", WISH_PORTS_MAX },
		{ "{\"dns\":[", "\"1.1.1.1\"", "]}", WISH_DNS_MAX },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		for (unsigned more = 0; more < 2; more++) {
			autostrbuf struct strbuf text = {};
			autonetwish struct net_wish w = {};
			struct err err = {};
			strbuf_puts(&text, cases[i].before);
			for (unsigned k = 0; k < cases[i].max + more; k++)
				strbuf_printf(&text, "%s%s", k ? "," : "", cases[i].each);
			strbuf_puts(&text, cases[i].after);
			assert_int_equal(load(text.text, &w, &err) < 0, more);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_it_again),
		cmocka_unit_test(refuses),
		cmocka_unit_test(bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
