// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/api/http over real sockets: requests cut and joined in every way, what is refused and how, limits, descriptors that
 * nobody wants, clients that misbehave.
 */
#include "vmm/api/http.h"

#include <sys/resource.h>

#include "tests/unit/api_client.h"

/* ---- what is HTTP, and what not ---- */

#define REFUSED(length, text)                                                    \
	"HTTP/1.1 400 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n" \
	"Content-Type: application/json\r\nContent-Length: " length "\r\n\r\n"   \
	"{ \"error\": \"" text "\nAll previous unanswered requests will be dropped.\" }"
#define INVALID_REQUEST REFUSED("81", "Invalid request.")
#define UNSUPPORTED_METHOD REFUSED("110", "Invalid HTTP Method: Unsupported HTTP method.")
#define UNSUPPORTED_VERSION REFUSED("112", "Invalid HTTP Version: Unsupported HTTP version.")
#define PING_LINE "GET /api/v1/vmm.ping HTTP/1.1\r\n"
#define SNAPSHOT_LINE "PUT /api/v1/vm.snapshot HTTP/1.1\r\n"

static void refuses_what_is_not_http(void **state)
{
	static const struct {
		const char *request, *answer;
	} cases[] = {
		{ "POST /api/v1/vmm.ping HTTP/1.1\r\n\r\n", UNSUPPORTED_METHOD },
		{ "HEAD /api/v1/vmm.ping HTTP/1.1\r\n\r\n", UNSUPPORTED_METHOD },
		{ "CONNECT /api/v1/vmm.ping HTTP/1.1\r\n\r\n", UNSUPPORTED_METHOD },
		{ "get /api/v1/vmm.ping HTTP/1.1\r\n\r\n", UNSUPPORTED_METHOD },
		{ "POST /api/v1/vmm.ping HTTP/1.1\r\n\r\n" PING_LINE "\r\n", UNSUPPORTED_METHOD },
		{ "GET /api/v1/vmm.ping HTTP/0.9\r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping HTTP/1.2\r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping HTTP/2.0\r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping http/1.1\r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping HTTP/1.1 \r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping\r\n\r\n", INVALID_REQUEST },
		{ "GET  /api/v1/vmm.ping HTTP/1.1\r\n\r\n", REFUSED("100", "Invalid URI: Empty URI not allowed.") },
		{ "GET /\xff HTTP/1.1\r\n\r\n", REFUSED("104", "Invalid URI: Cannot parse URI as UTF-8.") },
		{ "hello\r\n", INVALID_REQUEST },
		{ "\r\n\r\n", INVALID_REQUEST },
		{ "\x01\x02\r\n\r\n", INVALID_REQUEST },
		{ "GET /api/v1/vmm.ping HTTP/1.1\n\n", INVALID_REQUEST },
		{ PING_LINE "Host: x\n\r\n", INVALID_REQUEST },
		{ PING_LINE "foo\r\n\r\n",
		  REFUSED("130", "Invalid header. Reason: Header is incorrectly formatted. Key: foo") },
		{ PING_LINE "foo: x\r\n y\r\n\r\n",
		  REFUSED("129", "Invalid header. Reason: Header is incorrectly formatted. Key:  y") },
		{ PING_LINE "foo\"\\\xff\r\n\r\n",
		  REFUSED("133", "Invalid header. Reason: Header is incorrectly formatted. Key: foo???") },
		{ SNAPSHOT_LINE "Content-Length: abc\r\n\r\n{}",
		  REFUSED("134", "Invalid header. Reason: Invalid value. Key:Content-Length; Value: abc") },
		{ SNAPSHOT_LINE "Content-Length: -1\r\n\r\n{}",
		  REFUSED("133", "Invalid header. Reason: Invalid value. Key:Content-Length; Value: -1") },
		{ SNAPSHOT_LINE "Content-Length: 18446744073709551616\r\n\r\n{}",
		  REFUSED("151",
			  "Invalid header. Reason: Invalid value. Key:Content-Length; Value: 18446744073709551616") },
		{ SNAPSHOT_LINE "Content-Length: 4194305\r\n\r\n{}",
		  REFUSED("153", "Request payload with size 4194305 is larger than the limit of 4194304 allowed by "
				 "server.") },
		{ SNAPSHOT_LINE "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", INVALID_REQUEST },
		{ SNAPSHOT_LINE "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", INVALID_REQUEST },
		{ SNAPSHOT_LINE "Transfer-Encoding: gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n", INVALID_REQUEST },
		{ SNAPSHOT_LINE "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", INVALID_REQUEST },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		int fd = client_connect();
		client_send(fd, cases[i].request);
		expect_text(fd, cases[i].answer, true);
		client_send(fd, "PUT /api/v1/vm.delete HTTP/1.1\r\n\r\n"); /* what follows is thrown away */
		expect_text(fd, "", true);
		client_close(fd);
	}
	assert_int_equal(vmm->calls, 0);
}

