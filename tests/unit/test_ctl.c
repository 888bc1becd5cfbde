// SPDX-License-Identifier: Apache-2.0
/* common/ctl: packets with descriptors there and back, errors that keep their code and links, and what is not a packet. */
#include "common/ctl.h"

#include <errno.h>
#include <sys/socket.h>

#include "tests/unit/unit.h"

static void open_pair(int pair[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
}

static void close_pair(const int pair[2])
{
	close(pair[0]);
	close(pair[1]);
}

static void request_with_fds(void **state)
{
	struct ctl_fd what[] = { { .kind = CTL_FD_API }, { .kind = CTL_FD_NET, .id = (char[]){ "net1" } } };
	const struct ctl_restore rq = { .fds = what, .n_fds = 2, .resume = true, .clock = CTL_CLOCK_CONTINUE };
	autostrbuf struct strbuf out = {};
	autoctl struct ctl_packet p = {};
	struct ctl_restore got;
	struct err err = {};
	int pair[2], fds[] = { 0, 1 };
	unsigned before = count_fds();

	(void)state;
	open_pair(pair);
	ctl_request(&out, "restore", ctl_restore_fields, &rq, "\"overrides\":{\"rng\":{}}");
	assert_string_equal(out.text,
			    "{\"op\":\"restore\",\"fds\":[{\"kind\":\"api\",\"format\":\"configured\"},"
			    "{\"kind\":\"net\",\"id\":\"net1\",\"format\":\"configured\"}],"
			    "\"resume\":true,\"net_held\":false,\"clock\":\"continue\",\"overrides\":{\"rng\":{}}}");
	assert_int_equal(ctl_send(pair[0], &out, fds, 2, &err), 0);
	assert_int_equal(ctl_recv(pair[1], &p, &err), 1);
	assert_int_equal(p.n_fds, 2);
	fields_init(ctl_restore_fields, &got);
	assert_int_equal(fields_load(ctl_restore_fields, &got, p.json.nodes, "restore", &err), 0);
	assert_int_equal(got.n_fds, 2);
	assert_int_equal(got.fds[1].kind, CTL_FD_NET);
	assert_string_equal(got.fds[1].id, "net1");
	assert_true(got.resume);
	assert_non_null(json_get(p.json.nodes, "overrides"));
	fields_free(ctl_restore_fields, &got);
	assert_int_equal(ctl_recv(pair[1], &p, &err), -EAGAIN);
	assert_int_equal(err.code, ERR_NONE);
	close_pair(pair);
	assert_int_equal(count_fds(), before);
}

/* A process that ends says why, though it has not read what was sent to it meanwhile. */
static void last_word_of_one_that_has_not_read(void **state)
{
	const struct ctl_exiting e = { .reason = (char[]){ "the end" } };
	autostrbuf struct strbuf request = {}, last = {};
	autoctl struct ctl_packet p = {};
	struct err err = {};
	int pair[2];

	(void)state;
	open_pair(pair);
	ctl_request(&request, "stats", NULL, NULL, NULL);
	ctl_event(&last, "exiting", ctl_exiting_fields, &e);
	assert_int_equal(ctl_send(pair[0], &request, NULL, 0, &err), 0);
	assert_int_equal(ctl_send(pair[1], &last, NULL, 0, &err), 0);
	close(pair[1]);
	assert_int_equal(ctl_recv(pair[0], &p, &err), 1);
	assert_string_equal(json_get(p.json.nodes, "reason")->str, "the end");
	assert_int_equal(ctl_recv(pair[0], &p, &err), 0);
	assert_int_equal(err.code, ERR_NONE);
	close(pair[0]);
}

static void replies(void **state)
{
	struct ctl_snapshotted s = { .paused_us = 1234 }, got = {};
	autostrbuf struct strbuf out = {};
	autoctl struct ctl_packet p = {};
	struct err failed = {}, err = {};
	int pair[2];

	(void)state;
	open_pair(pair);
	ctl_reply(&out, ctl_snapshotted_fields, &s);
	assert_string_equal(out.text, "{\"ok\":true,\"paused_us\":1234,\"reboots\":0}");
	assert_int_equal(ctl_send(pair[0], &out, NULL, 0, &err), 0);
	assert_int_equal(ctl_recv(pair[1], &p, &err), 1);
	assert_int_equal(ctl_parse_reply(&p, ctl_snapshotted_fields, &got, &err), 0);
	assert_int_equal(got.paused_us, 1234);

	strbuf_done(&out);
	err_set(&failed, ERR_CONFLICT, "disk \"%s\" is taken", "a\\b");
	err_wrap(&failed, "clone 7");
	ctl_reply_error(&out, &failed);
	assert_int_equal(ctl_send(pair[0], &out, NULL, 0, &err), 0);
	assert_int_equal(ctl_recv(pair[1], &p, &err), 1);
	assert_int_equal(ctl_parse_reply(&p, ctl_snapshotted_fields, &got, &err), -EEXIST);
	assert_int_equal(err.code, ERR_CONFLICT);
	assert_string_equal(err.msg, "clone 7\ndisk \"a\\b\" is taken");

	close(pair[0]);
	assert_int_equal(ctl_recv(pair[1], &p, &err), 0);
	close(pair[1]);
}

static void not_packets(void **state)
{
	static const struct {
		const char *text, *msg;
	} cases[] = {
		{ "[1]", "a control packet is an array, not an object" },
		{ "{\"op\":1,\"op\":2}", "duplicate key" },
		{ "hello", "control packet" },
	};
	int pair[2];

	(void)state;
	open_pair(pair);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoctl struct ctl_packet p = {};
		struct err err = {};
		assert_true(send(pair[0], cases[i].text, strlen(cases[i].text), 0) > 0);
		assert_true(ctl_recv(pair[1], &p, &err) < 0);
		if (!strstr(err.msg, cases[i].msg))
			fail_msg("%s: %s", cases[i].text, err.msg);
	}
	autoctl struct ctl_packet p = {};
	struct err err = {};
	autofree char *much = calloc(1, CTL_PACKET_MAX + 2);
	memset(much, ' ', CTL_PACKET_MAX + 1);
	assert_int_equal(send(pair[0], much, CTL_PACKET_MAX + 1, 0), CTL_PACKET_MAX + 1);
	assert_true(ctl_recv(pair[1], &p, &err) < 0);
	assert_non_null(strstr(err.msg, "longer than"));
	struct strbuf long_text = { .text = much, .len = CTL_PACKET_MAX + 1 };
	assert_int_equal(ctl_send(pair[0], &long_text, NULL, 0, &err), -EINVAL);
	close_pair(pair);
}

