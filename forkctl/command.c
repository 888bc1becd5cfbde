// SPDX-License-Identifier: Apache-2.0
/* Connect's frames and messages of process.Process, and where the bytes go. */
#include "forkctl/command.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "common/base64.h"
#include "common/clock.h"
#include "common/frames.h"
#include "forkctl/sink.h"
#include "forkctl/table.h"
#include "forkctl/terminal.h"
#include "forkctl/transfer.h"

enum {
	MESSAGE_MAX = 1 << 20, /* bytes of one event; an agent's have at most 88 KiB */
	SINK_HIGH = 256 << 10, /* bytes that wait for a descriptor; then no more is received */
	SINK_LOW = 64 << 10,   /* and from here on again */
	INPUT_MAX = 256 << 10, /* bytes of input in one call */
	TICK_MS = 200,
	LEAVE_MS = 10000,    /* after a hang-up of the terminal */
	END_OF_INPUT = 0x04, /* Ctrl+D */
};

/* A call with one message each way. */
struct call {
	struct transfer transfer;
	struct strbuf body;
	bool busy; /* it has begun, and its end was not looked at */
};

struct run {
	struct client *client;
	struct command *cmd;
	struct strbuf url; /* "…/process.Process/" and a method behind it */
	size_t url_len;
	struct transfer start; /* the stream of events */
	struct strbuf start_body;
	struct frames frames; /* of it */
	struct sink out, err;
	uint64_t pid;    /* 0: it has not started */
	bool ended;      /* `status` is known */
	bool broken_off; /* what the agent sends cannot be read */
	int status;
	struct call input;   /* SendInput and CloseStdin */
	struct strbuf next;  /* input for the call after that */
	bool in_open;        /* in_fd is read */
	bool in_closes;      /* its end is to be passed on */
	struct call control; /* SendSignal and Update */
	unsigned n_signals;
	const char *signal; /* to be sent; NULL: none */
	uint64_t leave_ns;  /* CLOCK_MONOTONIC at which nobody waits any more; 0: never */
	bool resize;        /* the terminal's size is to be sent */
};

/* ---- events ---- */

static void add_output(struct run *r, struct sink *s, const struct json_node *text)
{
	ssize_t n = base64_decode(text->str, text->str, text->count);

	for (ssize_t i = 0; i < n && s == &r->err && r->cmd->plain_err; i++)
		if ((text->str[i] < ' ' || text->str[i] > '~') && text->str[i] != '\n')
			text->str[i] = '?';
	if (n >= 0)
		sink_add(s, text->str, (size_t)n);
	else
		r->broken_off = true;
}

/* Writes what can be written. A descriptor that takes nothing more is to the command like a closed pipe. */
static size_t push(struct run *r, struct sink *s)
{
	size_t sent;

	if (sink_push(s, &sent))
		return sent;
	if (errno != EPIPE) {
		fprintf(stderr, "forkctl: cannot write the command's output: %s\n", strerror(errno));
		r->status = COMMAND_FAILED;
	}
	r->signal = r->signal ? r->signal : "SIGNAL_SIGTERM";
	return sent;
}

static void on_start(struct run *r)
{
	if (r->cmd->terminal)
		terminal_raw(r->cmd->terminal);
	r->resize = r->cmd->tty; /* the size may have changed since */
}

static void on_end(struct run *r, const struct json_node *end)
{
	const struct json_node *code = json_get(end, "exitCode");
	uint64_t number = 0;

	if (member_number(end, "signal", &number) && number < 128)
		number += COMMAND_SIGNAL;
	else if (code && code->type == JSON_INT)
		number = code->negative ? COMMAND_FAILED : code->num & 0xff;
	r->status = r->status ? r->status : (int)number;
	r->ended = true;
}

static void on_event(struct run *r, const struct json_node *event)
{
	const struct json_node *data = json_get(event, "data"), *end = json_get(event, "end"), *text;

	if (!r->pid && member_number(json_get(event, "start"), "pid", &r->pid))
		on_start(r);
	if ((text = json_get(data, "stdout")) && text->type == JSON_STRING)
		add_output(r, &r->out, text);
	if ((text = json_get(data, "pty")) && text->type == JSON_STRING)
		add_output(r, &r->out, text);
	if ((text = json_get(data, "stderr")) && text->type == JSON_STRING)
		add_output(r, &r->err, text);
	if (end)
		on_end(r, end);
}