static void takes_odd_but_valid_http(void **state)
{
	static const char *const requests[] = {
		PING_LINE "\r\n",
		"GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n",
		"GET http://localhost/api/v1/vmm.ping HTTP/1.1\r\n\r\n",
		PING_LINE "Connection: close\r\n\r\n",
		PING_LINE "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		PING_LINE "Empty:\r\nX: \t y \t\r\n\r\n",
		PING_LINE "content-length:2\r\nExpect: something-else\r\n\r\n{}",
		PING_LINE "Content-Length: 02\r\n\r\n{}",
		PING_LINE "Expect: 100-continue\r\n\r\n",
	};
	int fd = client_connect();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		client_send(fd, requests[i]);
		expect_answer(fd, 200, ping_body());
	}
	client_send(fd, "GET http://localhost HTTP/1.1\r\n\r\nGET * HTTP/1.1\r\n\r\n");
	expect_text(fd,
		    "HTTP/1.1 404 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
		    "Content-Type: application/json\r\nContent-Length: 13\r\n\r\n[\"Not Found\"]"
		    "HTTP/1.1 404 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
		    "Content-Type: application/json\r\nContent-Length: 13\r\n\r\n[\"Not Found\"]",
		    false);
	client_close(fd);
}

static void continues_when_asked(void **state)
{
	int fd = client_connect();

	(void)state;
	client_send(fd, SNAPSHOT_LINE "expect: 100-continue\r\nContent-Length: 31\r\n\r\n");
	expect_text(fd, "HTTP/1.1 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n", false);
	client_send(fd, SNAPSHOT);
	expect_answer(fd, 500, NOT_RUNNING("The VM could not be snapshotted"));
	client_send(fd, "PUT /api/v1/vm.snapshot HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 31\r\n\r\n");
	expect_text(fd, "HTTP/1.0 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n", false);
	client_close(fd);
}

static void takes_requests_cut_anywhere(void **state)
{
	autostrbuf struct strbuf request = {}, expected = {};
	int fd = client_connect();

	(void)state;
	add_request(&request, "PUT", "vm.snapshot", SNAPSHOT);
	add_answer(&expected, 500, NOT_RUNNING("The VM could not be snapshotted"));
	for (size_t cut = 1; cut < request.len; cut++) {
		client_send_fds(fd, request.text, cut, NULL, 0);
		expect_text(fd, "", false);
		client_send_fds(fd, request.text + cut, request.len - cut, NULL, 0);
		expect_text(fd, expected.text, false);
	}
	for (size_t i = 0; i < request.len; i++)
		client_send_fds(fd, request.text + i, 1, NULL, 0);
	expect_text(fd, expected.text, false);
	client_close(fd);
}

static void answers_pipelined_requests_in_order(void **state)
{
	autostrbuf struct strbuf request = {}, expected = {};
	int fd = client_connect();

	(void)state;
	for (int i = 0; i < 50; i++) {
		add_request(&request, "GET", "vmm.ping", NULL);
		add_answer(&expected, 200, ping_body());
		add_request(&request, "PUT", "vm.snapshot", SNAPSHOT);
		add_answer(&expected, 500, NOT_RUNNING("The VM could not be snapshotted"));
		add_request(&request, "PUT", "vm.delete", NULL);
		add_answer(&expected, 204, NULL);
	}
	client_send(fd, request.text);
	expect_text(fd, expected.text, false);
	client_send(fd, PING_LINE "\r\nPOST / HTTP/1.1\r\n\r\n");
	strbuf_done(&expected);
	add_answer(&expected, 200, ping_body());
	strbuf_puts(&expected, UNSUPPORTED_METHOD);
	expect_text(fd, expected.text, true);
	client_close(fd);
}

/* ---- limits ---- */

