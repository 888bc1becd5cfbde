// SPDX-License-Identifier: Apache-2.0
/* overrides.identity, and what the daemon says to a guest's agent about it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "forkd/agent/agent_http.h"
#include "forkd/agent/identity.h"
#include "forkd/errors.h"

/* fail() is forkd's here; cmocka has a macro of this name. */
#include <cmocka.h>

static int load(const char *text, struct identity_wish *ret, struct err *err)
{
	char *copy = strdup(text);
	struct json json = {};

	assert_int_equal(json_parse(&json, copy, strlen(copy), err), 0);
	int r = identity_wish_load(json.nodes, ret, err);
	json_done(&json);
	free(copy);
	return r;
}

static void wishes(void **state)
{
	struct identity_wish w = {};
	struct err err = {};

	(void)state;
	assert_int_equal(load("null", &w, &err), 0);
	assert_false(identity_wish_is_secret(&w));
	assert_int_equal(
		load("{\"hostname\":\"web-1.example\",\"machine_id\":\"0123456789abcdef0123456789abcdef\"}", &w, &err),
		0);
	assert_string_equal(w.hostname, "web-1.example");
	assert_false(identity_wish_is_secret(&w));
	identity_wish_done(&w);
	assert_int_equal(load("{\"env\":{\"TOKEN\":\"s3cret\"},\"files\":[{\"path\":\"/a\",\"content\":\"hi\\n\"},"
			      "{\"path\":\"/b\",\"mode\":\"0644\",\"owner\":\"www\",\"content_b64\":\"AAECAw==\"}]}",
			      &w, &err),
			 0);
	assert_true(identity_wish_is_secret(&w));
	assert_string_equal(w.env, "{\"TOKEN\":\"s3cret\"}");
	assert_string_equal(w.files, "[{\"path\":\"/a\",\"mode\":384,\"content\":\"aGkK\"},"
				     "{\"path\":\"/b\",\"mode\":420,\"owner\":\"www\",\"content\":\"AAECAw==\"}]");
	identity_wish_done(&w);
	assert_null(w.env);
}

