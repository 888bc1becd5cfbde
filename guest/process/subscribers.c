// SPDX-License-Identifier: Apache-2.0
/* Subscribers: the streams that answer Start and Connect, with events as JSON. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "common/base64.h"
#include "common/clock.h"
#include "guest/connect.h"
#include "guest/limits.h"
#include "guest/process/process.h"

#define KEEPALIVE "{\"event\":{\"keepalive\":{}}}"

struct subscriber {
	struct exchange *ex;
	struct process *process;
	struct subscriber *next, **link;
	struct timer keepalive, deadline;
	uint64_t interval_ns, sent_ns;
	bool bound;
};

static void subscriber_free(struct subscriber *s)
{
	loop_timer_cancel(&s->keepalive);
	loop_timer_cancel(&s->deadline);
	*s->link = s->next;
	if (s->next)
		s->next->link = s->link;
	free(s);
}

static void on_gone(struct exchange *ex)
{
	struct subscriber *s = ex->state;
	struct process *p = s->process;

	if (s->bound && !p->ended)
		loop_child_signal(&p->child, SIGKILL);
	subscriber_free(s);
	process_go_on(p);
}

static void on_drain(struct exchange *ex)
{
	process_go_on(((struct subscriber *)ex->state)->process);
}

static void send_event(struct subscriber *s, const char *json, size_t len)
{
	s->sent_ns = monotonic_ns();
	stream_message(s->ex, json, len);
}

/* The timer is moved when it fires, not with each event. */
static void on_keepalive(struct timer *t)
{
	struct subscriber *s = container_of(t, struct subscriber, keepalive);

	if (monotonic_ns() - s->sent_ns >= s->interval_ns && ex_room(s->ex) > 0)
		send_event(s, KEEPALIVE, sizeof(KEEPALIVE) - 1);
	const uint64_t from = s->sent_ns + s->interval_ns, now = monotonic_ns();
	loop_timer_set(&s->process->agent->loop, t, from > now ? from : now + s->interval_ns);
}

static void on_deadline(struct timer *t)
{
	struct subscriber *s = container_of(t, struct subscriber, deadline);
	struct process *p = s->process;

	connect_fail(s->ex, CONNECT_DEADLINE_EXCEEDED, "the call's deadline has passed");
	subscriber_free(s);
	process_go_on(p);
}

int subscriber_new(struct exchange *ex, struct process *p, uint64_t timeout_ns, bool bound, struct err *err)
{
	struct subscriber *s = calloc(1, sizeof(*s));

	if (!s)
		return err_num(err, ERR_INTERNAL, ENOMEM, "subscribe to process %d", p->child.pid);
	*s = (struct subscriber){
		.ex = ex,
		.process = p,
		.next = p->subscribers,
		.link = &p->subscribers,
		.keepalive.fire = on_keepalive,
		.deadline.fire = on_deadline,
		.interval_ns = connect_keepalive_ns(ex),
		.bound = bound,
	};
	if (s->next)
		s->next->link = &s->next;
	p->subscribers = s;
	ex->state = s;
	ex->on_gone = on_gone;
	ex->on_drain = on_drain;
	if (timeout_ns)
		loop_timer_set(&p->agent->loop, &s->deadline, monotonic_ns() + timeout_ns);
	if (p->runs)
		subscribers_start(p);
	return 0;
}

static void start_one(struct subscriber *s)
{
	char text[64];
	const int n = snprintf(text, sizeof(text), "{\"event\":{\"start\":{\"pid\":%d}}}", s->process->child.pid);

	stream_begin(s->ex);
	send_event(s, text, (size_t)n);
	loop_timer_set(&s->process->agent->loop, &s->keepalive, s->sent_ns + s->interval_ns);
}

void subscribers_start(struct process *p)
{
	for (struct subscriber *s = p->subscribers; s; s = s->next)
		if (s->sent_ns == 0)
			start_one(s);
}

void subscribers_data(struct process *p, const char *kind, const char *bytes, size_t len)
{
	static const char end[4] = { '"', '}', '}', '}' };
	static char text[64 + (LIMIT_OUTPUT + 2) / 3 * 4];

	if (!p->subscribers)
		return;
	size_t n = (size_t)snprintf(text, 64, "{\"event\":{\"data\":{\"%s\":\"", kind);
	base64_encode(text + n, bytes, len);
	n += base64_size(len);
	memcpy(text + n, end, sizeof(end));
	for (struct subscriber *s = p->subscribers; s; s = s->next)
		send_event(s, text, n + sizeof(end));
}

/* "signal: killed" and "exit status 1" are the words of the protocol, for all signals (E2B's are Go's). */
static const char *signal_words(int signo)
{
	static const char *const words[] = {
		[SIGHUP] = "hangup",
		[SIGINT] = "interrupt",
		[SIGQUIT] = "quit",
		[SIGILL] = "illegal instruction",
		[SIGTRAP] = "trace/breakpoint trap",
		[SIGABRT] = "aborted",
		[SIGBUS] = "bus error",
		[SIGFPE] = "floating point exception",
		[SIGKILL] = "killed",
		[SIGUSR1] = "user defined signal 1",
		[SIGSEGV] = "segmentation fault",
		[SIGUSR2] = "user defined signal 2",
		[SIGPIPE] = "broken pipe",
		[SIGALRM] = "alarm clock",
		[SIGTERM] = "terminated",
	};

	return signo > 0 && signo < (int)ARRAY_LEN(words) ? words[signo] : NULL;
}

/* The text of an end event's status. */
static void end_words(int status, char *buf, size_t size)
{
	if (WIFEXITED(status)) {
		snprintf(buf, size, "exit status %d", WEXITSTATUS(status));
		return;
	}
	const char *words = signal_words(WTERMSIG(status));
	char number[16];
	snprintf(number, sizeof(number), "signal %d", WTERMSIG(status));
	snprintf(buf, size, "signal: %s%s", words ? words : number, WCOREDUMP(status) ? " (core dumped)" : "");
}

void subscribers_end(struct process *p)
{
	const int status = p->wait_status, code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	char words[64], text[256];

	end_words(status, words, sizeof(words));
	int n = snprintf(text, sizeof(text), "{\"event\":{\"end\":{\"exitCode\":%d,\"exited\":%s,\"status\":\"%s\"",
			 code, WIFEXITED(status) ? "true" : "false", words);
	if (code)
		n += snprintf(text + n, sizeof(text) - (size_t)n, ",\"error\":\"%s\"", words);
	if (WIFSIGNALED(status)) /* the number is no member of E2B's event; their clients pass over it */
		n += snprintf(text + n, sizeof(text) - (size_t)n, ",\"signal\":%d", WTERMSIG(status));
	n += snprintf(text + n, sizeof(text) - (size_t)n, "}}}");
	while (p->subscribers) {
		struct subscriber *s = p->subscribers;
		send_event(s, text, (size_t)n);
		stream_end(s->ex);
		subscriber_free(s);
	}
}

void subscribers_fail(struct process *p, const struct err *err)
{
	while (p->subscribers) {
		connect_fail_err(p->subscribers->ex, err);
		subscriber_free(p->subscribers);
	}
}

bool subscribers_full(struct process *p)
{
	bool full = false;

	for (struct subscriber *s = p->subscribers; s; s = s->next)
		full |= s->sent_ns != 0 && ex_room(s->ex) == 0;
	return full;
}
