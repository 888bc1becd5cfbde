// SPDX-License-Identifier: Apache-2.0
/* A command runs: process.Process/Start, its stream of events, and stdin on a second connection. */
#include "forkd/agent/exec.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base64.h"
#include "common/clock.h"
#include "common/frames.h"
#include "forkd/agent/agent_http.h"
#include "forkd/errors.h"
#include "forkd/wire/control.h"

enum {
	MESSAGE_MAX = 256 * 1024,      /* bytes of one message of the agent */
	INPUT_FRAME_BYTES = 48 * 1024, /* of stdin in one message to the agent */
	GRACE_MS = 5000,               /* for the agent to say that the command's time is over */
	SLICE_MS = 200,                /* to see when nobody waits for the result any more */
};

static const char stream_type[] = "application/connect+json";

/* Bytes of all commands' output in this process. */
static atomic_size_t held;

void exec_result_done(struct exec_result *r)
{
	atomic_fetch_sub(&held, r->out.bytes.len + r->err.bytes.len);
	strbuf_done(&r->out.bytes);
	strbuf_done(&r->err.bytes);
	*r = (struct exec_result){};
}

/* ---- what the agent says ---- */

struct run {
	const struct exec_call *call;
	struct exec_result *result;
	struct agent_stream stream;
	struct frames frames;
	struct json json;
	struct strbuf input; /* requests with stdin, for the second connection */
	size_t input_sent;
	bool started, ended, last, input_over;
};

/* What was cut once gets nothing more: an output has no holes. */
static void keep_output(struct run *r, struct exec_output *o, const char *bytes, size_t len)
{
	size_t had = o->bytes.len, room = r->call->wish->max_output - had, n = len < room ? len : room;

	if (o->truncated)
		return;
	if (atomic_fetch_add(&held, n) + n > EXEC_HELD_MAX) {
		atomic_fetch_sub(&held, n);
		n = 0;
	}
	strbuf_add(&o->bytes, bytes, n);
	if (o->bytes.failed)
		atomic_fetch_sub(&held, n);
	o->truncated = n < len;
}

static int take_data(struct run *r, const struct json_node *data, struct err *err)
{
	for (json_each(piece, data)) {
		struct exec_output *o = strcmp(piece->key, "stdout") == 0   ? &r->result->out
					: strcmp(piece->key, "stderr") == 0 ? &r->result->err
									    : NULL;
		ssize_t n = o && piece->type == JSON_STRING ? base64_decode(piece->str, piece->str, piece->count)
							    : -EINVAL;
		if (n < 0)
			return fail(err, E_AGENT, "the guest's agent sends output that is none");
		keep_output(r, o, piece->str, (size_t)n);
	}
	return 0;
}

static int32_t member_int(const struct json_node *node, const char *key)
{
	const struct json_node *n = json_get(node, key);

	if (!n || n->type != JSON_INT || n->num > INT32_MAX)
		return 0;
	return n->negative ? -(int32_t)n->num : (int32_t)n->num;
}

static void add_frame(struct strbuf *out, unsigned flags, const char *message, size_t len)
{
	unsigned char head[FRAME_HEAD];

	frame_head(head, flags, len);
	strbuf_add(out, (const char *)head, sizeof(head));
	strbuf_add(out, message, len);
}