/* The stream has ended with an error: mostly the command could not be started. */
static void on_error(struct run *r, const struct json_node *error)
{
	const char *code = member_text(error, "code", ""), *text = member_text(error, "message", "no reason given");
	bool cannot = !r->pid && strcmp(code, "invalid_argument") == 0;
	bool is_absent = cannot && strncmp(text, "start '", 7) == 0 && strstr(text, ": No such file or directory");

	terminal_done(r->cmd->terminal);
	fprintf(stderr, "forkctl: clone %s: ", r->cmd->id);
	print_clean(stderr, text);
	fprintf(stderr, " (%.64s)\n", code);
	r->ended = true;
	r->status = is_absent ? COMMAND_ABSENT : cannot ? COMMAND_CANNOT : COMMAND_FAILED;
	if (strcmp(code, "deadline_exceeded") == 0)
		r->status = COMMAND_TIMEOUT;
}

static void on_message(struct run *r, bool last)
{
	autojson struct json json = {};
	struct err err = {};

	if (json_parse(&json, r->frames.bytes, r->frames.len, &err) < 0) {
		r->broken_off = true;
		return;
	}
	const struct json_node *event = json_get(json.nodes, "event"), *error = json_get(json.nodes, "error");
	if (last && error && !r->ended)
		on_error(r, error);
	else if (!last && event && !r->ended)
		on_event(r, event);
}

static bool on_bytes(void *arg, const char *bytes, size_t len)
{
	struct run *r = arg;

	for (size_t used; len > 0 && !r->broken_off; bytes += used, len -= used) {
		struct err err = {};
		bool message;
		r->broken_off = frames_take(&r->frames, bytes, len, &used, &message, &err) < 0;
		if (!r->broken_off && message)
			on_message(r, r->frames.ended);
	}
	return !r->broken_off;
}

/* ---- calls ---- */

static const char *url_of(struct run *r, const char *method)
{
	r->url.len = r->url_len;
	strbuf_puts(&r->url, method);
	return r->url.text;
}

/* Sends c->body. */
static void call(struct run *r, struct call *c, const char *method)
{
	static const char *const fields[] = { "Content-Type: application/json", "Connect-Protocol-Version: 1", NULL };
	const struct transfer_request rq = { .method = "POST",
					     .path = url_of(r, method),
					     .fields = fields,
					     .body = c->body.text,
					     .body_len = c->body.len };

	c->busy = transfer_begin(r->client, &c->transfer, &rq) == EXIT_FINE;
	if (!c->busy)
		r->broken_off = true;
}

static void begin_call(struct run *r, struct call *c)
{
	c->body.len = 0;
	strbuf_printf(&c->body, "{\"process\":{\"pid\":%llu}", (unsigned long long)r->pid);
}

static void send_input(struct run *r)
{
	struct call *c = &r->input;

	begin_call(r, c);
	strbuf_printf(&c->body, ",\"input\":{\"%s\":\"", r->cmd->tty ? "pty" : "stdin");
	base64_add(&c->body, r->next.text, r->next.len);
	strbuf_puts(&c->body, "\"}}");
	r->next.len = 0;
	call(r, c, "SendInput");
}

static void close_input(struct run *r)
{
	r->in_closes = false;
	if (r->cmd->tty) {
		strbuf_putc(&r->next, END_OF_INPUT);
		return;
	}
	begin_call(r, &r->input);
	strbuf_putc(&r->input.body, '}');
	call(r, &r->input, "CloseStdin");
}

static void send_control(struct run *r)
{
	struct call *c = &r->control;
	uint16_t cols, rows;

	begin_call(r, c);
	if (r->signal) {
		strbuf_printf(&c->body, ",\"signal\":\"%s\"}", r->signal);
		r->signal = NULL;
		call(r, c, "SendSignal");
		return;
	}
	terminal_size(&cols, &rows);
	strbuf_printf(&c->body, ",\"pty\":{\"size\":{\"cols\":%u,\"rows\":%u}}}", cols, rows);
	r->resize = false;
	call(r, c, "Update");
}

