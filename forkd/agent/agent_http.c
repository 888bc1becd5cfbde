// SPDX-License-Identifier: Apache-2.0
/* Requests to a guest's agent, and answers that may be anything. */
#include "forkd/agent/agent_http.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base64.h"
#include "forkd/errors.h"
#include "forkd/wire/control.h"

enum { READ_BYTES = 64 * 1024, USER_MAX = 64 };

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

int agent_send_text(int fd, const char *text, size_t len, uint64_t deadline_ns, struct err *err)
{
	while (len > 0) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN) {
			if (wait_for(fd, POLLOUT, deadline_ns, err) < 0)
				return err->num;
			continue;
		}
		if (n < 0 && errno != EINTR)
			return fail(err, E_AGENT, "the guest's agent takes no request: %s", strerror(errno));
		if (n > 0) {
			text += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

bool agent_user_is_name(const char *user)
{
	return strlen(user) <= USER_MAX && !strchr(user, ':');
}

int agent_user_field(const char *user, struct strbuf *out, struct err *err)
{
	char name[USER_MAX + 2];

	if (!user || !user[0])
		return 0;
	if (!agent_user_is_name(user))
		return fail(err, E_INVALID, "the user's name '%.80s' has a ':', or more than %d bytes", user, USER_MAX);
	int len = snprintf(name, sizeof(name), "%s:", user);
	strbuf_puts(out, "Authorization: Basic ");
	base64_add(out, name, (size_t)len);
	strbuf_puts(out, "\r\n");
	return 0;
}

void agent_request_text(const struct agent_request *rq, struct strbuf *out)
{
	strbuf_printf(out, "%s %s HTTP/1.1\r\nHost: agent\r\n%s", rq->method, rq->target, rq->fields ? rq->fields : "");
	if (rq->body)
		strbuf_printf(out, "Content-Type: %s\r\nContent-Length: %zu\r\n",
			      rq->type ? rq->type : "application/json", rq->body->len);
	strbuf_puts(out, "\r\n");
	if (rq->body && rq->body->len > 0)
		strbuf_add(out, rq->body->text, rq->body->len);
	out->failed = out->failed || (rq->body && rq->body->failed);
}

int agent_send(int fd, const struct agent_request *rq, struct err *err)
{
	autostrbuf struct strbuf text = {};

	agent_request_text(rq, &text);
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "ask the guest's agent");
	return agent_send_text(fd, text.text, text.len, rq->deadline_ns, err);
}

/* ---- the answer ---- */

static int on_body(http_parser *parser, const char *bytes, size_t len)
{
	struct agent_stream *s = parser->data;

	s->stopped = s->body(s->arg, bytes, len, s->err) < 0;
	return s->stopped;
}

static int on_whole(http_parser *parser)
{
	struct agent_stream *s = parser->data;

	s->whole = true;
	http_parser_pause(parser, 1);
	return 0;
}

void agent_stream_begin(struct agent_stream *s, agent_body_fn *body, void *arg)
{
	*s = (struct agent_stream){ .body = body, .arg = arg };
	http_parser_init(&s->parser, HTTP_RESPONSE);
	s->parser.data = s;
}

int agent_stream_take(struct agent_stream *s, int fd, struct err *err)
{
	const http_parser_settings settings = { .on_body = on_body, .on_message_complete = on_whole };
	char bytes[READ_BYTES];
	ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return fail(err, E_AGENT, "the guest's agent has hung up: %s", strerror(errno));
	s->err = err;
	http_parser_execute(&s->parser, &settings, bytes, (size_t)n);
	if (s->stopped)
		return err->num;
	if (s->whole)
		return 1;
	if (n == 0)
		return fail(err, E_AGENT, "the guest's agent has hung up before its answer was whole");
	if (HTTP_PARSER_ERRNO(&s->parser) != HPE_OK)
		return fail(err, E_AGENT, "the guest's agent sends what is not HTTP: %s",
			    http_errno_description(HTTP_PARSER_ERRNO(&s->parser)));
	return 0;
}

static int keep(void *arg, const char *bytes, size_t len, struct err *err)
{
	struct agent_answer *a = arg;

	if (a->text.len + len > AGENT_ANSWER_MAX)
		return fail(err, E_AGENT, "the guest's agent sends more than %d bytes", AGENT_ANSWER_MAX);
	strbuf_add(&a->text, bytes, len);
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
	struct agent_stream s;
	int r;

	agent_stream_begin(&s, keep, ret);
	while ((r = agent_stream_take(&s, fd, err)) == 0)
		if (wait_for(fd, POLLIN, deadline_ns, err) < 0)
			return err->num;
	ret->status = s.parser.status_code;
	return r < 0 ? r : parse_body(ret, err);
}

int agent_exchange(int fd, const struct agent_request *rq, struct agent_answer *ret, struct err *err)
{
	return agent_send(fd, rq, err) < 0 ? err->num : agent_receive(fd, rq->deadline_ns, ret, err);
}

const char *agent_message(const struct json_node *body, char buf[AGENT_SHOWN_BYTES])
{
	const struct json_node *message = json_get(body, "message");

	buf[0] = '\0';
	if (message && message->type == JSON_STRING)
		snprintf(buf, AGENT_SHOWN_BYTES, "%s", message->str);
	for (char *p = buf; *p; p++)
		*p = *p >= ' ' && *p < 0x7f ? *p : '?';
	return buf;
}

int agent_want(const struct agent_answer *a, unsigned wanted, const char *what, struct err *err)
{
	char shown[AGENT_SHOWN_BYTES];

	if (a->status == wanted)
		return 0;
	agent_message(a->body, shown);
	return fail(err, E_AGENT, "%s: the guest's agent answers %u%s%s", what, a->status, shown[0] ? ": " : "", shown);
}
