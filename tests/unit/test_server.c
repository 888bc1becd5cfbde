// SPDX-License-Identifier: Apache-2.0
/* forkd/http: a server in this process with a few handlers of its own, and raw clients that do what clients should not. */
#include "forkd/rest/server.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/forkd.h"
#include "forkd/metrics.h"
#include "forkd/rest/api.h"
#include "tests/unit/http_client.h"

static char dir[] = "/tmp/forkd-test-http-XXXXXX";
static char path[64];
static struct forkd daemon_;
static struct http_server *server;
static atomic_uint handled, slow_ms;

/* ---- handlers ---- */

/* Says what it got. */
static int echo(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	const struct json_node *name = json_get(rq->body, "name");
	const char *q = request_query(rq, "q", 0), *q1 = request_query(rq, "q", 1),
		   *header = request_header(rq, "X-Test");

	(void)err;
	assert_ptr_equal(d, &daemon_);
	atomic_fetch_add(&handled, 1);
	strbuf_printf(&reply->body, "{\"method\":\"%s\",\"body\":%u,\"n_fds\":%u,\"path\":", rq->method,
		      rq->body != NULL, rq->n_fds);
	strbuf_json(&reply->body, rq->path, strlen(rq->path));
	strbuf_puts(&reply->body, ",\"param\":");
	strbuf_json(&reply->body, rq->param[0], strlen(rq->param[0]));
	strbuf_printf(&reply->body, ",\"name\":\"%s\",\"q\":\"%s\",\"q1\":\"%s\",\"header\":\"%s\"",
		      name ? name->str : "", q ? q : "", q1 ? q1 : "", header ? header : "");
	strbuf_printf(&reply->body, ",\"uid\":%u,\"pid\":%u,\"local\":%u,\"trusted\":%u}", rq->caller.uid,
		      (unsigned)rq->caller.pid, rq->caller.local, rq->caller.trusted);
	reply->status = rq->body ? 201 : 200;
	return 0;
}

/* Writes its number into each descriptor that came; keeps the first. */
static int mark_fds(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	(void)err;
	for (uint32_t i = 0; i < rq->n_fds; i++) {
		char digit = (char)('0' + i);
		assert_true(fcntl(rq->fds[i], F_GETFD) & FD_CLOEXEC);
		assert_int_equal(pwrite(rq->fds[i], &digit, 1, i), 1);
	}
	if (rq->n_fds > 0)
		close(steal_fd(&rq->fds[0]));
	return echo(d, rq, reply, err);
}

static int failing(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	(void)d;
	(void)rq;
	strbuf_puts(&reply->body, "half an answer");
	return (fail)(err, E_NO_CLONE, "clone '%s'", "x\xff"); /* cmocka has a macro of that name */
}

static int slow(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	for (unsigned i = 0; i < atomic_load(&slow_ms) && !request_gone(rq); i += 10)
		usleep(10000);
	return echo(d, rq, reply, err);
}

static int empty(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	(void)d;
	(void)rq;
	(void)err;
	reply->status = 204;
	return 0;
}

#define R(method_, path_, run_, ...)                                               \
	{                                                                          \
		.method = (method_), .path = (path_), .run = (run_), ##__VA_ARGS__ \
	}
static const struct route routes[] = {
	R("GET", "/healthz", api_health, .open = true),
	R("GET", "/v1/version", api_version),
	R("GET", "/v1/events", api_events),
	R("GET", "/metrics", api_metrics),
	R("GET", "/echo", echo),
	R("POST", "/echo", echo),
	R("PATCH", "/echo", echo),
	R("PUT", "/echo/{x}", echo),
	R("DELETE", "/echo/{x}/y", empty),
	R("POST", "/fds", mark_fds, .takes_fds = true),
	R("GET", "/failing", failing),
	R("GET", "/slow", slow),
};

/* ---- set up ---- */

/* The server closes behind its answer: waits for it. */
static void expect_fds(unsigned n)
{
	for (unsigned i = 0; i < 1000 && count_fds() != n; i++)
		usleep(10000);
	assert_int_equal(count_fds(), n);
}

static struct http_options options(void)
{
	return (struct http_options){
		.routes = routes,
		.n_routes = ARRAY_LEN(routes),
		.metrics = daemon_.metrics,
		.socket_path = path,
		.socket_fd = -1,
	};
}

static void start(const struct http_options *opt)
{
	struct err err = {};

	if (http_start(&daemon_, opt, &server, &err) < 0)
		fail_msg("%s", err.msg);
}

