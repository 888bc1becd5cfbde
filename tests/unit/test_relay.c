// SPDX-License-Identifier: Apache-2.0
/* forkd/front/relay: what reaches a server, what comes back, and what neither side can do to the other. */
#include "forkd/front/front.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "common/log.h"
#include "forkd/errors.h"
#include "forkd/front/relay.h"
#include "tests/unit/http_client.h"

static char dir[] = "/tmp/forkd-test-relay-XXXXXX";
static char path[64];
static struct front *front;
static struct sock_listener listener;
static int server; /* the other end of the socket that the next request is passed on to */
static atomic_uint n_done, status_seen;

/* ---- an owner that passes everything on ---- */

static void *on_head(void *arg, struct conn *c)
{
	(void)arg;
	if (strcmp(conn_request(c)->target, "/plain") != 0)
		conn_begin_now(c);
	return c;
}

static bool on_body(void *rq, const char *bytes, size_t len)
{
	(void)rq;
	(void)bytes;
	(void)len;
	return true;
}

static void on_run(void *rq)
{
	static const char *const hidden[] = { "Authorization", "Cookie", "Host", NULL };
	static const char *const dropped[] = { "Set-Cookie", NULL };
	struct conn *c = rq;
	const struct message *m = conn_request(c);
	struct relay_options opt = {
		.what = "the server", .dropped = dropped, .added = "X-Added: yes\r\n", .upgrades = true
	};
	struct response a = { .status = 200 };
	int pair[2];

	if (strcmp(m->target, "/plain") == 0) {
		strbuf_puts(&a.body, "plain");
		conn_answer(c, &a);
		return;
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	opt.upstream = pair[0];
	opt.tunnel = strcmp(m->target, "/tunnel") == 0;
	strbuf_printf(&opt.head, "%s %s HTTP/1.1\r\nHost: server\r\n", m->method, m->target);
	relay_copy_fields(m, hidden, &opt.head);
	conn_relay(c, &opt);
	__atomic_store_n(&server, pair[1], __ATOMIC_SEQ_CST);
}

static void on_answered(void *rq, unsigned status)
{
	assert_non_null(rq); /* before on_done() */
	atomic_store(&status_seen, status);
}

static void on_done(void *rq)
{
	(void)rq;
	atomic_fetch_add(&n_done, 1);
}

/* ---- set up ---- */

static int set_up(void **state)
{
	struct front_options opt = {
		.hooks = { on_head, on_body, on_run, on_answered, on_done, NULL },
		.n_listeners = 1,
		.max_connections = 100,
		.idle_s = 60,
		.token_s = 60,
	};
	struct err err = {};

	(void)state;
	if (sock_listen(path, &listener, &err) < 0)
		return -1;
	opt.listeners[0] = (struct accept_listener){ .fd = listener.fd, .local = true };
	server = -1;
	return front_start(&opt, &front, &err);
}

static int tear_down(void **state)
{
	(void)state;
	front_stop(steal_ptr(&front));
	sock_listener_done(&listener);
	return 0;
}

static int set_up_all(void **state)
{
	(void)state;
	log_init("test", LOG_ERROR, STDERR_FILENO);
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/front.sock", dir);
	return 0;
}

static int tear_down_all(void **state)
{
	char lock[80];

	(void)state;
	snprintf(lock, sizeof(lock), "%s.lock", path);
	unlink(lock);
	return rmdir(dir);
}

/* The server's end for the request that was sent. */
static int take_server(void)
{
	int fd = -1;

	for (unsigned i = 0; i < 20000 && fd < 0; i++) {
		fd = __atomic_exchange_n(&server, -1, __ATOMIC_SEQ_CST);
		if (fd < 0)
			usleep(1000);
	}
	assert_true(fd >= 0);
	return fd;
}

/* Reads exactly this text. */
static void expect(int fd, const char *text)
{
	for (size_t i = 0; text[i]; i++) {
		int c = client_getc(fd);
		if (c != (unsigned char)text[i])
			fail_msg("'%c' (%d) instead of '%s'", c, c, text + i);
	}
}

/* Reads up to and including `text`; gives all that was read. */
static const char *read_to(int fd, const char *text)
{
	static char got[70000];
	size_t n = 0;

	got[0] = '\0';
	while (!strstr(got, text)) {
		int c = client_getc(fd);
		if (c < 0 || n == sizeof(got) - 1)
			fail_msg("no '%s' in '%s'", text, got);
		got[n++] = (char)c;
		got[n] = '\0';
	}
	return got;
}

static void expect_error(int fd, unsigned status, const char *code, const char *message)
{
	autoanswer struct answer a = {};

	client_read(fd, false, &a);
	assert_int_equal(a.status, status);
	assert_string_equal(answer_text(&a, "code"), code);
	if (!strstr(answer_text(&a, "message"), message))
		fail_msg("%s", a.body);
	assert_true(client_closed(fd));
	assert_int_equal(atomic_load(&status_seen), status);
}

static void expect_bad_gateway(int fd, const char *message)
{
	expect_error(fd, 502, "agent_unreachable", message);
}

/* ---- heads ---- */

static void heads_are_made_anew(void **state)
{
	autoclose int fd = client_unix(path);

	(void)state;
	client_puts(
		fd,
		"POST /a?b=c HTTP/1.1\r\nHost: x\r\nauthorization: Bearer secret\r\nCOOKIE: a=b\r\nX-One: 1\r\n"
		"Connection: keep-alive, X-Mine\r\nX-Mine: 2\r\nTE: trailers\r\nKeep-Alive: 5\r\nContent-Length: 5\r\n\r\nhello");
	autoclose int up = take_server();
	expect(up,
	       "POST /a?b=c HTTP/1.1\r\nHost: server\r\nX-One: 1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
	client_puts(
		up,
		"HTTP/1.1 201 Whatever\r\nSet-Cookie: a=b\r\nDate: now\r\nX-Two: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
		"Content-Length: 3\r\n\r\nabc, and nobody gets this");
	expect(fd, "HTTP/1.1 201 Created\r\nDate: now\r\nX-Two: 2\r\nX-Added: yes\r\nContent-Length: 3\r\n\r\nabc");
	assert_true(client_closed(up));
	assert_int_equal(atomic_load(&status_seen), 201);
	client_puts(fd, "GET /plain HTTP/1.1\r\n\r\n"); /* the connection is kept, for any kind of request */
	expect(fd, "HTTP/1.1 200 OK\r\n");
	read_to(fd, "\r\n\r\nplain");
	client_puts(fd, "GET /again HTTP/1.1\r\n\r\n");
	autoclose int second = take_server();
	expect(second, "GET /again HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n");
}

static void bodies_are_framed_anew(void **state)
{
	static const struct {
		const char *response, *expected; /* behind "X-Added: yes\r\n" */
		bool ends;                       /* the server ends the connection */
	} cases[] = {
		{ "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n003;x=y\r\nabc\r\n1\r\nd\r\n0\r\nT: 1\r\n\r\n",
		  "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", false },
		{ "HTTP/1.0 200 OK\r\nDate: x\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		  true },
		{ "HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", "\r\n", false },
		{ "HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 9\r\n\r\n", "\r\n", false },
		{ "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n", "Content-Length: 0\r\n\r\n", false },
		{ "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 1\r\n\r\nz",
		  "Content-Length: 1\r\n\r\nz", false },
	};
	autoclose int fd = client_unix(path);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		client_puts(
			fd,
			"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0004\r\nwxyz\r\n0\r\nTrailer: 1\r\n\r\n");
		autoclose int up = take_server();
		read_to(up, "\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nwxyz\r\n0\r\n\r\n");
		client_puts(up, cases[i].response);
		if (cases[i].ends)
			shutdown(up, SHUT_WR);
		read_to(fd, "X-Added: yes\r\n");
		expect(fd, cases[i].expected);
	}
}

static void head_and_old_clients(void **state)
{
	autoclose int fd = client_unix(path);
	autoclose int old = client_unix(path);

	(void)state;
	client_puts(fd, "HEAD / HTTP/1.1\r\n\r\n");
	autoclose int up = take_server();
	read_to(up, "\r\n\r\n");
	client_puts(up, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
	read_to(fd, "Content-Length: 100\r\n\r\n");
	client_puts(fd, "GET /plain HTTP/1.1\r\n\r\n");
	read_to(fd, "\r\n\r\nplain");
	client_puts(old, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
	autoclose int second = take_server();
	read_to(second, "\r\n\r\n");
	client_puts(second, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
	const char *head = read_to(old, "\r\n\r\n");
	assert_non_null(strstr(head, "Connection: close\r\n"));
	assert_null(strstr(head, "chunked"));
	expect(old, "abc");
	assert_true(client_closed(old));
}

/* ---- interim responses and other protocols ---- */

static void continues(void **state)
{
	autoclose int fd = client_unix(path);
	autoclose int refused = client_unix(path);

	(void)state;
	client_puts(fd, "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
	autoclose int up = take_server();
	read_to(up, "Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n");
	client_puts(up, "HTTP/1.1 100 Continue\r\n\r\n");
	expect(fd, "HTTP/1.1 100 Continue\r\n\r\n");
	client_puts(fd, "ab");
	expect(up, "ab");
	client_puts(up, "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n");
	expect(fd, "HTTP/1.1 200 OK\r\nDate: x\r\nX-Added: yes\r\nContent-Length: 0\r\n\r\n");
	client_puts(refused, "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
	autoclose int second = take_server();
	read_to(second, "\r\n\r\n");
	client_puts(second, "HTTP/1.1 403 Forbidden\r\nDate: x\r\nContent-Length: 0\r\n\r\n");
	expect(refused,
	       "HTTP/1.1 403 Forbidden\r\nDate: x\r\nX-Added: yes\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
	assert_true(client_closed(refused));
}

static void upgrades(void **state)
{
	autoclose int fd = client_unix(path);
	char c;

	(void)state;
	client_puts(fd, "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly");
	autoclose int up = take_server();
	read_to(up, "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n");
	client_puts(
		up,
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nX: y\r\n\r\n0\r\n\r\nraw");
	expect(fd,
	       "HTTP/1.1 101 Switching Protocols\r\nX: y\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n0\r\n\r\nraw");
	expect(up, "early"); /* came before the server had agreed */
	client_puts(fd, "GET / HTTP/1.1\r\n\r\n");
	expect(up, "GET / HTTP/1.1\r\n\r\n");
	shutdown(fd, SHUT_WR);
	assert_int_equal(recv(up, &c, 1, 0), 0); /* half a connection ends */
	client_puts(up, "more");
	expect(fd, "more");
	shutdown(up, SHUT_WR);
	assert_true(client_closed(fd));
}

/* The server speaks no HTTP: it gets the client's bytes, and nothing else. */
static void tunnels(void **state)
{
	autoclose int fd = client_unix(path);
	char c;

	(void)state;
	client_puts(fd, "GET /tunnel HTTP/1.1\r\nConnection: x, Upgrade\r\nUpgrade: tcp\r\n\r\nearly");
	autoclose int up = take_server();
	expect(fd, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n");
	assert_int_equal(atomic_load(&status_seen), 101);
	expect(up, "early");
	client_puts(up, "HTTP/1.1 400 No\r\n\r\n");
	expect(fd, "HTTP/1.1 400 No\r\n\r\n");
	shutdown(up, SHUT_WR);
	assert_int_equal(recv(fd, &c, 1, 0), 0);
	client_puts(fd, "more");
	expect(up, "more");
	shutdown(fd, SHUT_WR);
	assert_int_equal(recv(up, &c, 1, 0), 0);
}

/* ---- servers that misbehave ---- */

static void bad_servers(void **state)
{
	static char long_head[RELAY_HEAD_MAX + 100], many[RELAY_INTERIM_MAX * 40 + 100];
	static const struct {
		const char *response, *message;
	} cases[] = {
		{ "", "ended before the head" },
		{ "HTTP/1.1 200 OK\r\n", "ended before the head" },
		{ "SSH-2.0-OpenSSH\r\n", "not of HTTP/1.1" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "given twice" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "given twice" },
		{ "HTTP/1.1 101 Switching Protocols\r\n\r\n", "nobody has asked for" },
		{ long_head, "more than 32768 bytes" },
		{ many, "too many responses of status 1xx" },
	};

	(void)state;
	snprintf(long_head, sizeof(long_head), "HTTP/1.1 200 OK\r\nX: %0*d\r\n\r\n", RELAY_HEAD_MAX, 0);
	for (unsigned i = 0; i <= RELAY_INTERIM_MAX; i++)
		strcat(many, "HTTP/1.1 102 Processing\r\n\r\n");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoclose int fd = client_unix(path);
		client_puts(fd, "GET / HTTP/1.1\r\n\r\n");
		autoclose int up = take_server();
		read_to(up, "\r\n\r\n");
		client_puts(up, cases[i].response);
		shutdown(up, SHUT_WR);
		expect_bad_gateway(fd, cases[i].message);
	}
}

/* A response that is cut must not look whole. */
static void cut_responses(void **state)
{
	static const char *const responses[] = {
		"Content-Length: 10\r\n\r\nabc",
		"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
		"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10000000000000000\r\n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(responses); i++) {
		autoclose int fd = client_unix(path);
		char text[128];
		client_puts(fd, "GET / HTTP/1.1\r\n\r\n");
		autoclose int up = take_server();
		read_to(up, "\r\n\r\n");
		snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\n%s", responses[i]);
		client_puts(up, text);
		read_to(fd, "\r\n\r\n");
		shutdown(up, SHUT_WR);
		for (int c; (c = client_getc(fd)) >= 0;)
			assert_true(c != '0'); /* of the last chunk */
	}
}

/* ---- clients that misbehave ---- */

static void bad_clients(void **state)
{
	static const char *const chunks[] = { "zz\r\n", "10000000000000000\r\n", "-1\r\n" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
		autoclose int fd = client_unix(path);
		client_puts(fd, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
		autoclose int up = take_server();
		read_to(up, "\r\n\r\n1\r\na\r\n");
		client_puts(fd, chunks[i]);
		for (int c; (c = client_getc(up)) >= 0;)
			assert_true(c != '0'); /* the request is not ended as if it were whole */
		expect_error(fd, 400, "invalid_request", "the request: ");
	}
}

static void gone_clients(void **state)
{
	static const char *const requests[] = {
		"GET / HTTP/1.1\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	};
	unsigned before = count_fds();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		unsigned done = atomic_load(&n_done);
		int fd = client_unix(path);
		client_puts(fd, requests[i]);
		autoclose int up = take_server();
		read_to(up, "\r\n\r\n");
		close(fd);
		for (int c; (c = client_getc(up)) >= 0;)
			assert_true(c != '0'); /* the request is not ended as if it were whole */
		for (unsigned k = 0; k < 20000 && atomic_load(&n_done) == done; k++)
			usleep(1000);
		assert_int_equal(atomic_load(&n_done), done + 1);
	}
	for (unsigned i = 0; i < 2000 && count_fds() != before; i++)
		usleep(10000);
	assert_int_equal(count_fds(), before);
}

/* ---- many bytes, and nobody who takes them ---- */

enum { BULK = 8 << 20 };

static char bulk_byte(size_t i)
{
	return (char)(i * 31 + (i >> 8) + (i >> 16));
}

static void *send_bulk(void *arg)
{
	const int *fd = arg;
	char part[7919];

	for (size_t at = 0; at < BULK;) {
		size_t n = BULK - at < sizeof(part) ? BULK - at : sizeof(part);
		for (size_t i = 0; i < n; i++)
			part[i] = bulk_byte(at + i);
		if (!client_send(*fd, part, n))
			return NULL;
		at += n;
	}
	return arg;
}

static void take_bulk(int fd)
{
	char part[10007];

	for (size_t at = 0; at < BULK;) {
		size_t want = BULK - at < sizeof(part) ? BULK - at : sizeof(part);
		ssize_t n = recv(fd, part, want, 0);
		assert_true(n > 0);
		for (ssize_t i = 0; i < n; i++)
			if (part[i] != bulk_byte(at + (size_t)i))
				fail_msg("byte %zu", at + (size_t)i);
		at += (size_t)n;
	}
}

/* Both ways at once. */
static void bulk(void **state)
{
	autoclose int fd = client_unix(path);
	pthread_t threads[2];
	char head[128];

	(void)state;
	snprintf(head, sizeof(head), "PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n", BULK);
	client_puts(fd, head);
	assert_int_equal(pthread_create(&threads[0], NULL, send_bulk, &fd), 0);
	autoclose int up = take_server();
	read_to(up, "\r\n\r\n");
	snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BULK);
	client_puts(up, head);
	assert_int_equal(pthread_create(&threads[1], NULL, send_bulk, &up), 0);
	read_to(fd, "\r\n\r\n");
	take_bulk(up); /* the request goes through while nobody reads the response */
	take_bulk(fd);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
}

/* What a sender can get rid of while nobody reads at the other end: the relay's buffer and those of the sockets. */
static size_t stuff(int fd)
{
	static char part[16384];
	size_t sent = 0;

	for (unsigned idle = 0; idle < 50;) {
		ssize_t n = send(fd, part, sizeof(part), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			sent += (size_t)n;
		idle = n > 0 ? 0 : idle + 1;
		if (n < 0)
			usleep(2000);
		assert_true(sent < 4U << 20);
	}
	return sent;
}

static void slow_sides(void **state)
{
	autoclose int fd = client_unix(path);
	autoclose int other = client_unix(path);

	(void)state;
	client_puts(fd, "PUT / HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n");
	autoclose int up = take_server();
	read_to(up, "\r\n\r\n");
	assert_true(stuff(fd) > RELAY_BYTES / 2);
	client_puts(other, "GET / HTTP/1.1\r\n\r\n");
	autoclose int second = take_server();
	read_to(second, "\r\n\r\n");
	client_puts(second, "HTTP/1.1 200 OK\r\n\r\n");
	assert_true(stuff(second) > RELAY_BYTES / 2);
	autoclose int third = client_unix(path); /* nothing else waits */
	client_puts(third, "GET /plain HTTP/1.1\r\n\r\n");
	read_to(third, "\r\n\r\nplain");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(heads_are_made_anew),
		TEST(bodies_are_framed_anew),
		TEST(head_and_old_clients),
		TEST(continues),
		TEST(upgrades),
		TEST(tunnels),
		TEST(bad_servers),
		TEST(cut_responses),
		TEST(bad_clients),
		TEST(gone_clients),
		TEST(bulk),
		TEST(slow_sides),
	};
	return cmocka_run_group_tests(tests, set_up_all, tear_down_all);
}