/* The process takes no input any more. When it has ended, or has closed it, that is no error. */
static void input_failed(struct run *r, struct call *c)
{
	char code[64];

	r->in_open = r->in_closes = false;
	r->next.len = 0;
	transfer_error_code(&c->transfer, code, sizeof(code));
	if (strcmp(code, "not_found") == 0 || strcmp(code, "failed_precondition") == 0)
		return;
	fprintf(stderr, "forkctl: the command's input is cut off:\n");
	if (transfer_judge(&c->transfer) != EXIT_FINE)
		r->status = COMMAND_FAILED;
}

static bool has_ended(struct call *c)
{
	if (!c->busy || c->transfer.busy)
		return false;
	c->busy = false;
	return true;
}

static bool is_fine(const struct call *c)
{
	return c->transfer.code == 0 && c->transfer.status >= 200 && c->transfer.status < 300;
}

/* Looks at what has ended, and begins what is to be done. */
static void go_on_calls(struct run *r)
{
	if (has_ended(&r->input) && !is_fine(&r->input))
		input_failed(r, &r->input);
	(void)has_ended(&r->control); /* one that fails comes too late: the process has ended */
	if (!r->pid || r->ended)
		return;
	if (!r->control.busy && (r->signal || r->resize))
		send_control(r);
	if (!r->input.busy && r->next.len == 0 && r->in_closes)
		close_input(r);
	if (!r->input.busy && r->next.len > 0)
		send_input(r);
}

/* ---- input and signals ---- */

static void read_input(struct run *r)
{
	char bytes[65536];
	ssize_t n = read(r->cmd->in_fd, bytes, sizeof(bytes));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		fprintf(stderr, "forkctl: cannot read the command's input: %s\n", strerror(errno));
	if (n <= 0) {
		r->in_open = false;
		r->in_closes = true;
		return;
	}
	strbuf_add(&r->next, bytes, (size_t)n);
	r->cmd->n_in += (uint64_t)n;
}

static void leave(struct run *r)
{
	terminal_done(r->cmd->terminal);
	fprintf(stderr, "forkctl: left, by signal %d; the command may run on\n", r->cmd->signal);
	r->broken_off = r->ended = true;
	r->status = COMMAND_SIGNAL + r->cmd->signal;
}

static void read_signals(struct run *r)
{
	for (int signo; (signo = signals_next(r->cmd->signal_fd)) > 0;) {
		if (signo == SIGWINCH) {
			r->resize = r->cmd->tty;
			continue;
		}
		r->cmd->signal = signo;
		r->n_signals++;
		r->signal = r->n_signals == 1 ? "SIGNAL_SIGTERM" : "SIGNAL_SIGKILL";
		if (signo == SIGHUP && r->cmd->tty) /* nobody is left who could send another one */
			r->leave_ns = monotonic_ns() + LEAVE_MS * 1000000ULL;
		if (r->n_signals >= 3 || (!r->pid && r->n_signals >= 2))
			leave(r);
	}
	if (r->leave_ns && monotonic_ns() > r->leave_ns)
		leave(r);
}

/* ---- the whole ---- */

static bool add_start(struct run *r)
{
	const struct command *cmd = r->cmd;
	struct strbuf *b = &r->start_body;
	uint16_t cols, rows;
	unsigned char head[FRAME_HEAD] = {}; /* its length is known at the end */

	strbuf_add(b, (const char *)head, FRAME_HEAD);
	strbuf_puts(b, "{\"process\":{");
	for (unsigned i = 0; i < cmd->argc; i++) {
		if (!utf8_valid(cmd->argv[i])) {
			fprintf(stderr, "forkctl: word %u of the command is not UTF-8: it cannot be passed on\n",
				i + 1);
			return false;
		}
		strbuf_puts(b, i == 0 ? "\"cmd\":" : i == 1 ? ",\"args\":[" : ",");
		strbuf_json(b, cmd->argv[i], strlen(cmd->argv[i]));
	}
	strbuf_puts(b, cmd->argc > 1 ? "]" : "");
	if (cmd->cwd)
		body_text(b, "cwd", cmd->cwd);
	strbuf_printf(b, ",\"envs\":{%s}},\"stdin\":%s", cmd->envs ? cmd->envs : "",
		      cmd->in_fd >= 0 ? "true" : "false");
	terminal_size(&cols, &rows);
	if (cmd->tty)
		strbuf_printf(b, ",\"pty\":{\"size\":{\"cols\":%u,\"rows\":%u}}", cols, rows);
	strbuf_putc(b, '}');
	if (b->failed)
		return false;
	frame_head(head, 0, b->len - FRAME_HEAD);
	memcpy(b->text, head, FRAME_HEAD);
	return true;
}

