// SPDX-License-Identifier: Apache-2.0
/*
 * guest/http.h as a service sees it, over socket pairs: bodies that are whole, streamed or paused, answers of every kind, who is gone
 * when, connections that make room for others, and connections that are given away.
 */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <sys/socket.h>

#include "guest/http_internal.h"
#include "guest/limits.h"

static struct agent agent;
static struct server server;
static int client;
static char seen[1 << 16];    /* what the service was called with */
static struct exchange *live; /* the exchange of route /keep */

static void note(const char *bytes, size_t len)
{
	const size_t used = strlen(seen);

	assert_true(used + len < sizeof(seen));
	memcpy(seen + used, bytes, len);
	seen[used + len] = '\0';
}

/* ---- a service ---- */

static void body_part(struct exchange *ex, const char *data, size_t len)
{
	(void)ex;
	note(data, len);
	note("|", 1);
}

static void body_end(struct exchange *ex)
{
	note("end", 3);
	ex_answer(ex, 200, "text/plain", "done", 4);
}

static void gone(struct exchange *ex)
{
	(void)ex;
	note("gone", 4);
	live = NULL;
}

static void drained(struct exchange *ex)
{
	note("drain", 5);
	ex_end(ex);
}

static void whole(struct exchange *ex)
{
	assert_int_equal(ex->body[ex->body_len], '\0');
	ex_answer(ex, 200, "text/plain", ex->body, ex->body_len);
}

static void stream(struct exchange *ex)
{
	ex->on_body = body_part;
	ex->on_body_end = body_end;
	ex->on_gone = gone;
	live = ex;
}

static void keep(struct exchange *ex)
{
	ex->on_gone = gone;
	ex->on_drain = drained;
	live = ex;
}

static void show(struct exchange *ex)
{
	char text[256];
	const char *a = ex_query(ex, "a"), *b = ex_query(ex, "b"), *x = ex_header(ex, "x-y");
	const int n = snprintf(text, sizeof(text), "%s,%s,%s", a ? a : "-", b ? b : "-", x ? x : "-");

	ex_answer(ex, 200, "text/plain", text, (size_t)n);
}

static void refuse(struct exchange *ex)
{
	ex_fail(ex, 404, "no \"%s\"", "such");
}

static void pieces(struct exchange *ex)
{
	ex_begin(ex, 200, "text/plain", "X-A: b\r\n", ex_query(ex, "length") ? atoll(ex_query(ex, "length")) : -1);
	ex_write(ex, "one", 3);
	ex_write2(ex, "t", 1, "wo", 2);
	ex_end(ex);
}

static void take_over(struct exchange *ex)
{
	char *bytes;
	size_t len;
	const int fd = ex_take_over(ex, &bytes, &len);

	assert_int_equal(write(fd, "raw:", 4), 4);
	assert_int_equal(write(fd, bytes ? bytes : "", len), (ssize_t)len);
	free(bytes);
	close(fd);
}

static const struct route routes[] = {
	{ "POST", "/whole", BODY_WHOLE, STYLE_PLAIN, 10, whole },
	{ "POST", "/call", BODY_WHOLE, STYLE_UNARY, 10, whole },
	{ "POST", "/stream", BODY_STREAM, STYLE_PLAIN, 0, stream },
	{ "POST", "/refuse", BODY_STREAM, STYLE_PLAIN, 0, refuse },
	{ "GET", "/keep", BODY_NONE, STYLE_PLAIN, 0, keep },
	{ "GET", "/show", BODY_NONE, STYLE_PLAIN, 0, show },
	{ "GET", "/pieces", BODY_NONE, STYLE_PLAIN, 0, pieces },
	{ "HEAD", "/pieces", BODY_NONE, STYLE_PLAIN, 0, pieces },
	{ "GET", "/raw", BODY_NONE, STYLE_PLAIN, 0, take_over },
	{},
};

/* ---- a client ---- */

