// SPDX-License-Identifier: Apache-2.0
/*
 * Feeds processes: SendInput and StreamInput. Both are feeders, which have bytes that the process has not taken
 * yet. The bytes of one message are written without those of another in between. A call is answered when the
 * process' pipe or terminal has taken all; until then a stream's body is not read further.
 */
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/frames.h"
#include "guest/connect.h"
#include "guest/limits.h"
#include "guest/message.h"
#include "guest/process/process.h"

struct feeder {
	struct exchange *ex;
	struct process *process; /* NULL: a stream that has not said it yet */
	struct feeder *next, **link;
	struct timer deadline;
	struct strbuf bytes; /* from `at` on they are to be written */
	size_t at, held;     /* held: counts in the agent's budget */
	struct frames frames;
	bool stream, body_ended;
};

static void feeder_free(struct feeder *f)
{
	loop_timer_cancel(&f->deadline);
	if (f->process) {
		if (f->process->feeding == f)
			f->process->feeding = NULL;
		*f->link = f->next;
		if (f->next)
			f->next->link = f->link;
	}
	frames_done(&f->frames);
	budget_give(&f->ex->agent->held, &f->held);
	strbuf_done(&f->bytes);
	free(f);
}

static void feeder_fail(struct feeder *f, const struct err *err)
{
	process_fail(f->ex, err);
	feeder_free(f);
}

static bool is_hungry(const struct feeder *f)
{
	return f->at < f->bytes.len;
}

/* All that the feeder has is written: answers, when no more is to come. */
static void feeder_fed(struct feeder *f)
{
	f->bytes.len = f->at = 0;
	budget_give(&f->ex->agent->held, &f->held);
	if (!f->stream) {
		connect_reply(f->ex, "{}", 2);
		feeder_free(f);
	} else if (f->body_ended) {
		stream_begin(f->ex);
		stream_message(f->ex, "{}", 2);
		stream_end(f->ex);
		feeder_free(f);
	} else {
		ex_resume_body(f->ex);
	}
}

/* ---- to the process ---- */

static void close_input(struct process *p)
{
	loop_del(&p->agent->loop, &p->input);
	close(p->input.fd);
	p->input.fd = -1;
}

static struct feeder *next_feeder(struct process *p)
{
	struct feeder *f = p->feeding ? p->feeding : p->feeders;

	while (f && !is_hungry(f))
		f = f->next;
	return f;
}

/* The process takes no input any more: who has some is told. */
static void input_broke(struct process *p, int num)
{
	struct err err = {};

	close_input(p);
	if (num == EPIPE || num == EIO)
		err_set(&err, ERR_CONFLICT, "process %d has closed its stdin", p->child.pid);
	else
		err_num(&err, ERR_INTERNAL, num, "write to process %d", p->child.pid);
	for (struct feeder *f; (f = next_feeder(p));)
		feeder_fail(f, &err);
}

static void feed(struct process *p);

static void on_input(struct watch *w, uint32_t events)
{
	(void)events;
	feed(container_of(w, struct process, input));
}

/* Waits until the process takes more. */
static void wait_for_process(struct process *p)
{
	struct err err = {};

	p->input.ready = on_input;
	if (!p->input.added && loop_add(&p->agent->loop, &p->input, EPOLLOUT, &err) < 0)
		input_broke(p, -err.num);
}

static void feed(struct process *p)
{
	for (struct feeder *f; p->input.fd >= 0 && (f = next_feeder(p));) {
		const ssize_t n = write(p->input.fd, f->bytes.text + f->at, f->bytes.len - f->at);
		if (n < 0 && errno == EAGAIN)
			return wait_for_process(p);
		if (n < 0 && errno != EINTR)
			return input_broke(p, errno);
		f->at += n > 0 ? (size_t)n : 0;
		p->feeding = is_hungry(f) ? f : NULL;
		if (!is_hungry(f))
			feeder_fed(f);
	}
	loop_del(&p->agent->loop, &p->input);
	if (p->input_ends && p->input.fd >= 0)
		close_input(p);
}

int process_close_stdin(struct process *p, struct err *err)
{
	if (p->pty)
		return err_set(err, ERR_CONFLICT, "process %d has a terminal: send it Ctrl+D (0x04) instead",
			       p->child.pid);
	p->input_ends = true;
	if (p->input.fd >= 0)
		feed(p);
	return 0;
}

void process_input_done(struct process *p)
{
	struct err err = {};

	if (p->feeders)
		err_set(&err, ERR_NOT_FOUND, "process with pid %d has ended", p->child.pid);
	while (p->feeders)
		feeder_fail(p->feeders, &err);
}

/* ---- from the client ---- */

static void attach(struct feeder *f, struct process *p)
{
	struct feeder **end = &p->feeders;

	while (*end)
		end = &(*end)->next;
	f->process = p;
	f->next = NULL;
	f->link = end;
	*end = f;
}

