// SPDX-License-Identifier: Apache-2.0
/* Ports of the host that are held for a guest. */
#include "forkd/net/ports.h"

#include <errno.h>

#include "forkd/errors.h"
#include "tests/unit/unit.h"

static int hold(const char *text, bool trusted, struct net_wish *w, struct held_ports *held, struct err *err)
{
	assert_int_equal(net_wish_parse(text, w, err), 0);
	return ports_hold(w, trusted, held, err);
}

static void free_ones(void **state)
{
	autonetwish struct net_wish w = {}, again = {};
	struct held_ports held = {}, none = {};
	autostrbuf struct strbuf text = {};
	struct err err = {};
	unsigned before = count_fds();

	(void)state;
	assert_int_equal(
		hold("{\"ports\":[{\"guest\":80},{\"guest\":80},{\"guest\":53,\"protocol\":\"udp\",\"address\":\"0.0.0.0\"}]}",
		     false, &w, &held, &err),
		0);
	assert_int_equal(held.n, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_true(w.ports[i].host >= 1024);
	assert_int_not_equal(w.ports[0].host, w.ports[1].host);
	net_wish_json(&w, &text);
	assert_int_equal(hold(text.text, true, &again, &none, &err), -EADDRINUSE);
	assert_int_equal(err.detail, E_CONFLICT);
	assert_non_null(strstr(err.msg, "overrides.network.ports[0]"));
	ports_release(&held);
	assert_int_equal(count_fds(), before);
}

static void refuses(void **state)
{
	static const struct {
		const char *text;
		enum error_row row;
	} cases[] = {
		{ "{\"ports\":[{\"guest\":80},{\"host\":1023,\"guest\":80}]}", E_FORBIDDEN },
		{ "{\"ports\":[{\"guest\":80},{\"guest\":80,\"address\":\"192.0.2.99\"}]}", E_BAD_OVERRIDE },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autonetwish struct net_wish w = {};
		struct held_ports held = {};
		struct err err = {};
		unsigned before = count_fds();
		assert_true(hold(cases[i].text, false, &w, &held, &err) < 0);
		assert_int_equal(err.detail, cases[i].row);
		assert_non_null(strstr(err.msg, "overrides.network.ports[1]"));
		assert_int_equal(held.n, 0);
		assert_int_equal(count_fds(), before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(free_ones),
		cmocka_unit_test(refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