static int new_client(void)
{
	int p[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
	server_accept(&server, p[1]);
	return p[0];
}

static void rounds(void)
{
	for (int i = 0; i < 6; i++)
		assert_int_equal(loop_round(&agent.loop, 0), 0);
}

/* Sends a text, and returns what has been answered. */
static const char *say_to(int fd, const char *text)
{
	static char answer[1 << 16];

	if (*text)
		assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
	rounds();
	const ssize_t n = recv(fd, answer, sizeof(answer) - 1, MSG_DONTWAIT);
	answer[n > 0 ? n : 0] = '\0';
	return answer;
}

static const char *say(const char *text)
{
	return say_to(client, text);
}

static bool is_closed(int fd)
{
	char c;

	rounds();
	return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

static int set_up(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(loop_init(&agent.loop, &err), 0);
	agent.held.max = LIMIT_HELD;
	server_init(&server, &agent, routes);
	client = new_client();
	seen[0] = '\0';
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	close(client);
	server_done(&server);
	assert_null(agent.loop.timers);
	assert_int_equal(agent.held.used, 0);
	loop_done(&agent.loop);
	return 0;
}

#define OK(type, body, len) "HTTP/1.1 200 OK\r\nContent-Type: " type "\r\nContent-Length: " len "\r\n\r\n" body

/* ---- requests ---- */

static void whole_bodies(void **state)
{
	(void)state;
	assert_string_equal(say("POST /whole HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789"),
			    OK("text/plain", "0123456789", "10"));
	assert_string_equal(
		say("POST /whole HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n"),
		OK("text/plain", "abcde", "5"));
	assert_string_equal(say("POST /whole HTTP/1.1\r\n\r\n"), OK("text/plain", "", "0"));
	assert_string_equal(
		say("POST /whole HTTP/1.1\r\nContent-Length: 11\r\n\r\n"),
		"HTTP/1.1 413 Payload Too Large\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 56\r\n\r\n"
		"{\"code\":413,\"message\":\"the body has more than 10 bytes\"}");
	assert_true(is_closed(client));
}

static void whole_bodies_that_grow(void **state)
{
	(void)state;
	const char *answer =
		say("POST /call HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n012345678\r\n2\r\n9a\r\n0\r\n\r\n");
	assert_non_null(strstr(answer, "429"));
	assert_non_null(
		strstr(answer, "{\"code\":\"resource_exhausted\",\"message\":\"the body has more than 10 bytes\"}"));
	assert_true(is_closed(client));
}

static void queries(void **state)
{
	(void)state;
	assert_string_equal(say("GET /show?a=%41+%2B&b=&a=2 HTTP/1.1\r\nX-Y:  v w \r\nx-y: 2\r\n\r\n"),
			    OK("text/plain", "A +,,v w ", "9"));
	assert_string_equal(say("GET /show?b HTTP/1.1\r\n\r\n"), OK("text/plain", "-,,-", "4"));
	assert_non_null(strstr(say("GET /show?a=%zz HTTP/1.1\r\n\r\n"), " 400 "));
}

static void streamed_bodies(void **state)
{
	(void)state;
	assert_string_equal(say("POST /stream HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc"), "");
	assert_string_equal(seen, "abc|");
	ex_pause_body(live);
	assert_string_equal(say("def"), "");
	assert_string_equal(seen, "abc|"); /* it stays in the socket */
	ex_resume_body(live);
	assert_string_equal(say(""), OK("text/plain", "done", "4"));
	assert_string_equal(seen, "abc|def|end");
}

static void client_that_breaks_off(void **state)
{
	(void)state;
	assert_string_equal(say("POST /stream HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc"), "");
	close(client);
	rounds();
	assert_string_equal(seen, "abc|gone");
	assert_int_equal(server.n_connections, 0);
	client = new_client();
	seen[0] = '\0';
	assert_string_equal(say("POST /stream HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nxyz\r\n"), "");
	assert_string_equal(seen, "a|gone");
	assert_true(is_closed(client));
}

static void paused_client_that_goes(void **state)
{
	(void)state;
	say("POST /stream HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc");
	ex_pause_body(live);
	shutdown(client, SHUT_WR);
	rounds();
	assert_string_equal(seen, "abc|"); /* it may still send: what it sent is in the socket */
	ex_resume_body(live);
	rounds();
	assert_string_equal(seen, "abc|gone");
}

static void refused_bodies(void **state)
{
	static const char answer[] =
		"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n"
		"{\"code\":404,\"message\":\"no \\\"such\\\"\"}";

	(void)state;
	assert_string_equal(say("POST /refuse HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc"), answer);
	assert_string_equal(say("defGET /show HTTP/1.1\r\n\r\n"), OK("text/plain", "-,-,-", "5"));
}

static void expectations(void **state)
{
	(void)state;
	assert_string_equal(say("POST /whole HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"),
			    "HTTP/1.1 100 Continue\r\n\r\n");
	assert_string_equal(say("abc"), OK("text/plain", "abc", "3"));
	/* who was told so before may send the body or not: the connection cannot go on */
	assert_non_null(
		strstr(say("POST /refuse HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"), " 404 "));
	assert_true(is_closed(client));
}

/* ---- answers ---- */

static void answers_in_pieces(void **state)
{
	(void)state;
	assert_string_equal(
		say("GET /pieces HTTP/1.1\r\n\r\n"),
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n"
		"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
	assert_string_equal(say("GET /pieces?length=6 HTTP/1.1\r\n\r\n"),
			    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 6\r\n\r\nonetwo");
	assert_string_equal(say("HEAD /pieces?length=6 HTTP/1.1\r\n\r\n"),
			    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 6\r\n\r\n");
	assert_string_equal(
		say("HEAD /pieces HTTP/1.1\r\n\r\n"),
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n");
	assert_string_equal(say("GET /pieces HTTP/1.0\r\n\r\n"),
			    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nConnection: close\r\n\r\nonetwo");
	assert_true(is_closed(client));
}

/* A client must see that an answer is not whole, and never take a byte for the next one's. */
static void answers_of_another_length(void **state)
{
	(void)state;
	say("GET /pieces?length=7 HTTP/1.1\r\n\r\n");
	assert_true(is_closed(client));
	close(client);
	client = new_client();
	assert_null(strstr(say("GET /pieces?length=5 HTTP/1.1\r\n\r\n"), "onetw"));
	assert_true(is_closed(client));
}

static void answers_that_wait(void **state)
{
	static char big[LIMIT_OUT * 3], got[LIMIT_OUT * 4];
	size_t n = 0;

	(void)state;
	say("GET /keep HTTP/1.1\r\n\r\n");
	memset(big, 'x', sizeof(big));
	ex_begin(live, 200, "text/plain", NULL, sizeof(big));
	rounds();
	assert_int_equal(ex_room(live), LIMIT_OUT);
	ex_write(live, big, sizeof(big));
	assert_int_equal(ex_room(live), 0);
	rounds();
	assert_string_equal(seen, "");
	for (ssize_t part; (part = recv(client, got + n, sizeof(got) - n, MSG_DONTWAIT)) > 0; rounds())
		n += (size_t)part;
	assert_string_equal(seen, "drain");
	assert_int_equal(n, strlen("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 786432\r\n\r\n") +
				    sizeof(big));
	assert_string_equal(say("GET /show HTTP/1.1\r\n\r\n"), OK("text/plain", "-,-,-", "5"));
}

static void others_come_first(void **state)
{
	(void)state;
	say("GET /keep HTTP/1.1\r\n\r\n");
	ex_begin(live, 200, "text/plain", NULL, -1);
	ex_yield(live);
	assert_string_equal(seen, "");
	rounds();
	assert_string_equal(seen, "drain");
}

static void aborted_answers(void **state)
{
	(void)state;
	say("GET /keep HTTP/1.1\r\n\r\n");
	ex_begin(live, 200, "text/plain", NULL, -1);
	ex_write(live, "x", 1);
	ex_abort(live);
	assert_null(strstr(say(""), "0\r\n\r\n"));
	assert_true(is_closed(client));
	assert_string_equal(seen, "");
}

/* Who sends no more may still read, unless the answer has no end. */
static void half_closed_clients(void **state)
{
	(void)state;
	say("GET /keep HTTP/1.1\r\n\r\n");
	shutdown(client, SHUT_WR);
	rounds();
	assert_string_equal(seen, "");
	ex_answer(live, 200, "text/plain", "x", 1);
	assert_string_equal(say(""), OK("text/plain", "x", "1"));
	assert_true(is_closed(client));
	close(client);
	client = new_client();
	say("GET /keep HTTP/1.1\r\n\r\n");
	live->ends_with_client = true;
	shutdown(client, SHUT_WR);
	rounds();
	assert_string_equal(seen, "gone");
}

static void connections_given_away(void **state)
{
	(void)state;
	assert_string_equal(say("GET /raw HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nbytes"), "raw:bytes");
	assert_true(is_closed(client));
	assert_int_equal(server.n_connections, 0);
	close(client);
	client = new_client();
	assert_string_equal(say("GET /raw HTTP/1.1\r\n\r\n"), "raw:");
}

/* The small pieces of one round are one piece for the client, who would be woken for each of them. */
static void small_pieces_together(void **state)
{
	char got[512];

	(void)state;
	say("GET /keep HTTP/1.1\r\n\r\n");
	ex_begin(live, 200, "text/plain", NULL, 6);
	ex_write(live, "one", 3);
	ex_write(live, "two", 3);
	ex_end(live);
	assert_int_equal(recv(client, got, sizeof(got), MSG_DONTWAIT), -1);
	assert_int_equal(loop_round(&agent.loop, 0), 0);
	assert_int_equal(recv(client, got, sizeof(got), MSG_DONTWAIT), strlen(OK("text/plain", "onetwo", "6")));
}

/* An answer that was not sent yet comes before what the new owner of the connection writes. */
static void given_away_behind_an_answer(void **state)
{
	(void)state;
	assert_string_equal(say("GET /show HTTP/1.1\r\n\r\nGET /raw HTTP/1.1\r\n\r\nx"),
			    OK("text/plain", "-,-,-", "5") "raw:x");
}

/* What is pipelined waits for the answer before. */
static void one_after_the_other(void **state)
{
	(void)state;
	assert_string_equal(say("GET /keep HTTP/1.1\r\n\r\nGET /show HTTP/1.1\r\n\r\nGET /show?a=2 HTTP/1.1\r\n\r\n"),
			    "");
	ex_answer(live, 200, "text/plain", "x", 1);
	assert_string_equal(say(""),
			    OK("text/plain", "x", "1") OK("text/plain", "-,-,-", "5") OK("text/plain", "2,-,-", "5"));
}

/* ---- too many ---- */

static struct connection *newest(void)
{
	return server.connections;
}

static void silence_makes_room(void **state)
{
	int fds[LIMIT_CONNECTIONS];

	(void)state;
	close(client);
	rounds();
	for (int i = 0; i < LIMIT_CONNECTIONS; i++) {
		fds[i] = new_client();
		say_to(fds[i], i % 2 ? "POST /whole HTTP/1.1\r\nContent-Length: 5\r\n\r\nab" : "GET /ke");
	}
	client = new_client();
	assert_non_null(strstr(say(""), "HTTP/1.1 503 Service Unavailable"));
	assert_true(is_closed(client));
	close(client);
	newest()->silent_since_ns = 1; /* the last one is as if it had been silent for long */
	client = new_client();
	assert_string_equal(say("GET /show HTTP/1.1\r\n\r\n"), OK("text/plain", "-,-,-", "5"));
	assert_true(is_closed(fds[LIMIT_CONNECTIONS - 1]));
	for (int i = 0; i < LIMIT_CONNECTIONS; i++)
		close(fds[i]);
}

static void who_is_served_stays(void **state)
{
	int fds[LIMIT_CONNECTIONS];

	(void)state;
	close(client);
	rounds();
	for (int i = 0; i < LIMIT_CONNECTIONS; i++) {
		fds[i] = new_client();
		say_to(fds[i], "GET /keep HTTP/1.1\r\n\r\n"); /* its service has all, and takes its time */
		newest()->silent_since_ns = 1;
	}
	client = new_client();
	assert_non_null(strstr(say(""), " 503 "));
	for (int i = 0; i < LIMIT_CONNECTIONS; i++)
		close(fds[i]);
}

#define HTTP_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		HTTP_TEST(whole_bodies),
		HTTP_TEST(whole_bodies_that_grow),
		HTTP_TEST(queries),
		HTTP_TEST(streamed_bodies),
		HTTP_TEST(client_that_breaks_off),
		HTTP_TEST(paused_client_that_goes),
		HTTP_TEST(refused_bodies),
		HTTP_TEST(expectations),
		HTTP_TEST(answers_in_pieces),
		HTTP_TEST(answers_of_another_length),
		HTTP_TEST(answers_that_wait),
		HTTP_TEST(others_come_first),
		HTTP_TEST(aborted_answers),
		HTTP_TEST(half_closed_clients),
		HTTP_TEST(connections_given_away),
		HTTP_TEST(given_away_behind_an_answer),
		HTTP_TEST(small_pieces_together),
		HTTP_TEST(one_after_the_other),
		HTTP_TEST(silence_makes_room),
		HTTP_TEST(who_is_served_stays),
	};

	return cmocka_run_group_tests_name("guest_http", tests, NULL, NULL);
}
