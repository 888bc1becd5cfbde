// SPDX-License-Identifier: Apache-2.0
/* What a guest's agent may answer: right, wrong, too long, in pieces, never. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "forkd/agent/agent_http.h"
#include "forkd/errors.h"

/* fail() is forkd's here; cmocka has a macro of this name. */
#include <cmocka.h>

static uint64_t soon(uint64_t ms)
{
	return monotonic_ns() + ms * 1000000;
}

/* Lets the agent say `said` and hang up; returns agent_receive()'s result. */
static int hear(const char *said, size_t len, struct agent_answer *ret, struct err *err)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	for (size_t i = 0; i < len; i += 1000)
		assert_true(send(fd[1], said + i, len - i < 1000 ? len - i : 1000, MSG_DONTWAIT) > 0);
	shutdown(fd[1], SHUT_WR);
	int r = agent_receive(fd[0], soon(5000), ret, err);
	close(fd[0]);
	close(fd[1]);
	return r;
}

static void answers(void **state)
{
	static const struct {
		const char *said;
		unsigned status;
		const char *key;
	} cases[] = {
		{ "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\": 1}\n", 200, "a" },
		{ "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"b\"\r\n3\r\n:2}\r\n0\r\n\r\n", 200,
		  "b" },
		{ "HTTP/1.1 200 OK\r\n\r\n{\"until\": \"eof\"}", 200, "until" },
		{ "HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\n{\"message\":\"x\"}", 404, "message" },
		{ "HTTP/1.1 204 No Content\r\n\r\n", 204, NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoanswer struct agent_answer a = {};
		struct err err = {};
		assert_int_equal(hear(cases[i].said, strlen(cases[i].said), &a, &err), 0);
		assert_int_equal(a.status, cases[i].status);
		if (cases[i].key)
			assert_non_null(json_get(a.body, cases[i].key));
		else
			assert_null(a.body);
	}
}

static void no_answers(void **state)
{
	static const struct {
		const char *said, *why;
	} cases[] = {
		{ "", "has hung up before" },
		{ "HTTP/1.1 200 OK\r\nContent-Le", "has hung up before" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", "has hung up before" },
		{ "SSH-2.0-OpenSSH\r\n", "is not HTTP" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "is not HTTP" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", "is not HTTP" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "is an array, not an object" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope", "answer of the guest's agent" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoanswer struct agent_answer a = {};
		struct err err = {};
		char line[ERR_MSG_BYTES];
		assert_true(hear(cases[i].said, strlen(cases[i].said), &a, &err) < 0);
		assert_int_equal(err.detail, E_AGENT);
		if (!strstr(err_line(&err, line, sizeof(line)), cases[i].why))
			fail_msg("'%s' says '%s'", cases[i].said, line);
	}
}

static void flood(void **state)
{
	static const char head[] = "HTTP/1.1 200 OK\r\n\r\n";
	static char said[120000];
	autoanswer struct agent_answer a = {};
	struct err err = {};
	int fd[2];

	(void)state;
	/* A body without an end, in a buffer that the kernel takes at once: AGENT_ANSWER_MAX is less than both. */
	int bytes = 4 << 20;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	setsockopt(fd[1], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
	memset(said, 'x', sizeof(said));
	assert_true(send(fd[1], head, strlen(head), 0) > 0);
	for (int i = 0; i < 4; i++)
		assert_true(send(fd[1], said, sizeof(said), MSG_DONTWAIT) > 0);
	assert_true(agent_receive(fd[0], soon(5000), &a, &err) < 0);
	assert_int_equal(err.detail, E_AGENT);
	assert_non_null(strstr(err.msg, "sends more than 262144 bytes"));
	assert_true(a.text.len <= AGENT_ANSWER_MAX);
	close(fd[0]);
	close(fd[1]);
}

static void silence(void **state)
{
	autoanswer struct agent_answer a = {};
	struct err err = {};
	int fd[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	assert_true(agent_receive(fd[0], soon(20), &a, &err) < 0);
	assert_int_equal(err.detail, E_TIMEOUT);
	/* An agent that takes nothing */
	autostrbuf struct strbuf body = {};
	static char big[1 << 20];
	memset(big, ' ', sizeof(big));
	strbuf_add(&body, big, sizeof(big));
	const struct agent_request rq = {
		.method = "POST", .target = "/v1/identity", .body = &body, .deadline_ns = soon(20)
	};
	err = (struct err){};
	assert_true(agent_send(fd[0], &rq, &err) < 0);
	assert_int_equal(err.detail, E_TIMEOUT);
	close(fd[0]);
	close(fd[1]);
}

static void request(void **state)
{
	autostrbuf struct strbuf body = {};
	struct err err = {};
	char got[512];
	int fd[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	strbuf_puts(&body, "{\"x\":1}");
	struct agent_request rq = { .method = "POST", .target = "/v1/thaw", .body = &body, .deadline_ns = soon(1000) };
	assert_int_equal(agent_send(fd[0], &rq, &err), 0);
	got[recv(fd[1], got, sizeof(got) - 1, 0)] = '\0';
	assert_string_equal(got, "POST /v1/thaw HTTP/1.1\r\nHost: agent\r\n"
				 "Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"x\":1}");
	rq.type = "application/x";
	rq.fields = "A: 1\r\nB: 2\r\n";
	assert_int_equal(agent_send(fd[0], &rq, &err), 0);
	got[recv(fd[1], got, sizeof(got) - 1, 0)] = '\0';
	assert_string_equal(got, "POST /v1/thaw HTTP/1.1\r\nHost: agent\r\nA: 1\r\nB: 2\r\n"
				 "Content-Type: application/x\r\nContent-Length: 7\r\n\r\n{\"x\":1}");
	rq = (struct agent_request){ .method = "GET", .target = "/v1/hello", .deadline_ns = soon(1000) };
	assert_int_equal(agent_send(fd[0], &rq, &err), 0);
	got[recv(fd[1], got, sizeof(got) - 1, 0)] = '\0';
	assert_string_equal(got, "GET /v1/hello HTTP/1.1\r\nHost: agent\r\n\r\n");
	close(fd[1]);
	close(fd[0]);
}

static void wrong_status(void **state)
{
	static const char said[] =
		"HTTP/1.1 500 Oops\r\nContent-Length: 34\r\n\r\n{\"message\":\"step \\u001b[2J hooks\"}";
	autoanswer struct agent_answer a = {};
	struct err err = {};

	(void)state;
	assert_int_equal(hear(said, strlen(said), &a, &err), 0);
	assert_true(agent_want(&a, 200, "identity", &err) < 0);
	assert_string_equal(err.msg, "identity: the guest's agent answers 500: step ?[2J hooks");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers), cmocka_unit_test(no_answers), cmocka_unit_test(flood),
		cmocka_unit_test(silence), cmocka_unit_test(request),    cmocka_unit_test(wrong_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