/* Two requests, one behind the other: the bytes, then the end of stdin. Their answers do not matter: who ends reads no further. */
static void prepare_input(struct run *r, int32_t pid)
{
	const struct strbuf *from = &r->call->wish->input;
	autostrbuf struct strbuf body = {}, message = {};

	strbuf_printf(&message, "{\"start\":{\"process\":{\"pid\":%d}}}", pid);
	add_frame(&body, 0, message.text, message.len);
	for (size_t at = 0; at < from->len; at += INPUT_FRAME_BYTES) {
		size_t left = from->len - at;
		message.len = 0;
		strbuf_puts(&message, "{\"data\":{\"input\":{\"stdin\":\"");
		base64_add(&message, from->text + at, left < INPUT_FRAME_BYTES ? left : INPUT_FRAME_BYTES);
		strbuf_puts(&message, "\"}}}");
		add_frame(&body, 0, message.text, message.len);
	}
	add_frame(&body, FRAME_END, "{}", 2);
	agent_request_text(&(struct agent_request){ .method = "POST",
						    .target = "/process.Process/StreamInput",
						    .body = &body,
						    .type = stream_type },
			   &r->input);
	body.len = 0;
	strbuf_printf(&body, "{\"process\":{\"pid\":%d}}", pid);
	agent_request_text(
		&(struct agent_request){ .method = "POST", .target = "/process.Process/CloseStdin", .body = &body },
		&r->input);
}

static int take_event(struct run *r, const struct json_node *event, struct err *err)
{
	const struct json_node *start = json_get(event, "start"), *data = json_get(event, "data"),
			       *end = json_get(event, "end");

	if (start && !r->started) {
		r->started = true;
		if (r->call->wish->has_input)
			prepare_input(r, member_int(start, "pid"));
	}
	if (data && data->type == JSON_OBJECT && !r->ended)
		return take_data(r, data, err);
	if (end && !r->ended) {
		r->ended = true;
		r->result->exit_code = member_int(end, "exitCode");
		r->result->signal = member_int(end, "signal");
	}
	return 0;
}

/* The last frame: {} or {"error": {"code", "message"}}. */
static int take_last(struct run *r, const struct json_node *message, struct err *err)
{
	static const struct {
		const char *code;
		enum error_row row;
	} rows[] = {
		{ "invalid_argument", E_INVALID },  { "not_found", E_INVALID },
		{ "unauthenticated", E_INVALID }, /* there is no such user */
		{ "permission_denied", E_INVALID }, { "resource_exhausted", E_BUSY },
	};
	const struct json_node *error = json_get(message, "error"), *code = json_get(error, "code");
	char shown[AGENT_SHOWN_BYTES];

	r->last = true;
	if (r->ended || !error) /* exec_run() looks whether the command has ended */
		return 0;
	if (!code || code->type != JSON_STRING)
		return fail(err, E_AGENT, "the guest's agent sends an error without a code");
	if (strcmp(code->str, "deadline_exceeded") == 0) {
		r->ended = r->result->timed_out = true;
		r->result->exit_code = -1;
		r->result->signal = SIGKILL;
		return 0;
	}
	agent_message(error, shown);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (strcmp(rows[i].code, code->str) == 0)
			return fail(err, rows[i].row, "the guest's agent refuses: %s", shown);
	return fail(err, E_AGENT, "the guest's agent cannot run it: %s", shown);
}

static int take_message(struct run *r, struct err *err)
{
	if (json_parse(&r->json, r->frames.bytes, r->frames.len, err) < 0)
		return fail_as(err, E_AGENT, "a message of the guest's agent");
	return r->frames.ended ? take_last(r, r->json.nodes, err)
			       : take_event(r, json_get(r->json.nodes, "event"), err);
}

static int take_bytes(void *arg, const char *bytes, size_t len, struct err *err)
{
	struct run *r = arg;

	if (r->stream.parser.status_code != 200)
		return fail(err, E_AGENT, "the guest's agent answers %u", r->stream.parser.status_code);
	for (size_t used; len > 0 && !r->last; bytes += used, len -= used) {
		bool message;
		if (frames_take(&r->frames, bytes, len, &used, &message, err) < 0)
			return err->code == ERR_INTERNAL ? err->num : fail_as(err, E_AGENT, "the guest's agent sends");
		if (message && take_message(r, err) < 0)
			return err->num;
	}
	return 0;
}

/* ---- the two connections ---- */