static int begin(struct run *r)
{
	const struct command *cmd = r->cmd;
	char timeout[64], user[128];
	const char *fields[6] = { "Content-Type: application/connect+json", "Connect-Protocol-Version: 1" };
	unsigned n = 2;

	path_add(&r->url, "/v1/clones/", cmd->id);
	strbuf_puts(&r->url, "/agent/process.Process/");
	r->url_len = r->url.len;
	if (!add_start(r))
		return EXIT_FAILED;
	snprintf(timeout, sizeof(timeout), "Connect-Timeout-Ms: %llu", (unsigned long long)cmd->timeout_s * 1000);
	if (cmd->timeout_s)
		fields[n++] = timeout;
	if (cmd->user)
		fields[n++] = user_field(user, sizeof(user), cmd->user);
	const struct transfer_request rq = { .method = "POST",
					     .path = url_of(r, "Start"),
					     .fields = fields,
					     .body = r->start_body.text,
					     .body_len = r->start_body.len,
					     .receive = on_bytes,
					     .arg = r };
	return transfer_begin(r->client, &r->start, &rq);
}

/* One turn: waits for whatever comes first. */
static void turn(struct run *r)
{
	struct command *cmd = r->cmd;
	bool reads = r->in_open && r->next.len < INPUT_MAX && !r->ended;
	struct pollfd fds[] = { { .fd = cmd->signal_fd, .events = POLLIN },
				{ .fd = reads ? cmd->in_fd : -1, .events = POLLIN },
				{ .fd = sink_len(&r->out) > 0 ? r->out.fd : -1, .events = POLLOUT },
				{ .fd = sink_len(&r->err) > 0 ? r->err.fd : -1, .events = POLLOUT } };

	transfers_turn(r->client, fds, ARRAY_LEN(fds), cmd->tick || r->leave_ns ? TICK_MS : 60000);
	read_signals(r);
	if (fds[1].revents)
		read_input(r);
	cmd->n_out += push(r, &r->out);
	(void)push(r, &r->err);
	size_t most = sink_len(&r->out) > sink_len(&r->err) ? sink_len(&r->out) : sink_len(&r->err);
	if (most > SINK_HIGH || most < SINK_LOW)
		transfer_hold(&r->start, most > SINK_HIGH);
	go_on_calls(r);
	if (cmd->tick)
		cmd->tick(cmd->arg);
}

static void run_done(struct run *r)
{
	transfer_done(&r->start);
	transfer_done(&r->input.transfer);
	transfer_done(&r->control.transfer);
	strbuf_done(&r->input.body);
	strbuf_done(&r->control.body);
	strbuf_done(&r->url);
	strbuf_done(&r->start_body);
	frames_done(&r->frames);
	strbuf_done(&r->next);
	sink_done(&r->out);
	sink_done(&r->err);
}

/* The stream has ended before the command. */
static int say_lost(struct run *r)
{
	terminal_done(r->cmd->terminal);
	if (!r->broken_off && transfer_judge(&r->start) != EXIT_FINE && r->start.status != 200)
		return COMMAND_FAILED;
	fprintf(stderr, "forkctl: clone %s: %s; the command may run on\n", r->cmd->id,
		r->broken_off ? "what the guest's agent sends cannot be read"
			      : "the connection to the command is broken");
	return COMMAND_FAILED;
}

int command_run(struct client *client, struct command *cmd)
{
	struct run r __attribute__((cleanup(
		run_done))) = { .client = client, .cmd = cmd, .frames.max = MESSAGE_MAX, .in_open = cmd->in_fd >= 0 };

	sink_init(&r.out, cmd->out_fd);
	sink_init(&r.err, cmd->err_fd);
	if (begin(&r) != EXIT_FINE)
		return COMMAND_FAILED;
	while (r.start.busy && !r.ended && !r.broken_off)
		turn(&r);
	unsigned n_signals = r.n_signals; /* what comes now is for nobody but us */
	while (!r.broken_off && (sink_len(&r.out) > 0 || sink_len(&r.err) > 0) && r.n_signals == n_signals)
		turn(&r);
	return r.ended ? r.status : say_lost(&r);
}