/* What the other side's hello says, and the version by which the two go. */
static void versions(void **state)
{
	static const struct {
		const char *hello;
		int version;
		const char *msg;
	} cases[] = {
		{ "{}", 0, NULL },
		{ "{\"version\":1}", 1, NULL },
		{ "{\"version\":1,\"oldest\":1}", 1, NULL },
		{ "{\"version\":9,\"oldest\":1,\"more\":[]}", 3, NULL },
		{ "{\"version\":9,\"oldest\":4}", -EEXIST,
		  "it speaks versions 4 to 9 of the control protocol, this one 0 to 3" },
		{ "{\"version\":-1}", -EINVAL, "hello.version: " },
		{ "{\"version\":\"1\"}", -EINVAL, "hello.version: " },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autojson struct json json = {};
		struct err err = {};
		char text[64];
		snprintf(text, sizeof(text), "%s", cases[i].hello);
		assert_int_equal(json_parse(&json, text, strlen(text), &err), 0);
		assert_int_equal(ctl_agree(json.nodes, "it", "this one", &err), cases[i].version);
		if (cases[i].msg && strncmp(err.msg, cases[i].msg, strlen(cases[i].msg)) != 0)
			fail_msg("%s: %s", cases[i].hello, err.msg);
	}
}

/* A code that only a newer release has. */
static void error_of_a_newer_release(void **state)
{
	autoctl struct ctl_packet p = {};
	struct err err = {};
	int pair[2];
	const char text[] = "{\"error\":{\"code\":77,\"num\":5,\"message\":\"odd\"}}";

	(void)state;
	open_pair(pair);
	assert_int_equal(send(pair[0], text, strlen(text), 0), strlen(text));
	assert_int_equal(ctl_recv(pair[1], &p, &err), 1);
	assert_true(ctl_parse_reply(&p, NULL, NULL, &err) < 0);
	assert_int_equal(err.code, ERR_INTERNAL);
	assert_string_equal(err.msg, "odd");
	close_pair(pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(request_with_fds), cmocka_unit_test(last_word_of_one_that_has_not_read),
		cmocka_unit_test(replies),          cmocka_unit_test(not_packets),
		cmocka_unit_test(versions),         cmocka_unit_test(error_of_a_newer_release),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