int exec_request(const struct exec_wish *w, struct strbuf *out, struct err *err)
{
	autostrbuf struct strbuf body = {}, fields = {};

	if (agent_user_field(w->user, &fields, err) < 0)
		return err->num;
	strbuf_printf(&fields, "Connect-Protocol-Version: 1\r\nConnect-Timeout-Ms: %llu\r\n",
		      (unsigned long long)w->timeout_s * 1000);
	add_frame(&body, 0, w->start, strlen(w->start));
	agent_request_text(&(struct agent_request){ .method = "POST",
						    .target = "/process.Process/Start",
						    .body = &body,
						    .type = stream_type,
						    .fields = fields.text },
			   out);
	if (body.text)
		explicit_bzero(body.text, body.len);
	return fields.failed || out->failed ? err_num(err, ERR_INTERNAL, ENOMEM, "ask the guest's agent") : 0;
}

/* The second connection: sends what it takes, and drops what it says. */
static void feed(struct run *r, short events)
{
	char dropped[4096];
	ssize_t n = 1;

	if (events & POLLOUT) {
		n = send(r->call->input_fd, r->input.text + r->input_sent, r->input.len - r->input_sent,
			 MSG_NOSIGNAL | MSG_DONTWAIT);
		r->input_sent += n > 0 ? (size_t)n : 0;
	}
	if (n > 0 && (events & (POLLIN | POLLHUP | POLLERR)))
		n = recv(r->call->input_fd, dropped, sizeof(dropped), MSG_DONTWAIT);
	r->input_over = r->input_over || n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static int wait_for_more(struct run *r, struct err *err)
{
	struct pollfd p[] = { { .fd = r->call->fd, .events = POLLIN }, { .fd = -1, .events = POLLIN } };

	if (r->input.len > 0 && !r->input_over) {
		p[1].fd = r->call->input_fd;
		p[1].events |= r->input_sent < r->input.len ? POLLOUT : 0;
	}
	if (poll(p, ARRAY_LEN(p), SLICE_MS) < 0 && errno != EINTR)
		return err_sys(err, ERR_INTERNAL, "wait for the guest's agent");
	if (p[1].revents)
		feed(r, p[1].revents);
	return 0;
}

static int run_to_end(struct run *r, uint64_t deadline_ns, struct err *err)
{
	const struct exec_call *call = r->call;
	int taken = 0;

	while (taken == 0 && !r->last) {
		if (wait_for_more(r, err) < 0)
			return err->num;
		taken = agent_stream_take(&r->stream, call->fd, err);
		if (taken == 0 && call->gone && call->gone(call->arg))
			return fail(err, E_TIMEOUT, "nobody waits for the command's end any more");
		if (taken == 0 && monotonic_ns() >= deadline_ns)
			return fail(err, E_TIMEOUT, "the guest's agent has not answered in time");
		if (r->input.failed)
			return err_num(err, ERR_INTERNAL, ENOMEM, "send the command its input");
	}
	if (taken < 0)
		return taken;
	if (!r->ended)
		return fail(err, E_AGENT, "the guest's agent does not say how the command has ended");
	return 0;
}

int exec_run(const struct exec_call *call, struct exec_result *ret, struct err *err)
{
	struct run r = { .call = call, .result = ret, .frames.max = MESSAGE_MAX };
	const uint64_t begun_ns = monotonic_ns(), deadline_ns = deadline_in_ms(call->wish->timeout_s * 1000 + GRACE_MS);

	agent_stream_begin(&r.stream, take_bytes, &r);
	int done = run_to_end(&r, deadline_ns, err);
	ret->took_us = (monotonic_ns() - begun_ns) / 1000;
	if (done >= 0 && (ret->out.bytes.failed || ret->err.bytes.failed))
		done = err_num(err, ERR_INTERNAL, ENOMEM, "keep the command's output");
	if (r.input.text)
		explicit_bzero(r.input.text, r.input.len);
	strbuf_done(&r.input);
	frames_done(&r.frames);
	json_done(&r.json);
	return done;
}
