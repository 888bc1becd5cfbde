// SPDX-License-Identifier: Apache-2.0
/* Requests to a guest's agent, and answers that may be anything. */
#include "forkd/agent/agent_http.h"

#include <errno.h>
#include <http_parser.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "forkd/errors.h"
#include "forkd/wire/control.h"

enum {
	READ_BYTES = 16 * 1024,
	SHOWN_BYTES = 300, /* of an agent's message in ours */
};

void agent_answer_done(struct agent_answer *a)
{
	json_done(&a->json);
	strbuf_done(&a->text);
	*a = (struct agent_answer){};
}

/* ---- the socket ---- */

static int wait_for(int fd, short events, uint64_t deadline_ns, struct err *err)
{
	int r = wait_events(fd, events, deadline_ns);

	if (r == 0)
		return fail(err, E_TIMEOUT, "the guest's agent has not answered in time");
	return r < 0 ? err_num(err, ERR_INTERNAL, -r, "wait for the guest's agent") : 0;
}

static int send_all(int fd, const char *bytes, size_t len, uint64_t deadline_ns, struct err *err)
{
	while (len > 0) {
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN) {
			if (wait_for(fd, POLLOUT, deadline_ns, err) < 0)
				return err->num;
			continue;
		}
		if (n < 0 && errno != EINTR)
			return fail(err, E_AGENT, "the guest's agent takes no request: %s", strerror(errno));
		if (n > 0) {
			bytes += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

int agent_send(int fd, const struct agent_request *rq, struct err *err)
{
	const size_t len = rq->body ? rq->body->len : 0;
	autostrbuf struct strbuf text = {};

	strbuf_printf(&text, "%s %s HTTP/1.1\r\nHost: agent\r\n", rq->method, rq->target);
	if (rq->body)
		strbuf_printf(&text, "Content-Type: application/json\r\nContent-Length: %zu\r\n", len);
	strbuf_puts(&text, "\r\n");
	if (len > 0)
		strbuf_add(&text, rq->body->text, len);
	if (text.failed || (rq->body && rq->body->failed))
		return err_num(err, ERR_INTERNAL, ENOMEM, "ask the guest's agent");
	return send_all(fd, text.text, text.len, rq->deadline_ns, err);
}

/* ---- the answer ---- */

struct reader {
	struct agent_answer *answer;
	bool whole, too_long;
};

static int on_body(http_parser *parser, const char *bytes, size_t len)
{
	struct reader *r = parser->data;

	if (r->answer->text.len + len > AGENT_ANSWER_MAX) {
		r->too_long = true;
		return 1;
	}
	strbuf_add(&r->answer->text, bytes, len);
	return 0;
}

static int on_whole(http_parser *parser)
{
	struct reader *r = parser->data;

	r->whole = true;
	http_parser_pause(parser, 1);
	return 0;
}

static int check_parsed(const http_parser *parser, const struct reader *r, struct err *err)
{
	const enum http_errno num = HTTP_PARSER_ERRNO(parser);

	if (r->too_long)
		return fail(err, E_AGENT, "the guest's agent sends more than %d bytes", AGENT_ANSWER_MAX);
	if (num != HPE_OK && !r->whole)
		return fail(err, E_AGENT, "the guest's agent sends what is not HTTP: %s", http_errno_description(num));
	return 0;
}

static int read_whole(int fd, uint64_t deadline_ns, struct reader *r, struct err *err)
{
	const http_parser_settings settings = { .on_body = on_body, .on_message_complete = on_whole };
	http_parser parser = { .data = r };
	char bytes[READ_BYTES];

	http_parser_init(&parser, HTTP_RESPONSE);
	while (!r->whole) {
		ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			if (wait_for(fd, POLLIN, deadline_ns, err) < 0)
				return err->num;
			continue;
		}
		if (n < 0)
			return fail(err, E_AGENT, "the guest's agent has hung up: %s", strerror(errno));
		http_parser_execute(&parser, &settings, bytes, (size_t)n);
		if (n == 0 && !r->whole)
			return fail(err, E_AGENT, "the guest's agent has hung up before its answer was whole");
		if (check_parsed(&parser, r, err) < 0)
			return err->num;
	}
	r->answer->status = parser.status_code;
	return 0;
}

static int parse_body(struct agent_answer *a, struct err *err)
{
	if (a->text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the answer of the guest's agent");
	if (a->text.len == 0)
		return 0;
	if (json_parse(&a->json, a->text.text, a->text.len, err) < 0)
		return fail_as(err, E_AGENT, "the answer of the guest's agent");
	if (a->json.nodes[0].type != JSON_OBJECT)
		return fail(err, E_AGENT, "the answer of the guest's agent is %s, not an object",
			    json_type_name(a->json.nodes));
	a->body = a->json.nodes;
	return 0;
}

int agent_receive(int fd, uint64_t deadline_ns, struct agent_answer *ret, struct err *err)
{
	struct reader r = { .answer = ret };

	return read_whole(fd, deadline_ns, &r, err) < 0 ? err->num : parse_body(ret, err);
}

int agent_exchange(int fd, const struct agent_request *rq, struct agent_answer *ret, struct err *err)
{
	return agent_send(fd, rq, err) < 0 ? err->num : agent_receive(fd, rq->deadline_ns, ret, err);
}

int agent_want(const struct agent_answer *a, unsigned wanted, const char *what, struct err *err)
{
	const struct json_node *message = json_get(a->body, "message");
	char shown[SHOWN_BYTES] = "";

	if (a->status == wanted)
		return 0;
	if (message && message->type == JSON_STRING)
		snprintf(shown, sizeof(shown), "%s", message->str);
	for (char *p = shown; *p; p++)
		*p = *p >= ' ' && *p < 0x7f ? *p : '?';
	return fail(err, E_AGENT, "%s: the guest's agent answers %u%s%s", what, a->status, shown[0] ? ": " : "", shown);
}
