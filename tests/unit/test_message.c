// SPDX-License-Identifier: Apache-2.0
/* forkd/front/message: which heads are taken, how bodies are framed, and that it does not matter where the bytes are cut. */
#include "forkd/front/message.h"

#include "forkd/errors.h"
#include "tests/unit/unit.h"

enum { HEAD_MAX = 1000 };

static struct strbuf body;

static void on_body(struct message *m, const char *bytes, size_t len)
{
	(void)m;
	strbuf_add(&body, bytes, len);
}

static void begin(struct message *m, enum http_parser_type type)
{
	message_begin(m, type, HEAD_MAX);
	m->body = on_body;
	body.len = 0;
}

/* Feeds the text in pieces of `step` bytes. Returns how many bytes were taken until the message was complete, or the error's number. */
static ssize_t feed(struct message *m, const char *text, size_t step, struct err *err)
{
	size_t len = strlen(text), at = 0;

	while (at < len && !m->complete) {
		size_t n = len - at < step ? len - at : step;
		char *piece = malloc(n); /* so that a sanitizer sees a byte that is read too far */
		assert_non_null(piece);
		memcpy(piece, text + at, n);
		ssize_t taken = m->has_head ? message_body(m, piece, n, err) : message_head(m, piece, n, err);
		free(piece);
		if (taken < 0)
			return taken;
		assert_true(taken > 0);
		at += (size_t)taken;
	}
	return (ssize_t)at;
}

static void refuse(enum http_parser_type type, const char *text, const char *expected)
{
	struct message m = {};
	struct err err = {};

	begin(&m, type);
	if (feed(&m, text, strlen(text), &err) >= 0)
		fail_msg("taken: %s", text);
	if (!strstr(err.msg, expected))
		fail_msg("%s: '%s' instead of '%s'", text, err.msg, expected);
	message_done(&m);
}

static void requests(void **state)
{
	static const char first[] = "\r\nPOST /a?b=%20c HTTP/1.1\r\nHost: x\r\nX-Test:  a b \t\r\nx-empty:\r\n"
				    "Content-Length: 5\r\nConnection: Foo,  close\r\nExpect: 100-Continue\r\n\r\nhello";
	static const char text[] =
		"\r\nPOST /a?b=%20c HTTP/1.1\r\nHost: x\r\nX-Test:  a b \t\r\nx-empty:\r\n"
		"Content-Length: 5\r\nConnection: Foo,  close\r\nExpect: 100-Continue\r\n\r\nhelloGET /next";

	(void)state;
	for (size_t step = 1; step <= sizeof(text); step++) {
		struct message m = {};
		struct err err = {};
		begin(&m, HTTP_REQUEST);
		assert_int_equal(feed(&m, text, step, &err), sizeof(first) - 1);
		assert_true(m.complete);
		assert_string_equal(m.method, "POST");
		assert_string_equal(m.target, "/a?b=%20c");
		assert_int_equal(m.minor, 1);
		assert_string_equal(message_field(&m, "x-test"), "a b");
		assert_string_equal(message_field(&m, "X-Empty"), "");
		assert_null(message_field(&m, "X"));
		assert_true(message_has_body(&m) && !message_is_chunked(&m));
		assert_int_equal(message_length(&m), 5);
		assert_false(message_keeps_alive(&m));
		assert_true(message_expects_continue(&m));
		assert_int_equal(body.len, 5);
		assert_memory_equal(body.text, "hello", 5);
		message_done(&m);
	}
}

static void chunks(void **state)
{
	static const char first[] = "PUT /x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
				    "3\r\nabc\r\n1;name=value\r\nd\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
	static const char text[] = "PUT /x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
				   "3\r\nabc\r\n1;name=value\r\nd\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nrest";

	(void)state;
	for (size_t step = 1; step <= sizeof(text); step++) {
		struct message m = {};
		struct err err = {};
		begin(&m, HTTP_REQUEST);
		assert_int_equal(feed(&m, text, step, &err), sizeof(first) - 1);
		assert_true(message_has_body(&m) && message_is_chunked(&m));
		assert_int_equal(message_length(&m), UINT64_MAX);
		assert_int_equal(body.len, 14);
		assert_memory_equal(body.text, "abcd0123456789", 14);
		message_done(&m);
	}
}