/* A line of `len` bytes, CR LF included. */
static void add_line(struct strbuf *out, const char *head, const char *tail, size_t len)
{
	strbuf_puts(out, head);
	for (size_t i = strlen(head) + strlen(tail) + 2; i < len; i++)
		strbuf_putc(out, 'a');
	strbuf_printf(out, "%s\r\n", tail);
}

static void limits_lines(void **state)
{
	(void)state;
	for (size_t len = 1020; len <= 1030; len++) {
		autostrbuf struct strbuf uri = {}, header = {}, expected = {}, text = {};
		int fd = client_connect();
		add_line(&uri, "GET /api/v1/", " HTTP/1.1", len);
		strbuf_puts(&uri, "\r\n");
		client_send(fd, uri.text);
		if (len <= HTTP_LINE_MAX)
			expect_answer(fd, 404, NOT_FOUND);
		else
			expect_text(fd, INVALID_REQUEST, true);
		client_close(fd);

		fd = client_connect();
		strbuf_puts(&header, PING_LINE);
		add_line(&header, "X: ", "", len);
		strbuf_puts(&header, "\r\n");
		client_send(fd, header.text);
		add_answer(&expected, 200, ping_body());
		bool closed = client_read(fd, &text);
		assert_int_equal(closed, len > HTTP_LINE_MAX);
		if (closed)
			assert_non_null(strstr(text.text, "Content-Length: 1145\r\n\r\n{ \"error\": \"Invalid header. "
							  "Reason: Invalid content length. Header: X: aaaa"));
		else
			assert_string_equal(text.text, expected.text);
		client_close(fd);
	}
	/* No line end at all: refused as soon as the line is full. */
	autostrbuf struct strbuf endless = {};
	int fd = client_connect();
	for (size_t i = 0; i < HTTP_LINE_MAX - 1; i++)
		strbuf_putc(&endless, 'G');
	client_send(fd, endless.text);
	expect_text(fd, "", false);
	client_send(fd, "G");
	expect_text(fd, INVALID_REQUEST, true);
	client_close(fd);
}

static void limits_heads(void **state)
{
	autostrbuf struct strbuf head = {}, text = {};
	int fd = client_connect();

	(void)state;
	strbuf_puts(&head, PING_LINE);
	while (head.len < HTTP_HEAD_MAX - 1024)
		add_line(&head, "X: ", "", 500);
	strbuf_puts(&head, "\r\n");
	client_send(fd, head.text);
	expect_answer(fd, 200, ping_body());
	head.len -= 2;
	for (int i = 0; i < 4; i++)
		add_line(&head, "X: ", "", 500);
	client_send(fd, head.text);
	assert_true(client_read(fd, &text));
	assert_string_equal(text.text, INVALID_REQUEST);
	client_close(fd);
}

static void limits_bodies(void **state)
{
	autostrbuf struct strbuf request = {}, expected = {};
	int fd = client_connect();

	(void)state;
	strbuf_printf(&request, SNAPSHOT_LINE "Content-Length: %d\r\n\r\n" SNAPSHOT, HTTP_BODY_MAX);
	for (size_t i = strlen(SNAPSHOT); i < HTTP_BODY_MAX; i++)
		strbuf_putc(&request, ' ');
	client_send(fd, request.text);
	expect_answer(fd, 500, NOT_RUNNING("The VM could not be snapshotted"));
	expect_alive(fd);

	/* Above it the answer comes at once, and the client can send all it has and still read the answer. */
	strbuf_done(&request);
	strbuf_printf(&request, SNAPSHOT_LINE "Content-Length: %d\r\n\r\n", HTTP_BODY_MAX + 1);
	for (size_t i = 0; i < HTTP_BODY_MAX + 1; i++)
		strbuf_putc(&request, ' ');
	client_send(fd, request.text);
	strbuf_printf(
		&expected,
		REFUSED("153", "Request payload with size %d is larger than the limit of 4194304 allowed by server."),
		HTTP_BODY_MAX + 1);
	expect_text(fd, expected.text, true);
	client_close(fd);
}

static void limits_connections(void **state)
{
	int fds[HTTP_CONNECTIONS_MAX];

	(void)state;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < HTTP_CONNECTIONS_MAX; i++)
			fds[i] = client_connect();
		int extra = client_connect();
		expect_text(extra,
			    "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\n"
			    "Content-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }",
			    true);
		client_close(extra);
		expect_alive(fds[round]);
		client_close(fds[round]);
		fds[round] = client_connect(); /* the slot is free again */
		for (int i = 0; i < HTTP_CONNECTIONS_MAX; i++) {
			expect_alive(fds[i]);
			client_close(fds[i]);
		}
	}
}