static int set_up_all(void **state)
{
	struct err err = {};

	(void)state;
	log_init("test", LOG_ERROR, STDERR_FILENO); /* every refusal is a warning */
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/forkd.sock", dir);
	return events_new(&daemon_.events, &err) < 0 ? -1 : metrics_new(&daemon_.metrics, &err);
}

static int tear_down_all(void **state)
{
	char lock[80];

	(void)state;
	events_free(daemon_.events);
	metrics_free(daemon_.metrics);
	snprintf(lock, sizeof(lock), "%s.lock", path);
	unlink(lock);
	return rmdir(dir); /* and so nothing else was left */
}

static int set_up(void **state)
{
	const struct http_options opt = options();

	(void)state;
	start(&opt);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	http_stop(steal_ptr(&server));
	http_stop(NULL);
	return 0;
}

/* One request on a connection of its own. */
static void ask(const char *text, struct answer *a)
{
	autoclose int fd = client_unix(path);

	client_puts(fd, text);
	client_read(fd, strncmp(text, "HEAD", 4) == 0, a);
}

/* ---- tests ---- */

static void answers(void **state)
{
	autoanswer struct answer a = {};

	(void)state;
	ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	assert_int_equal(a.status, 200);
	assert_string_equal(answer_header(&a, "Content-Type"), "application/json");
	assert_string_equal(answer_text(&a, "status"), "ok");
	answer_done(&a);
	ask("GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	assert_string_equal(answer_text(&a, "name"), "forkd");
	answer_done(&a);
	ask("HEAD /v1/version HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	assert_int_equal(a.status, 200);
	assert_true(strtoul(answer_header(&a, "Content-Length"), NULL, 10) > 20);
	answer_done(&a);
	ask("DELETE /echo/x/y HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	assert_int_equal(a.status, 204);
	assert_int_equal(a.body_len, 0);
	answer_done(&a);
	ask("GET /failing HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	assert_int_equal(a.status, 404);
	assert_string_equal(answer_text(&a, "code"), "clone_not_found");
	assert_string_equal(answer_text(&a, "message"), "clone 'x?'");
	assert_string_equal(answer_text(&a, "remedy"), "List the clones: GET /v1/clones.");
	answer_done(&a);
	ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	assert_non_null(strstr(a.body, "{method=\"GET\",route=\"/failing\",status=\"4xx\"} 1\n"));
}

static void targets(void **state)
{
	static const struct {
		const char *line;
		int status;
		const char *key, *expected;
	} cases[] = {
		{ "GET /", 404, "message", "there is no /" },
		{ "GET /nothing?x=1", 404, "message", "there is no /nothing" },
		{ "GET /echo/", 404, "code", "not_found" },
		{ "GET //echo", 404, "code", "not_found" },
		{ "GET /echo/a/b", 404, "code", "not_found" },
		{ "GET /ech%6f", 404, "code", "not_found" },
		{ "GET /\xff\xfe", 404, "message", "there is no /??" },
		{ "GET /nothing/%ff", 404, "message", "there is no /nothing/%ff" },
		{ "DELETE /echo", 405, "code", "method_not_allowed" },
		{ "OPTIONS /echo", 405, "message", "OPTIONS is not allowed for /echo" },
		{ "get /echo", 405, "code", "method_not_allowed" },
		{ "PUT /echo/a%2fb", 200, "param", "a/b" },
		{ "PUT /echo/%c3%a9+1", 200, "param", "\xc3\xa9+1" },
		{ "PUT /echo/..", 200, "param", ".." },
		{ "PUT /echo/%ff", 400, "code", "invalid_name" },
		{ "PUT /echo/\xff", 400, "code", "invalid_name" },
		{ "PUT /echo/%00", 400, "code", "invalid_name" },
		{ "PUT /echo/a%0ab", 400, "code", "invalid_name" },
		{ "PUT /echo/%4", 400, "code", "invalid_name" },
		{ "PUT /echo/%zz", 400, "code", "invalid_name" },
		{ "GET /echo?q=1&q=a+b%26", 200, "q1", "a b&" },
		{ "GET /echo?p=1&q", 200, "q", "" },
		{ "GET /echo?&&q=%c3%a9", 200, "q", "\xc3\xa9" },
		{ "GET /echo?q=%ff", 400, "code", "invalid_request" },
		{ "GET /echo?q=%00", 400, "code", "invalid_request" },
		{ "GET /echo?%", 400, "code", "invalid_request" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoanswer struct answer a = {};
		char text[256];
		snprintf(text, sizeof(text), "%s HTTP/1.1\r\nHost: x\r\n\r\n", cases[i].line);
		ask(text, &a);
		if (a.status != cases[i].status)
			fail_msg("%s: %d %s", cases[i].line, a.status, a.body);
		assert_string_equal(answer_text(&a, cases[i].key), cases[i].expected);
		if (a.status == 405)
			assert_string_equal(answer_header(&a, "Allow"), "GET, HEAD, POST, PATCH");
	}
}

static void long_targets(void **state)
{
	static char text[12000];
	autoanswer struct answer a = {};

	(void)state;
	snprintf(text, sizeof(text), "PUT /echo/%0300d HTTP/1.1\r\nHost: x\r\n\r\n", 0);
	ask(text, &a);
	assert_int_equal(a.status, 400);
	assert_string_equal(answer_text(&a, "code"), "invalid_name");
	answer_done(&a);
	snprintf(text, sizeof(text), "PUT /echo/%010000d HTTP/1.1\r\nHost: x\r\n\r\n", 0);
	ask(text, &a);
	assert_int_equal(a.status, 400);
	answer_done(&a);
	char *p = stpcpy(text, "GET /echo?");
	for (unsigned i = 0; i < 100; i++)
		p = stpcpy(p, "a=1&");
	strcpy(p, " HTTP/1.1\r\nHost: x\r\n\r\n");
	ask(text, &a);
	assert_int_equal(a.status, 400);
	assert_string_equal(answer_text(&a, "message"), "the query of /echo has too many keys");
}

static void post(const char *method, const char *type, const char *body, struct answer *a)
{
	autostrbuf struct strbuf text = {};

	strbuf_printf(&text, "%s /echo HTTP/1.1\r\nHost: x\r\n", method);
	if (type)
		strbuf_printf(&text, "Content-Type: %s\r\n", type);
	strbuf_printf(&text, "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
	ask(text.text, a);
}

static void bodies(void **state)
{
	static char deep[20001];
	static const struct {
		const char *type, *body;
		int status;
		const char *key, *expected;
	} cases[] = {
		{ "application/json", "{\"name\":\"n\"}", 201, "name", "n" },
		{ "Application/JSON; charset=utf-8", "{\"name\":\"n\"}", 201, "name", "n" },
		{ NULL, "{\"name\":\"n\"}", 201, "name", "n" },
		{ "text/plain", "{}", 415, "code", "unsupported_media_type" },
		{ "application/jsonx", "{}", 415, "message",
		  "Content-Type 'application/jsonx'; the body must be application/json" },
		{ "application/x-www-form-urlencoded", "{}", 415, "code", "unsupported_media_type" },
		{ "text/plain", "", 200, "body", "0" },
		{ NULL, "", 200, "body", "0" },
		{ NULL, "{\n \"name\": }", 400, "code", "invalid_json" },
		{ NULL, "[]", 400, "message", "body: must be an object, is an array" },
		{ NULL, "7", 400, "code", "invalid_json" },
		{ NULL, "{} {}", 400, "code", "invalid_json" },
		{ NULL, "{\"a\":1,\"a\":2}", 400, "code", "invalid_json" },
		{ NULL, "{\"a\":\"\xff\"}", 400, "code", "invalid_json" },
		{ NULL, "{\"a\":18446744073709551616}", 400, "code", "invalid_json" },
		{ NULL, deep, 400, "code", "invalid_json" },
	};
	(void)state;
	memset(deep, '[', 10000);
	memset(deep + 10000, ']', 10000);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoanswer struct answer a = {};
		post("POST", cases[i].type, cases[i].body, &a);
		if (a.status != cases[i].status)
			fail_msg("case %zu: %d %s", i, a.status, a.body);
		assert_string_equal(answer_text(&a, cases[i].key), cases[i].expected);
	}
	autoanswer struct answer a = {};
	post("PATCH", NULL, "{\n \"name\": }", &a);
	assert_non_null(strstr(answer_text(&a, "message"), "line 2"));
}

/* A body that is not wanted is read to its end, so that the client gets its answer and can go on. */
static void too_large(void **state)
{
	static char part[1 << 20];
	static const char *const methods[] = { "POST", "PATCH" };
	const unsigned before = atomic_load(&handled);

	(void)state;
	memset(part, ' ', sizeof(part));
	for (unsigned chunked = 0; chunked < 2; chunked++) {
		for (size_t m = 0; m < ARRAY_LEN(methods); m++) {
			autoclose int fd = client_unix(path);
			autoanswer struct answer a = {};
			char text[256];
			snprintf(text, sizeof(text), "%s /echo HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", methods[m],
				 chunked ? "Transfer-Encoding: chunked" : "Content-Length: 104857600");
			client_puts(fd, text);
			for (unsigned i = 0; i < 100; i++) {
				if (chunked)
					client_puts(fd, "100000\r\n");
				assert_true(client_send(fd, part, sizeof(part)));
				if (chunked)
					client_puts(fd, "\r\n");
			}
			if (chunked)
				client_puts(fd, "0\r\n\r\n");
			client_read(fd, false, &a);
			assert_int_equal(a.status, 413);
			assert_string_equal(answer_text(&a, "code"), "request_too_large");
			answer_done(&a);
			client_puts(fd, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
			client_read(fd, false, &a);
			assert_int_equal(a.status, 200);
		}
	}
	assert_int_equal(atomic_load(&handled), before);
}

static void largest(void **state)
{
	autostrbuf struct strbuf body = {};
	autoanswer struct answer a = {};

	(void)state;
	strbuf_puts(&body, "{\"name\":\"n\",\"x\":\"");
	while (body.len < HTTP_BODY_MAX - 2)
		strbuf_putc(&body, 'x');
	strbuf_puts(&body, "\"}");
	assert_int_equal(body.len, HTTP_BODY_MAX);
	post("POST", NULL, body.text, &a);
	assert_int_equal(a.status, 201);
}

/* A client that asks before it sends is told at once. */
static void expects(void **state)
{
	autoclose int fd = client_unix(path);
	autoanswer struct answer a = {};

	(void)state;
	client_puts(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
	client_read(fd, false, &a);
	assert_int_equal(a.status, 413);
	assert_true(client_closed(fd));
	answer_done(&a);
	autoclose int good = client_unix(path);
	client_puts(good, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
	client_read(good, false, &a);
	assert_int_equal(a.status, 100);
	answer_done(&a);
	client_puts(good, "{}");
	client_read(good, false, &a);
	assert_int_equal(a.status, 201);
}

static void pipelining(void **state)
{
	autoclose int fd = client_unix(path);

	(void)state;
	client_puts(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"name\":\"one\"}"
			"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
			"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc"
			"PUT /echo/three HTTP/1.1\r\nHost: x\r\n\r\n");
	static const int statuses[] = { 201, 404, 415, 200 };
	for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
		autoanswer struct answer a = {};
		client_read(fd, false, &a);
		assert_int_equal(a.status, statuses[i]);
		if (i == 0)
			assert_string_equal(answer_text(&a, "name"), "one");
		if (i == 3)
			assert_string_equal(answer_text(&a, "param"), "three");
	}
}

static void byte_by_byte(void **state)
{
	static const char text[] = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"name\":\"one\"}";
	autoclose int fd = client_unix(path);
	autoanswer struct answer a = {};

	(void)state;
	for (const char *p = text; *p; p++) {
		assert_true(client_send(fd, p, 1));
		usleep(1000);
	}
	client_read(fd, false, &a);
	assert_int_equal(a.status, 201);
	assert_string_equal(answer_text(&a, "name"), "one");
}

/* Clients that are gone in the middle of something leave nothing behind. */
static void disappears(void **state)
{
	static const char *const beginnings[] = {
		"",
		"G",
		"GET /healthz HTTP/1.1\r\n",
		"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"na",
		"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n",
		"\x16\x03\x01\x02",
		"\r\n\r\n\r\n",
	};
	unsigned before = count_fds(), threads = count_threads();

	(void)state;
	for (size_t i = 0; i < 10 * ARRAY_LEN(beginnings); i++) {
		autoclose int fd = client_unix(path);
		client_puts(fd, beginnings[i % ARRAY_LEN(beginnings)]);
	}
	expect_fds(before);
	for (unsigned i = 0; i < 500 && count_threads() != threads; i++)
		usleep(10000);
	assert_int_equal(count_threads(), threads);
}

/* ---- descriptors ---- */

static void send_with_fds(int fd, const char *text, const int *fds, uint32_t n)
{
	struct err err = {};

	assert_int_equal(sock_send(fd, text, strlen(text), fds, n, &err), strlen(text));
}

static int make_file(void)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

#define POST_FDS "POST /fds HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"

static void takes_descriptors(void **state)
{
	unsigned before = count_fds();

	(void)state;
	for (unsigned round = 0; round < 20; round++) {
		autoclose int fd = client_unix(path);
		autoclose int file = make_file();
		const int fds[] = { file, file, file, file };
		char text[5] = "";
		autoanswer struct answer a = {};
		if (round % 2) { /* with the first byte alone */
			send_with_fds(fd, "P", fds, 4);
			usleep(2000);
			client_puts(fd, &POST_FDS[1]);
		} else {
			send_with_fds(fd, POST_FDS, fds, 4);
		}
		client_read(fd, false, &a);
		assert_int_equal(a.status, 201);
		assert_string_equal(answer_text(&a, "n_fds"), "4");
		assert_string_equal(answer_header(&a, "Connection"), "close");
		assert_true(client_closed(fd));
		assert_int_equal(pread(file, text, 4, 0), 4);
		assert_string_equal(text, "0123");
	}
	expect_fds(before);
}

static void refuses_descriptors(void **state)
{
	static const struct {
		const char *text;
		int status;
		const char *message;
	} cases[] = {
		{ "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400,
		  "2 descriptors came with GET /healthz, which takes none" },
		{ "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404, "there is no /nothing" },
		{ "POST /fds HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{", 400, NULL },
	};
	unsigned before = count_fds();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoclose int fd = client_unix(path);
		autoclose int file = make_file();
		autoanswer struct answer a = {};
		send_with_fds(fd, cases[i].text, (const int[]){ file, file }, 2);
		client_read(fd, false, &a);
		assert_int_equal(a.status, cases[i].status);
		if (cases[i].message)
			assert_string_equal(answer_text(&a, "message"), cases[i].message);
		assert_true(client_closed(fd));
	}
	expect_fds(before);
}

/* Only those of the first byte count; later ones are closed by the kernel. */
static void late_descriptors(void **state)
{
	unsigned before = count_fds();
	{
		autoclose int fd = client_unix(path);
		autoclose int file = make_file();
		autoanswer struct answer a = {};
		client_puts(fd, "P");
		usleep(300000); /* the first byte is taken by then */
		send_with_fds(fd, &POST_FDS[1], &file, 1);
		client_read(fd, false, &a);
		assert_int_equal(a.status, 201);
		assert_string_equal(answer_text(&a, "n_fds"), "0");
		answer_done(&a);
		send_with_fds(fd, POST_FDS, &file, 1);
		client_read(fd, false, &a);
		assert_string_equal(answer_text(&a, "n_fds"), "0");
	}
	(void)state;
	expect_fds(before);
}

static void lost_descriptors(void **state)
{
	unsigned before = count_fds();
	struct rlimit old, low;
	int fds[SOCK_FDS_MAX];
	autoanswer struct answer a = {};

	(void)state;
	{
		autoclose int fd = client_unix(path);
		autoclose int file = make_file();
		for (unsigned i = 0; i < SOCK_FDS_MAX; i++)
			fds[i] = file;
		assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
		low = (struct rlimit){ .rlim_cur = before + 10, .rlim_max = old.rlim_max };
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
		send_with_fds(fd, POST_FDS, fds, SOCK_FDS_MAX);
		client_read(fd, false, &a);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
		assert_int_equal(a.status, 400);
		assert_string_equal(answer_text(&a, "code"), "invalid_net_fds");
		answer_done(&a);
	}
	expect_fds(before);
	{
		autoclose int fd = client_unix(path);
		autoclose int file = make_file();
		for (unsigned i = 0; i < SOCK_FDS_MAX; i++)
			fds[i] = file;
		send_with_fds(fd, POST_FDS, fds, SOCK_FDS_MAX);
		client_read(fd, false, &a);
		assert_string_equal(answer_text(&a, "n_fds"), "253");
	}
	expect_fds(before);
}

/* A client that connects, sends descriptors and leaves. */
static void abandoned_descriptors(void **state)
{
	unsigned before = count_fds();

	(void)state;
	for (unsigned i = 0; i < 50; i++) {
		autoclose int fd = client_unix(path);
		autoclose int file = make_file();
		send_with_fds(fd, i % 2 ? "P" : "POST /fds HTTP/1.1\r\nContent-Length: 10\r\n\r\n{", &file, 1);
	}
	expect_fds(before);
}

/* ---- callers ---- */

static void peer_credentials(void **state)
{
	autoanswer struct answer a = {};
	char text[32];

	(void)state;
	ask("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	snprintf(text, sizeof(text), "%u", getuid());
	assert_string_equal(answer_text(&a, "uid"), text);
	snprintf(text, sizeof(text), "%u", (unsigned)getpid());
	assert_string_equal(answer_text(&a, "pid"), text);
	assert_string_equal(answer_text(&a, "trusted"), "1");
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
	assert_int_equal(st.st_gid, getegid());
}

enum { MANY = 200, ROUNDS = 5 };

static void *one_of_many(void *arg)
{
	autoclose int fd = client_unix(path);
	unsigned *good = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		autoanswer struct answer a = {};
		client_puts(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"name\":\"one\"}");
		client_read(fd, false, &a);
		*good += a.status == 201;
	}
	return NULL;
}

static void many_at_once(void **state)
{
	unsigned before = count_fds(), good[MANY] = {}, total = 0;
	pthread_t threads[MANY];

	(void)state;
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, one_of_many, &good[i]), 0);
	for (unsigned i = 0; i < MANY; i++) {
		pthread_join(threads[i], NULL);
		total += good[i];
	}
	assert_int_equal(total, MANY * ROUNDS);
	expect_fds(before);
}

/* Silent connections cost no thread. */
static void many_silent(void **state)
{
	int fds[MANY];
	unsigned threads = count_threads();

	(void)state;
	for (unsigned i = 0; i < MANY; i++)
		fds[i] = client_unix(path);
	autoanswer struct answer a = {};
	ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	assert_int_equal(a.status, 200);
	assert_true(count_threads() <= threads + 1);
	for (unsigned i = 0; i < MANY; i++)
		close(fds[i]);
}

/* Reads the stream up to and including `text`. */
static void read_until(int fd, const char *text)
{
	char got[16384] = "";
	size_t n = 0;

	while (!strstr(got, text)) {
		int c = client_getc(fd);
		if (c < 0 || n == sizeof(got) - 1)
			fail_msg("no '%s' in '%s'", text, got);
		got[n++] = (char)c;
	}
}

/* What is no request gets an answer that says so, and no second chance. */
static void bad_requests(void **state)
{
	static char long_head[66000];
	static const struct {
		const char *text;
		int status;
		const char *code;
	} cases[] = {
		{ "nonsense\r\n\r\n", 400, "invalid_request" },
		{ "GET / HTTP/2.0\r\n\r\n", 400, "invalid_request" },
		{ "GET / HTTP/1.1\nHost: x\n\n", 400, "invalid_request" },
		{ "POST /echo HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400, "invalid_request" },
		{ "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n", 400, "invalid_request" },
		{ long_head, 413, "request_too_large" },
	};
	const unsigned before = atomic_load(&handled);

	(void)state;
	snprintf(long_head, sizeof(long_head), "GET /echo HTTP/1.1\r\nX: %065900d\r\n\r\n", 0);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoclose int fd = client_unix(path);
		autoanswer struct answer a = {};
		(void)client_send(fd, cases[i].text, strlen(cases[i].text));
		client_read(fd, false, &a);
		if (a.status != cases[i].status)
			fail_msg("case %zu: %d %s", i, a.status, a.body);
		assert_string_equal(answer_text(&a, "code"), cases[i].code);
		assert_string_equal(answer_header(&a, "Connection"), "close");
		assert_true(client_closed(fd));
	}
	assert_int_equal(atomic_load(&handled), before);
}

static void old_clients(void **state)
{
	autoclose int once = client_unix(path);
	autoclose int kept = client_unix(path);
	autoclose int stream = client_unix(path);
	autoanswer struct answer a = {};

	(void)state;
	client_puts(once, "GET /healthz HTTP/1.0\r\n\r\n");
	client_read(once, false, &a);
	assert_int_equal(a.status, 200);
	assert_true(client_closed(once));
	answer_done(&a);
	for (unsigned i = 0; i < 2; i++) {
		client_puts(kept, "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
		client_read(kept, false, &a);
		assert_string_equal(answer_header(&a, "Connection"), "keep-alive");
		answer_done(&a);
	}
	client_puts(stream, "GET /v1/events HTTP/1.0\r\n\r\n");
	client_read(stream, true, &a);
	assert_null(answer_header(&a, "Transfer-Encoding"));
	assert_string_equal(answer_header(&a, "Connection"), "close");
	for (const char *p = ": alive\n"; *p; p++) /* no frame is around it */
		assert_int_equal(client_getc(stream), *p);
}

/* A client that ends its half of the connection still gets its answer on a unix socket. */
static void half_closed(void **state)
{
	autoclose int fd = client_unix(path);
	autoanswer struct answer a = {};

	(void)state;
	client_puts(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"name\":\"one\"}");
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	client_read(fd, false, &a);
	assert_int_equal(a.status, 201);
	assert_true(client_closed(fd));
}

static void streams_cost_no_thread(void **state)
{
	unsigned threads = count_threads();
	int fds[MANY];

	(void)state;
	for (unsigned i = 0; i < MANY; i++) {
		autoanswer struct answer a = {};
		fds[i] = client_unix(path);
		client_puts(fds[i], "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
		client_read(fds[i], true, &a);
		assert_int_equal(a.status, 200);
	}
	assert_true(count_threads() <= threads + 3);
	events_emit(daemon_.events, "all", NULL, NULL, NULL);
	for (unsigned i = 0; i < MANY; i++)
		read_until(fds[i], "event: all\n");
	for (unsigned i = 0; i < MANY; i++)
		close(fds[i]);
}

/* A follower that does not read holds nobody up, and is told by the end of its stream that events are lost. */
static void slow_followers(void **state)
{
	autoclose int slow = client_unix(path);
	autoclose int quick = client_unix(path);
	autoanswer struct answer a = {};
	char extra[2000];

	(void)state;
	memset(extra, 'x', sizeof(extra));
	memcpy(extra, "\"k\":\"", 5);
	extra[sizeof(extra) - 2] = '"';
	extra[sizeof(extra) - 1] = '\0';
	client_puts(slow, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
	client_read(slow, true, &a);
	for (unsigned i = 0; i < EVENTS_KEPT + 1000; i++)
		events_emit(daemon_.events, "many", NULL, NULL, extra);
	client_puts(quick, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
	read_until(quick, "\r\n\r\n");
	events_emit(daemon_.events, "last", NULL, NULL, NULL);
	read_until(quick, "event: last\n");
	char tail[8] = "";
	while (strcmp(tail, "\r\n0\r\n\r\n") != 0) { /* the last chunk */
		int c = client_getc(slow);
		assert_true(c >= 0);
		memmove(tail, tail + 1, sizeof(tail) - 1);
		tail[sizeof(tail) - 2] = (char)c;
	}
	answer_done(&a);
	client_puts(slow, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	client_read(slow, false, &a);
	assert_int_equal(a.status, 200);
}

/* A new connection is served while handlers wait, whichever thread has accepted it. */
static void served_while_others_wait(void **state)
{
	int fds[8];

	(void)state;
	atomic_store(&slow_ms, 60000);
	for (unsigned i = 0; i < ARRAY_LEN(fds); i++) {
		autoanswer struct answer a = {};
		fds[i] = client_unix(path);
		client_puts(fds[i], "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
		ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", &a);
		assert_int_equal(a.status, 200);
	}
	for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
		close(fds[i]);
}

/* ---- a server with other options ---- */

static void idle_connections(void **state)
{
	struct http_options opt = options();
	autoanswer struct answer a = {};

	(void)state;
	opt.idle_s = 1;
	atomic_store(&slow_ms, 3000);
	start(&opt);
	uint64_t begin = monotonic_ns();
	autoclose int silent = client_unix(path);
	autoclose int half = client_unix(path);
	client_puts(half, "GET /healthz HT");
	autoclose int patient = client_unix(path);
	client_puts(patient, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_true(client_closed(silent));
	assert_true(client_closed(half));
	assert_true(monotonic_ns() - begin < 2900000000);
	client_read(patient, false, &a); /* the handler's time is not the client's */
	assert_int_equal(a.status, 200);
	assert_true(monotonic_ns() - begin >= 2900000000);
	answer_done(&a);
	client_puts(patient, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	client_read(patient, false, &a);
	assert_int_equal(a.status, 200);
	assert_true(client_closed(patient)); /* and then it is silent, too */
}

static void *stop_it(void *arg)
{
	(void)arg;
	http_stop(steal_ptr(&server));
	return NULL;
}

static void stop_lets_handlers_end(void **state)
{
	const struct http_options opt = options();
	unsigned before = count_fds();
	pthread_t thread;
	struct stat st;

	(void)state;
	{
		autoanswer struct answer a = {}, b = {};
		atomic_store(&slow_ms, 60000);
		start(&opt);
		autoclose int fd = client_unix(path);
		autoclose int stream = client_unix(path);
		autoclose int silent = client_unix(path);
		client_puts(fd, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
		client_puts(stream, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
		client_read(stream, true, &b);
		assert_int_equal(b.status, 200);
		usleep(100000);
		uint64_t begin = monotonic_ns();
		assert_int_equal(pthread_create(&thread, NULL, stop_it, NULL), 0);
		client_read(fd, false, &a); /* it saw request_gone() */
		assert_int_equal(a.status, 200);
		assert_string_equal(answer_header(&a, "Connection"), "close");
		pthread_join(thread, NULL);
		assert_true(monotonic_ns() - begin < 5000000000);
		assert_true(client_closed(silent));
		assert_int_equal(stat(path, &st), -1);
	}
	expect_fds(before);
}

static void gone_clients_end_handlers(void **state)
{
	const struct http_options opt = options();

	(void)state;
	atomic_store(&slow_ms, 60000);
	start(&opt);
	unsigned before = atomic_load(&handled);
	{
		autoclose int fd = client_unix(path);
		client_puts(fd, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
		usleep(100000);
	}
	for (unsigned i = 0; i < 300 && atomic_load(&handled) == before; i++)
		usleep(10000);
	assert_int_equal(atomic_load(&handled), before + 1);
}

static void second_daemon(void **state)
{
	const struct http_options opt = options();
	struct http_server *other = NULL;
	struct err err = {};

	(void)state;
	start(&opt);
	assert_true(http_start(&daemon_, &opt, &other, &err) < 0);
	assert_null(other);
	assert_non_null(strstr(err.msg, "already in use by another running instance"));
	autoanswer struct answer a = {};
	ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	assert_int_equal(a.status, 200);
}

/* ---- events ---- */

static void follows_events(void **state)
{
	autoclose int fd = client_unix(path);
	autoclose int resumed = client_unix(path);
	uint64_t oldest, newest;
	char text[256];

	(void)state;
	events_emit(daemon_.events, "before", NULL, NULL, NULL);
	client_puts(fd, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
	read_until(fd, "Content-Type: text/event-stream\r\n");
	read_until(fd, "\r\n\r\n");
	events_emit(daemon_.events, "one", "t", "c", NULL);
	read_until(fd, "event: one\ndata: {\"seq\":");
	events_emit(daemon_.events, "two", "t", "c", NULL);
	read_until(fd, "event: two\n");
	events_range(daemon_.events, &oldest, &newest);
	snprintf(text, sizeof(text), "GET /v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: %llu\r\n\r\n",
		 (unsigned long long)newest - 2);
	client_puts(resumed, text);
	read_until(resumed, "event: one\n");
	read_until(resumed, "event: two\n");
	events_emit(daemon_.events, "three", "t", "c", NULL);
	read_until(fd, "event: three\n");
	read_until(resumed, "event: three\n");
}

static void reads_events_once(void **state)
{
	uint64_t oldest, newest;
	char text[256];
	autoanswer struct answer a = {};

	(void)state;
	events_emit(daemon_.events, "last", NULL, NULL, NULL);
	events_range(daemon_.events, &oldest, &newest);
	ask("GET /v1/events?follow=0 HTTP/1.1\r\nHost: x\r\n\r\n", &a);
	assert_int_equal(a.status, 200);
	snprintf(text, sizeof(text), "id: %llu\n", (unsigned long long)oldest);
	assert_memory_equal(a.body, text, strlen(text));
	assert_non_null(strstr(a.body, "event: last\n"));
	answer_done(&a);
	snprintf(text, sizeof(text), "GET /v1/events?follow=0&after=%llu HTTP/1.1\r\nHost: x\r\n\r\n",
		 (unsigned long long)newest);
	ask(text, &a);
	assert_int_equal(a.status, 200);
	assert_int_equal(a.body_len, 0);
	assert_string_equal(answer_header(&a, "Content-Type"), "text/event-stream");
	answer_done(&a);
	snprintf(text, sizeof(text), "HEAD /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
	ask(text, &a);
	assert_int_equal(a.status, 200);
}

static void lost_events(void **state)
{
	static const struct {
		const char *query;
		int status;
	} cases[] = {
		{ "?after=1", 410 },          { "?after=99999999999999999", 410 },
		{ "?after=0&follow=0", 200 }, { "?after=x", 400 },
		{ "?after=-1", 400 },         { "?after=99999999999999999999", 400 },
		{ "?follow=yes", 400 },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoanswer struct answer a = {};
		char text[128];
		snprintf(text, sizeof(text), "GET /v1/events%s HTTP/1.1\r\nHost: x\r\n\r\n", cases[i].query);
		ask(text, &a);
		assert_int_equal(a.status, cases[i].status);
		if (a.status == 410)
			assert_string_equal(answer_text(&a, "code"), "events_lost");
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
#define TEST_OWN(f) cmocka_unit_test_teardown(f, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(answers),
		TEST(targets),
		TEST(long_targets),
		TEST(bodies),
		TEST(too_large),
		TEST(largest),
		TEST(expects),
		TEST(pipelining),
		TEST(byte_by_byte),
		TEST(disappears),
		TEST(takes_descriptors),
		TEST(refuses_descriptors),
		TEST(late_descriptors),
		TEST(lost_descriptors),
		TEST(abandoned_descriptors),
		TEST(peer_credentials),
		TEST(many_at_once),
		TEST(many_silent),
		TEST(bad_requests),
		TEST(old_clients),
		TEST(half_closed),
		TEST(streams_cost_no_thread),
		TEST(served_while_others_wait),
		TEST_OWN(idle_connections),
		TEST_OWN(stop_lets_handlers_end),
		TEST_OWN(gone_clients_end_handlers),
		TEST_OWN(second_daemon),
		TEST(follows_events),
		TEST(reads_events_once),
		TEST(lost_events),
		TEST(slow_followers), /* leaves long events behind */
	};
	return cmocka_run_group_tests(tests, set_up_all, tear_down_all);
}
