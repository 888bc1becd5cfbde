// SPDX-License-Identifier: Apache-2.0
/* What a slot's dnsmasq is told, and which servers the host has. */
#include "forkd/net/resolver.h"

#include "tests/unit/unit.h"

static void config(const char *wish, struct strbuf *out)
{
	static char dir[] = "/run/forkd/resolvers";
	struct resolver_setup rs = { .dir = dir, .n_servers = 1, .fills_sets = true };
	autonetwish struct net_wish w = {};
	struct layout l;
	struct err err = {};

	assert_true(cidr_parse_address("192.0.2.53", &rs.servers[0]));
	assert_int_equal(layout_make("/run/forkd", SLOT_RANGE_DEFAULT, SLOT_INNER_DEFAULT, &l, &err), 0);
	assert_int_equal(net_wish_parse(wish, &w, &err), 0);
	resolver_config(&rs, &l, "forkd-1", &w, out);
}

static void tells(void **state)
{
	static const struct {
		const char *wish, *has[5], *lacks[3];
	} cases[] = {
		{ "{}",
		  { "server=192.0.2.53\n", "stop-dns-rebind\n", "dhcp-range=172.16.0.2,172.16.0.2,255.255.255.252,",
		    "pid-file=/run/forkd/resolvers/forkd-1.pid\nuser=nobody\n", "dns-forward-max=150\n" },
		  { "address=", "nftset=" } },
		{ "{\"dns\":[\"9.9.9.9\"]}", { "server=9.9.9.9\n" }, { "192.0.2.53" } },
		{ "{\"egress\":{\"allow\":[\"a.de\",\"b.de\"],\"deny\":[\"x.a.de\",\"b.de\"]}}",
		  { "address=/#/\n", "server=/a.de/192.0.2.53\n",
		    "nftset=/a.de/4#inet#forkd#names4,6#inet#forkd#names6\n", "address=/x.a.de/\n" },
		  { "server=192.0.2.53\n", "/b.de/192", "rebind-domain-ok" } },
		{ "{\"egress\":{\"allow\":[\"y.x.a.de\",\"xa.de\"],\"deny\":[\"x.a.de\",\"a.de\"]}}",
		  { "server=/xa.de/" },
		  { "server=/y.x.a.de/", "nftset=/y.x" } },
		{ "{\"egress\":{\"allow\":[\"a.de\",\"10.0.0.0/8\"]}}",
		  { "rebind-domain-ok=/a.de/\n", "stop-dns-rebind\n" },
		  {} },
		{ "{\"egress\":{\"deny\":[\"a.de\"]}}",
		  { "server=192.0.2.53\n", "address=/a.de/\n" },
		  { "address=/#/" } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autostrbuf struct strbuf text = {};
		config(cases[i].wish, &text);
		for (size_t k = 0; k < 5 && cases[i].has[k]; k++)
			if (!strstr(text.text, cases[i].has[k]))
				fail_msg("%s: no '%s' in\n%s", cases[i].wish, cases[i].has[k], text.text);
		for (size_t k = 0; k < 3 && cases[i].lacks[k]; k++)
			if (strstr(text.text, cases[i].lacks[k]))
				fail_msg("%s: '%s' in\n%s", cases[i].wish, cases[i].lacks[k], text.text);
	}
}

static void write_file(const char *path, const char *text)
{
	autoclose int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void servers(void **state)
{
	static const struct {
		const char *conf, *behind, *first;
		unsigned n;
	} cases[] = {
		{ "nameserver 192.0.2.1\nnameserver 2001:db8::1\n", "nameserver 192.0.2.9\n", "192.0.2.1", 2 },
		{ "search x\n  nameserver\t192.0.2.1 # one\n", "", "192.0.2.1", 1 },
		{ "nameserver 127.0.0.53\n", "nameserver 192.0.2.9\n", "192.0.2.9", 1 },
		{ "nameserver ::1\nnameserver fe80::1%eth0\nnameserver x\n#nameserver 192.0.2.1\n", "", NULL, 0 },
		{ "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\nnameserver 1.1.1.5\n"
		  "nameserver 1.1.1.6\nnameserver 1.1.1.7\nnameserver 1.1.1.8\nnameserver 1.1.1.9\n",
		  "", "1.1.1.1", RESOLVER_SERVERS_MAX },
	};
	char dir[] = "/tmp/forkd-test-XXXXXX", conf[64], behind[64], buf[CIDR_TEXT_BYTES];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(conf, sizeof(conf), "%s/conf", dir);
	snprintf(behind, sizeof(behind), "%s/behind", dir);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct resolver_setup rs = { .n_servers = 5 };
		write_file(conf, cases[i].conf);
		write_file(behind, cases[i].behind);
		resolver_read_servers(&rs, conf, behind);
		assert_int_equal(rs.n_servers, cases[i].n);
		if (cases[i].first)
			assert_string_equal(cidr_text(&rs.servers[0], buf), cases[i].first);
	}
	struct resolver_setup rs = {};
	unlink(conf);
	unlink(behind);
	resolver_read_servers(&rs, conf, behind);
	assert_int_equal(rs.n_servers, 0);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells),
		cmocka_unit_test(servers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