/* No descriptor numbers left: the client is turned away, the loop comes to rest, and afterwards all is well. */
static void survives_without_descriptors(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct rlimit old, tight;
	char c;

	(void)state;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), next = dup(fd);
	close(next);
	getrlimit(RLIMIT_NOFILE, &old);
	tight = (struct rlimit){ .rlim_cur = (rlim_t)next, .rlim_max = old.rlim_max };
	setrlimit(RLIMIT_NOFILE, &tight);
	int r = connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr));
	settle();
	setrlimit(RLIMIT_NOFILE, &old);
	assert_int_equal(r, 0);
	assert_int_equal(recv(fd, &c, 1, 0), 1);
	client_close(fd);
	fd = client_connect();
	expect_alive(fd);
	client_close(fd);
}

/* ---- clients that do not behave ---- */

static void does_not_wait_for_slow_clients(void **state)
{
	autostrbuf struct strbuf request = {}, answer = {}, text = {};
	struct err err = {};
	size_t asked = 0;
	int slow = client_connect(), other = client_connect();

	(void)state;
	add_answer(&answer, 200, ping_body());
	for (int i = 0; i < 100; i++)
		strbuf_puts(&request, PING_LINE "\r\n");
	for (;;) { /* until the server stops reading and the socket is full */
		ssize_t n = sock_send(slow, request.text, request.len, NULL, 0, &err);
		settle();
		if (n != (ssize_t)request.len) {
			asked += n > 0 ? (size_t)n : 0;
			break;
		}
		asked += request.len;
		assert_true(asked < 64 << 20);
	}
	expect_alive(other);
	assert_false(client_read(slow, &text));
	assert_int_equal(text.len, asked / strlen(PING_LINE "\r\n") * answer.len);
	assert_memory_equal(text.text + text.len - answer.len, answer.text, answer.len);
	client_close(slow);
	expect_alive(other);
	client_close(other);
}

static void outlives_clients_that_leave(void **state)
{
	autostrbuf struct strbuf request = {};

	(void)state;
	add_request(&request, "PUT", "vm.snapshot", SNAPSHOT);
	for (size_t cut = 0; cut <= request.len; cut++) {
		struct err err = {};
		int fd = client_connect();
		assert_int_equal(cut == 0 ? 0 : sock_send(fd, request.text, cut, NULL, 0, &err), (ssize_t)cut);
		client_close(fd); /* before the server has seen anything */
	}
	int fd = client_connect();
	client_send(fd, PING_LINE "\r\n");
	shutdown(fd, SHUT_WR); /* half closed: the answer still comes */
	settle();
	autostrbuf struct strbuf expected = {};
	add_answer(&expected, 200, ping_body());
	expect_text(fd, expected.text, true);
	client_close(fd);
}

static void closes_descriptors_nobody_wants(void **state)
{
	int sent[SOCK_FDS_MAX];
	int fd = client_connect();

	(void)state;
	make_same_memfds(sent, SOCK_FDS_MAX);
	unsigned before = count_fds();
	client_send_fds(fd, PING_LINE "\r\n", strlen(PING_LINE "\r\n"), sent, 5);
	expect_answer(fd, 200, ping_body());
	static const char create[] = "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
	client_send_fds(fd, create, strlen(create), sent, 5);
	expect_answer(fd, 204, NULL);
	assert_int_equal(count_fds(), before);
	client_send_fds(fd, "GET /", 5, sent, 5);
	assert_int_equal(count_fds(), before + 5);
	client_close(fd); /* in the middle of a request */
	assert_int_equal(count_fds(), before - 2);

	fd = client_connect();
	client_send_fds(fd, "POST / HTTP/1.1\r\n", 17, sent, 5);
	expect_text(fd, UNSUPPORTED_METHOD, true);
	client_send_fds(fd, "more", 4, sent, 5);
	assert_int_equal(count_fds(), before);
	client_close(fd);

	fd = client_connect();
	client_send(fd, "GET ");
	for (unsigned n = 0; n + SOCK_FDS_MAX <= HTTP_FDS_MAX; n += SOCK_FDS_MAX)
		client_send_fds(fd, "/", 1, sent, SOCK_FDS_MAX);
	expect_text(fd, "", false);
	client_send_fds(fd, "/", 1, sent, SOCK_FDS_MAX);
	expect_text(fd, REFUSED("86", "Too many descriptors."), true);
	assert_int_equal(count_fds(), before);
	client_close(fd);
	close(sent[0]);
}