/* Takes the message's member `input`: what is for stdin, or for the terminal. */
static int add_input(struct feeder *f, const struct json_node *message, struct err *err)
{
	const struct json_node *input;
	const struct process *p = f->process;
	char *to_stdin, *to_pty;
	size_t stdin_len, pty_len;

	if (message_object(message, "input", &input, err) < 0 ||
	    message_bytes(input, "stdin", &to_stdin, &stdin_len, err) < 0 ||
	    message_bytes(input, "pty", &to_pty, &pty_len, err) < 0)
		return err->num;
	if (!to_stdin == !to_pty)
		return err_set(err, ERR_INVALID, "input: needs either stdin or pty");
	if (to_stdin && p->pty)
		return err_set(err, ERR_CONFLICT, "process %d has a terminal: its input is pty", p->child.pid);
	if (to_pty && !p->pty)
		return err_set(err, ERR_CONFLICT, "process %d has no terminal: its input is stdin", p->child.pid);
	if (p->input.fd < 0 || p->input_ends)
		return err_set(err, ERR_CONFLICT, "stdin of process %d is not enabled, or closed", p->child.pid);
	if (!budget_take(&f->ex->agent->held, &f->held, stdin_len + pty_len))
		return err_set(err, ERR_BUSY, "%d bytes of requests are held, which is the most", LIMIT_HELD);
	strbuf_add(&f->bytes, to_stdin ? to_stdin : to_pty, stdin_len + pty_len);
	return f->bytes.failed ? err_num(err, ERR_INTERNAL, ENOMEM, "take input for process %d", p->child.pid) : 0;
}

static void on_gone(struct exchange *ex)
{
	struct feeder *f = ex->state;
	struct process *p = f->process;

	feeder_free(f);
	if (p)
		feed(p);
}

static void on_deadline(struct timer *t)
{
	struct feeder *f = container_of(t, struct feeder, deadline);
	struct process *p = f->process;

	connect_fail(f->ex, CONNECT_DEADLINE_EXCEEDED, "the call's deadline has passed");
	feeder_free(f);
	if (p)
		feed(p);
}

/* NULL: that was answered. */
static struct feeder *feeder_new(struct exchange *ex, bool stream)
{
	uint64_t timeout_ns;

	if (!connect_timeout(ex, &timeout_ns))
		return NULL;
	struct feeder *f = calloc(1, sizeof(*f));
	if (!f) {
		connect_fail(ex, CONNECT_INTERNAL, "no memory for the call");
		return NULL;
	}
	*f = (struct feeder){ .ex = ex,
			      .stream = stream,
			      .deadline.fire = on_deadline,
			      .frames = { .max = LIMIT_FRAME, .budget = &ex->agent->held } };
	if (timeout_ns)
		loop_timer_set(&ex->agent->loop, &f->deadline, monotonic_ns() + timeout_ns);
	ex->state = f;
	ex->on_gone = on_gone;
	return f;
}

void process_send_input(struct exchange *ex)
{
	autojson struct json json = {};
	const struct json_node *message = connect_request(ex, &json);
	struct feeder *f = message ? feeder_new(ex, false) : NULL;
	struct process *p;
	struct err err = {};

	if (!f)
		return;
	if (process_select(ex->agent, message, &p, &err) < 0)
		return feeder_fail(f, &err);
	attach(f, p);
	if (add_input(f, message, &err) < 0)
		return feeder_fail(f, &err);
	if (!is_hungry(f))
		return feeder_fed(f);
	feed(p);
}

/* ---- streams of input ---- */

static int take_event(struct feeder *f, const struct json_node *message, struct err *err)
{
	const struct json_node *start, *data;
	struct process *p;

	if (message_object(message, "start", &start, err) < 0 || message_object(message, "data", &data, err) < 0)
		return err->num;
	if (start && f->process)
		return err_set(err, ERR_INVALID, "start: comes once");
	if (start) {
		if (process_select(f->ex->agent, start, &p, err) < 0)
			return err->num;
		attach(f, p);
		return 0;
	}
	if (data && !f->process)
		return err_set(err, ERR_INVALID, "start: has to come before data");
	if (data)
		return add_input(f, data, err);
	return message_get(message, "keepalive") ? 0 : err_set(err, ERR_INVALID, "neither start, data nor keepalive");
}

static int take_message(struct feeder *f, struct err *err)
{
	autojson struct json json = {};

	if (json_parse(&json, f->frames.bytes, f->frames.len, err) < 0)
		return err->num;
	if (json.nodes->type != JSON_OBJECT)
		return err_set(err, ERR_INVALID, "the message is %s, not an object", json_type_name(json.nodes));
	return take_event(f, json.nodes, err);
}

static void on_body(struct exchange *ex, const char *data, size_t len)
{
	struct feeder *f = ex->state;
	struct err err = {};

	for (size_t used; len > 0; data += used, len -= used) {
		bool message;
		if (frames_take(&f->frames, data, len, &used, &message, &err) < 0 ||
		    (message && !f->frames.ended && take_message(f, &err) < 0))
			return feeder_fail(f, &err);
	}
	if (!is_hungry(f))
		return;
	ex_pause_body(ex);
	feed(f->process);
}

static void on_body_end(struct exchange *ex)
{
	struct feeder *f = ex->state;

	if (f->frames.head_len > 0) {
		connect_fail(ex, CONNECT_INVALID_ARGUMENT, "the body ends in the middle of a message");
		feeder_free(f);
		return;
	}
	f->body_ended = true;
	if (!is_hungry(f))
		feeder_fed(f);
}

void process_stream_input(struct exchange *ex)
{
	struct feeder *f = connect_is_call(ex) ? feeder_new(ex, true) : NULL;

	if (!f)
		return;
	ex->on_body = on_body;
	ex->on_body_end = on_body_end;
}