static void bad_wishes(void **state)
{
	static const struct {
		const char *json, *why;
	} cases[] = {
		{ "[]", "identity" },
		{ "{\"host\":\"x\"}", "there is no field 'host'" },
		{ "{\"hostname\":\"\"}", "'' is no name of a host" },
		{ "{\"hostname\":\"-a\"}", "is no name of a host" },
		{ "{\"hostname\":\"a-.b\"}", "is no name of a host" },
		{ "{\"hostname\":\"a..b\"}", "is no name of a host" },
		{ "{\"hostname\":\"a b\"}", "is no name of a host" },
		{ "{\"hostname\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
		  "no name of a host" },
		{ "{\"machine_id\":\"00000000000000000000000000000000\"}", "is zero" },
		{ "{\"default_user\":\"\"}", "is no name of a user" },
		{ "{\"default_user\":\"a:b\"}", "is no name of a user" },
		{ "{\"machine_id\":\"0123456789ABCDEF0123456789abcdef\"}", "is not 32 of" },
		{ "{\"env\":[]}", "env: expected an object" },
		{ "{\"env\":{\"A=B\":\"s3cret\"}}", "env: a name is empty, too long or has '='" },
		{ "{\"env\":{\"A\":1}}", "env.A: expected a string, found an integer" },
		{ "{\"files\":{}}", "files: expected an array" },
		{ "{\"files\":[{\"path\":\"a\",\"content\":\"s3cret\"}]}", "files[0].path: expected an absolute path" },
		{ "{\"files\":[{\"path\":\"/a\"}]}", "expected one of content and content_b64" },
		{ "{\"files\":[{\"path\":\"/a\",\"content\":\"s3cret\",\"content_b64\":\"\"}]}", "expected one of" },
		{ "{\"files\":[{\"path\":\"/a\",\"content_b64\":\"s3cret\"}]}", "content_b64 is no base64" },
		{ "{\"files\":[{\"path\":\"/a\",\"content\":\"s3cret\",\"mode\":\"9\"}]}", "'9' is no octal mode" },
		{ "{\"files\":[{\"path\":\"/a\",\"content\":\"s3cret\",\"mode\":\"10000\"}]}", "is no octal mode" },
		{ "{\"files\":[{\"path\":\"/a\",\"content\":\"s3cret\",\"more\":1}]}", "there is no field 'more'" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct identity_wish w = {};
		struct err err = {};
		char line[ERR_MSG_BYTES];
		assert_true(load(cases[i].json, &w, &err) < 0);
		identity_wish_done(&w);
		err_line(&err, line, sizeof(line));
		if (!strstr(line, cases[i].why) || strstr(line, "s3cret"))
			fail_msg("%s: '%s'", cases[i].json, line);
		assert_int_equal(error_info(&err)->status, 400);
	}
}

/* One more than fits, and as many as fit. */
static void bounds(void **state)
{
	for (unsigned more = 0; more < 2; more++)
		for (unsigned kind = 0; kind < 3; kind++) {
			autostrbuf struct strbuf text = {};
			struct identity_wish w = {};
			struct err err = {};
			unsigned n = (kind == 0 ? 256 : kind == 1 ? 64 : 65536 - 8) + more;
			strbuf_puts(&text, kind == 1 ? "{\"files\":[" : "{\"env\":{");
			if (kind == 2)
				strbuf_puts(&text, "\"A\":\"");
			for (unsigned i = 0; i < n; i++)
				if (kind == 0)
					strbuf_printf(&text, "%s\"V%u\":\"\"", i ? "," : "", i);
				else if (kind == 1)
					strbuf_printf(&text, "%s{\"path\":\"/%u\",\"content\":\"\"}", i ? "," : "", i);
				else
					strbuf_putc(&text, 'x');
			strbuf_puts(&text, kind == 1 ? "]}" : kind == 2 ? "\"}}" : "}}");
			int r = load(text.text, &w, &err);
			identity_wish_done(&w);
			if (more ? r >= 0 || !strstr(err.msg, "at most") : r < 0)
				fail_msg("kind %u, %u: %s", kind, n, err.msg);
		}
	(void)state;
}

static uint64_t soon(void)
{
	return monotonic_ns() + 5000000000;
}

/* Two requests of one wish: everything that must differ does. */
static void requests(void **state)
{
	static const char *const differ[] = { "nonce", "generation", "boot_id", "entropy", "machine_id" };
	const struct identity_wish wish = { .env = strdup("{\"A\":\"b\"}"), .default_user = strdup("joe") };
	char said[2][4096], nonce[2][NONCE_HEX + 1];
	struct json json[2] = {};
	struct err err = {};
	int fd[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(identity_send(fd[0], "c-1", &wish, i == 0, soon(), nonce[i], &err), 0);
		said[i][recv(fd[1], said[i], sizeof(said[i]) - 1, 0)] = '\0';
		assert_memory_equal(said[i], "POST /v1/identity HTTP/1.1\r\n", 28);
		char *body = strstr(said[i], "\r\n\r\n") + 4;
		assert_int_equal(json_parse(&json[i], body, strlen(body), &err), 0);
		assert_string_equal(json_get(json[i].nodes, "nonce")->str, nonce[i]);
		assert_string_equal(json_get(json[i].nodes, "hostname")->str, "c-1");
		assert_string_equal(json_get(json_get(json[i].nodes, "env"), "A")->str, "b");
		assert_string_equal(json_get(json[i].nodes, "default_user")->str, "joe");
		assert_int_equal(json_get(json[i].nodes, "thaw")->num, i == 0);
		assert_int_equal(json_get(json[i].nodes, "entropy")->count, 88);
		assert_int_equal(json_get(json[i].nodes, "generation")->count, 36);
	}
	for (size_t k = 0; k < ARRAY_LEN(differ); k++)
		assert_string_not_equal(json_get(json[0].nodes, differ[k])->str,
					json_get(json[1].nodes, differ[k])->str);
	for (int i = 0; i < 2; i++)
		json_done(&json[i]);
	free(wish.env);
	free(wish.default_user);
	close(fd[0]);
	close(fd[1]);
}

/* An acknowledgement counts only with the nonce of this request. */
static void acknowledgements(void **state)
{
	static const char nonce[] = "00112233445566778899aabbccddeeff";
	static const struct {
		const char *said, *why;
	} cases[] = {
		{ "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n{\"nonce\":\"00112233445566778899aabbccddeeff\"}",
		  NULL },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n{\"nonce\":\"10112233445566778899aabbccddeeff\"}",
		  "another identity" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "another identity" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "another identity" },
		{ "HTTP/1.1 500 No\r\nContent-Length: 26\r\n\r\n{\"message\":\"step 'clock'\"}\n",
		  "500: step 'clock'" },
		{ "", "hung up" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {};
		char line[ERR_MSG_BYTES];
		int fd[2];
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
		assert_true(send(fd[1], cases[i].said, strlen(cases[i].said), 0) >= 0);
		close(fd[1]);
		int r = identity_await(fd[0], nonce, soon(), &err);
		close(fd[0]);
		if (cases[i].why ? r >= 0 || !strstr(err_line(&err, line, sizeof(line)), cases[i].why) : r < 0)
			fail_msg("case %zu: %d, '%s'", i, r, err_line(&err, line, sizeof(line)));
	}
}

static void hellos(void **state)
{
	static const struct {
		const char *body, *agent, *why;
	} cases[] = {
		{ "{\"agent\":\"0.1.0\",\"protocol\":1,\"more\":[]}", "0.1.0", NULL },
		{ "{\"agent\":\"\\u001b[2J\",\"protocol\":1}", "?[2J", NULL },
		{ "{\"agent\":\"9\",\"protocol\":2}", NULL, "agent 9 speaks protocol 2, this forkd 1" },
		{ "{\"protocol\":1}", NULL, "agent: missing" },
		{ "{\"agent\":\"1\",\"protocol\":\"1\"}", NULL, "protocol: " },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autostrbuf struct strbuf said = {};
		struct agent_hello h = {};
		struct err err = {};
		char line[ERR_MSG_BYTES];
		int fd[2];
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
		strbuf_printf(&said, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(cases[i].body),
			      cases[i].body);
		assert_true(send(fd[1], said.text, said.len, 0) > 0);
		int r = agent_hello(fd[0], soon(), &h, &err);
		close(fd[0]);
		close(fd[1]);
		err_line(&err, line, sizeof(line));
		if (cases[i].why ? r >= 0 || !strstr(line, cases[i].why)
				 : r < 0 || strcmp(h.agent, cases[i].agent) != 0)
			fail_msg("%s: %d, '%s'", cases[i].body, r, line);
		fields_free(agent_hello_fields, &h);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wishes),   cmocka_unit_test(bad_wishes),       cmocka_unit_test(bounds),
		cmocka_unit_test(requests), cmocka_unit_test(acknowledgements), cmocka_unit_test(hellos),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