/* ---- noise ---- */

static uint64_t noise;

static uint32_t rnd(uint32_t below)
{
	noise = noise * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(noise >> 33) % below;
}

/* Mostly requests with a few bytes changed, dropped or doubled; sometimes bytes without any sense. */
static void add_noise(struct strbuf *out)
{
	static const char *const methods[] = { "GET", "PUT", "DELETE", "PATCH", "POST", "" };
	static const char *const names[] = { "vmm.ping", "vm.create", "vm.restore", "vm.info", "vm.snapshot", "x" };
	static const char *const bodies[] = { NULL, "", "{}", CONFIG, SNAPSHOT, RESTORE, "[[[[" };
	static const char *const headers[] = { "Content-Length: 7\r\n", "Expect: 100-continue\r\n", ":\r\n",
					       "Transfer-Encoding: chunked\r\n", "Content-Length: 99999999\r\n" };

	if (rnd(10) == 0) {
		for (uint32_t i = rnd(200); i > 0; i--)
			strbuf_putc(out, (char)rnd(256));
		return;
	}
	autostrbuf struct strbuf text = {};
	strbuf_printf(&text, "%s /api/v1/%s HTTP/1.%u\r\n", methods[rnd(6)], names[rnd(6)], rnd(3));
	const char *body = bodies[rnd(7)];
	if (rnd(3) == 0)
		strbuf_puts(&text, headers[rnd(5)]);
	if (body)
		strbuf_printf(&text, "Content-Length: %zu\r\n", strlen(body));
	strbuf_printf(&text, "\r\n%s", body ? body : "");
	for (uint32_t i = rnd(3); i > 0; i--)
		text.text[rnd((uint32_t)text.len)] = (char)rnd(256);
	size_t from = rnd(4) == 0 ? rnd((uint32_t)text.len) : 0;
	strbuf_add(out, text.text + from, text.len - from);
	if (rnd(4) == 0)
		strbuf_add(out, text.text, text.len);
}

static void survives_noise(void **state)
{
	enum { REQUESTS = 5000 };
	int probe = client_connect(), spare[3];
	ino_t inode;

	(void)state;
	noise = 1;
	for (unsigned i = 0; i < ARRAY_LEN(spare); i++)
		spare[i] = make_memfd(&inode);
	unsigned before = count_fds();
	for (int i = 0; i < REQUESTS; i++) {
		autostrbuf struct strbuf bytes = {}, answers = {};
		int fd = client_connect();
		strbuf_puts(&bytes, "");
		add_noise(&bytes);
		size_t cut = bytes.len ? rnd((uint32_t)bytes.len) : 0;
		client_send_fds(fd, bytes.text, cut, spare, cut ? rnd(4) : 0);
		client_send_fds(fd, bytes.text + cut, bytes.len - cut, spare, bytes.len > cut ? rnd(4) : 0);
		client_read(fd, &answers);
		if (answers.len > 0)
			assert_int_equal(strncmp(answers.text, "HTTP/1.", 7), 0);
		client_close(fd);
		assert_int_equal(count_fds(), before);
		if (i % 100 == 0)
			expect_alive(probe);
	}
	for (unsigned i = 0; i < ARRAY_LEN(spare); i++)
		close(spare[i]);
	client_close(probe);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		API_TEST(refuses_what_is_not_http),
		API_TEST(takes_odd_but_valid_http),
		API_TEST(continues_when_asked),
		API_TEST(takes_requests_cut_anywhere),
		API_TEST(answers_pipelined_requests_in_order),
		API_TEST(limits_lines),
		API_TEST(limits_heads),
		API_TEST(limits_bodies),
		API_TEST(limits_connections),
		API_TEST(survives_without_descriptors),
		API_TEST(does_not_wait_for_slow_clients),
		API_TEST(outlives_clients_that_leave),
		API_TEST(closes_descriptors_nobody_wants),
		API_TEST(survives_noise),
	};

	return cmocka_run_group_tests(tests, api_make_dir, api_remove_dir);
}