static void other_methods(void **state)
{
	static const char *const lines[] = { "GET / HTTP/1.0",       "get /x HTTP/1.1",    "X-Y!z * HTTP/1.1",
					     "CONNECT h:1 HTTP/1.1", "GET /\xff HTTP/1.1", "GET http://h/x HTTP/1.1" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		struct message m = {};
		struct err err = {};
		char text[128];
		snprintf(text, sizeof(text), "%s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", lines[i]);
		begin(&m, HTTP_REQUEST);
		assert_int_equal(feed(&m, text, strlen(text), &err), strlen(text));
		assert_true(m.complete && !message_has_body(&m));
		assert_int_equal(message_keeps_alive(&m), i != 0);
		assert_int_equal(strncmp(m.method, lines[i], strlen(m.method)), 0);
		message_done(&m);
	}
}

static void bad_requests(void **state)
{
	static const struct {
		const char *text, *expected;
	} cases[] = {
		{ "GET /\r\n\r\n", "the request line must be METHOD TARGET HTTP/1.1: 'GET /'" },
		{ "GET  / HTTP/1.1\r\n\r\n", "the request line must be" },
		{ "GET / HTTP/1.1 \r\n\r\n", "is not of HTTP/1.1" },
		{ "GET / HTTP/2.0\r\n\r\n", "is not of HTTP/1.1" },
		{ "GET / HTTP/1.2\r\n\r\n", "is not of HTTP/1.1" },
		{ "GET / http/1.1\r\n\r\n", "is not of HTTP/1.1" },
		{ "GET /\x01 HTTP/1.1\r\n\r\n", "the request line must be" },
		{ "GET /a#b HTTP/1.1\r\n\r\n", "a fragment is not a part of a target: '/a#b'" },
		{ "\x16\x03\x01\x02\n", "a line does not end with CR LF" },
		{ "(GET) / HTTP/1.1\r\n\r\n", "has no method" },
		{ "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1\r\n\r\n", "has no method" },
		{ "GET / HTTP/1.1\nHost: x\r\n\r\n", "CR LF" },
		{ "GET / HTTP/1.1\r\nHost: x\n\r\n", "CR LF" },
		{ "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "is no field: ' c'" },
		{ "GET / HTTP/1.1\r\n: b\r\n\r\n", "is no field" },
		{ "GET / HTTP/1.1\r\nA : b\r\n\r\n", "is no field" },
		{ "GET / HTTP/1.1\r\nA\r\n\r\n", "is no field" },
		{ "GET / HTTP/1.1\r\nA: b\x02\r\n\r\n", "control characters" },
		{ "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", "control characters" },
		{ "P / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "is given twice" },
		{ "P / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "is given twice" },
		{ "P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		  "is given twice" },
		{ "P / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "is not 'chunked': 'gzip, chunked'" },
		{ "P / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", "is not 'chunked'" },
		{ "P / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0" },
		{ "P / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "is no number: '+1'" },
		{ "P / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", "is no number" },
		{ "P / HTTP/1.1\r\nContent-Length:\r\n\r\n", "is no number" },
		{ "P / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", "content-length" },
		{ "P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "chunk size" },
		{ "P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "chunk size" },
		{ "P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", "content-length" },
		{ "P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "the request: " },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		refuse(HTTP_REQUEST, cases[i].text, cases[i].expected);
}

static void long_heads(void **state)
{
	struct message m = {};
	struct err err = {};
	char text[HEAD_MAX + 100];

	(void)state;
	for (unsigned more = 0; more < 2; more++) {
		const size_t fixed = strlen("GET / HTTP/1.1\r\nA: \r\n\r\n");
		snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nA: %0*d\r\n\r\n", (int)(HEAD_MAX - fixed + more), 0);
		begin(&m, HTTP_REQUEST);
		ssize_t n = feed(&m, text, 100, &err);
		assert_int_equal(n, more ? err.num : HEAD_MAX);
		message_done(&m);
	}
	assert_int_equal(err.detail, E_TOO_LARGE);
	assert_string_equal(err.msg, "the head has more than 1000 bytes");
}

static void responses(void **state)
{
	static const struct {
		const char *text;
		bool answers_head;
		unsigned status;
		const char *body; /* NULL: the message ends with the connection */
	} cases[] = {
		{ "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, 200, "hi" },
		{ "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", false, 200, "hi" },
		{ "HTTP/1.1 404 Not \xff Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", false, 404,
		  "hi" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", true, 200, "" },
		{ "HTTP/1.1 200 OK\r\n\r\n", true, 200, "" },
		{ "HTTP/1.1 204 No Content\r\n\r\n", false, 204, "" },
		{ "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", false, 304, "" },
		{ "HTTP/1.1 100 Continue\r\n\r\n", false, 100, "" },
		{ "HTTP/1.1 200 OK\r\n\r\nhi", false, 200, NULL },
		{ "HTTP/1.0 200 OK\r\n\r\nhi", false, 200, NULL },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		for (size_t step = 1; step < 100; step += 3) {
			struct message m = {};
			struct err err = {};
			begin(&m, HTTP_RESPONSE);
			m.answers_head = cases[i].answers_head;
			if (feed(&m, cases[i].text, step, &err) != (ssize_t)strlen(cases[i].text))
				fail_msg("%s: %s", cases[i].text, err.msg);
			assert_int_equal(m.status, cases[i].status);
			assert_int_equal(m.complete, cases[i].body != NULL);
			assert_int_equal(message_has_body(&m), !cases[i].body || cases[i].body[0]);
			assert_int_equal(message_eof(&m, &err), 0);
			assert_true(m.complete);
			const char *expected = cases[i].body ? cases[i].body : "hi";
			assert_int_equal(body.len, strlen(expected));
			assert_int_equal(strncmp(body.len ? body.text : "", expected, body.len), 0);
			message_done(&m);
		}
	}
}

static void bad_responses(void **state)
{
	static const struct {
		const char *text, *expected;
	} cases[] = {
		{ "SSH-2.0-OpenSSH\r\n\r\n", "is not of HTTP/1.1: 'SSH-2.0-OpenSSH'" },
		{ "\r\nHTTP/1.1 200 OK\r\n\r\n", "is not of HTTP/1.1" },
		{ "HTTP/1.1 2x0 OK\r\n\r\n", "has no status" },
		{ "HTTP/1.1 999 OK\r\n\r\n", "has no status" },
		{ "HTTP/1.1 099 OK\r\n\r\n", "has no status" },
		{ "HTTP/1.1 2000 OK\r\n\r\n", "is not of HTTP/1.1" },
		{ "HTTP/1.1\t200 OK\r\n\r\n", "is not of HTTP/1.1" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "is given twice" },
		{ "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "is not 'chunked'" },
	};
	static const char *const cut[] = { "", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh",
					   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		refuse(HTTP_RESPONSE, cases[i].text, cases[i].expected);
	for (size_t i = 0; i < ARRAY_LEN(cut); i++) {
		struct message m = {};
		struct err err = {};
		begin(&m, HTTP_RESPONSE);
		assert_int_equal(feed(&m, cut[i], 7, &err), strlen(cut[i]));
		assert_true(message_eof(&m, &err) < 0);
		assert_int_equal(err.detail, E_INVALID);
		message_done(&m);
	}
}

static void lists(void **state)
{
	(void)state;
	assert_true(message_listed("close", "close"));
	assert_true(message_listed("a, Close ,b", "close"));
	assert_true(message_listed(",\tclose", "close"));
	assert_false(message_listed("closed", "close"));
	assert_false(message_listed("x-close", "close"));
	assert_false(message_listed("", "close"));
	assert_false(message_listed(NULL, "close"));
}

static int tear_down_all(void **state)
{
	(void)state;
	strbuf_done(&body);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests),      cmocka_unit_test(chunks),     cmocka_unit_test(other_methods),
		cmocka_unit_test(bad_requests),  cmocka_unit_test(long_heads), cmocka_unit_test(responses),
		cmocka_unit_test(bad_responses), cmocka_unit_test(lists),
	};
	return cmocka_run_group_tests(tests, NULL, tear_down_all);
}
