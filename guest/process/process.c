// SPDX-License-Identifier: Apache-2.0
/* The life of a process: started, read, ended. */
#include "guest/process/process.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "common/clock.h"
#include "common/log.h"
#include "guest/limits.h"
#include "guest/message.h"

static void close_watch(struct process *p, struct watch *w)
{
	loop_del(&p->agent->loop, w);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

static void process_free(struct process *p)
{
	process_input_done(p);
	loop_timer_cancel(&p->deadline);
	loop_child_forget(&p->child);
	close_watch(p, &p->status);
	close_watch(p, &p->input);
	close_watch(p, &p->outputs[0].watch);
	close_watch(p, &p->outputs[1].watch);
	*p->link = p->next;
	if (p->next)
		p->next->link = p->link;
	p->agent->n_processes--;
	p->agent->process_bytes -= p->config_len;
	free(p->command);
	free(p->cwd);
	free(p->tag);
	free(p->config);
	free(p);
}

/* Frees the process when there is nothing more of it to come. */
static void look_for_end(struct process *p)
{
	if (!p->ended || p->status.fd >= 0 || p->outputs[0].watch.fd >= 0 || p->outputs[1].watch.fd >= 0)
		return;
	if (p->runs)
		subscribers_end(p);
	process_free(p);
}

/* ---- output ---- */

/* Reads once. false: there is nothing now, or nothing more. */
static bool read_output(struct output *o)
{
	static char bytes[LIMIT_OUTPUT];
	const size_t most = o->last && o->left < sizeof(bytes) ? o->left : sizeof(bytes);
	ssize_t n;

	do
		n = most > 0 ? read(o->watch.fd, bytes, most) : 0;
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN && !o->last)
		return false;
	if (n <= 0) { /* EIO: the last one has closed the terminal */
		close_watch(o->process, &o->watch);
		return false;
	}
	if (o->last)
		o->left -= (size_t)n;
	subscribers_data(o->process, o->kind, bytes, (size_t)n);
	return true;
}

/* Waits for more, or for the subscribers. */
static void watch_output(struct output *o, bool full)
{
	struct loop *loop = &o->process->agent->loop;
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (full || o->watch.fd < 0) {
		loop_del(loop, &o->watch); /* the end of a pipe cannot be masked */
	} else if (!o->watch.added && loop_add(loop, &o->watch, EPOLLIN, &err) < 0) {
		log_error("process %d: %s", o->process->child.pid, err_line(&err, line, sizeof(line)));
		close_watch(o->process, &o->watch);
	}
}

static void on_output(struct watch *w, uint32_t events)
{
	struct output *o = container_of(w, struct output, watch);
	struct process *p = o->process;

	(void)events;
	read_output(o);
	watch_output(o, subscribers_full(p));
	look_for_end(p);
}

void process_go_on(struct process *p)
{
	bool full = subscribers_full(p);

	for (size_t i = 0; p->runs && i < ARRAY_LEN(p->outputs); i++) {
		struct output *o = &p->outputs[i];
		while (p->ended && !full && o->watch.fd >= 0 && read_output(o))
			full = subscribers_full(p);
		watch_output(o, full || p->ended);
	}
	look_for_end(p);
}

/* ---- start ---- */

static void on_status(struct watch *w, uint32_t events)
{
	struct process *p = container_of(w, struct process, status);
	struct err err = {};

	(void)events;
	const int r = spawn_status(w->fd, p->command, p->cwd, &err);
	if (r == 0)
		return;
	close_watch(p, w);
	p->runs = r > 0;
	if (p->runs) {
		subscribers_start(p);
	} else {
		subscribers_fail(p, &err);
		close_watch(p, &p->outputs[0].watch);
		close_watch(p, &p->outputs[1].watch);
	}
	process_go_on(p);
}

/* ---- end ---- */

/* What is in the pipe or terminal by now is all that is still read. */
static void read_last(struct output *o)
{
	int n = 0;

	if (o->watch.fd < 0)
		return;
	(void)ioctl(o->watch.fd, FIONREAD, &n);
	o->last = true;
	o->left = o->process->pty ? LIMIT_OUTPUT : (size_t)n; /* the kernel may still be moving a terminal's */
}

static void on_ended(struct child *c, int status)
{
	struct process *p = container_of(c, struct process, child);

	p->ended = true;
	p->wait_status = status;
	loop_timer_cancel(&p->deadline);
	read_last(&p->outputs[0]);
	read_last(&p->outputs[1]);
	if (p->status.fd >= 0)
		on_status(&p->status, 0); /* its end is closed by now: this says how it went, and goes on */
	else
		process_go_on(p);
}

static void on_deadline(struct timer *t)
{
	struct process *p = container_of(t, struct process, deadline);

	loop_child_signal(&p->child, SIGKILL);
}

/* ---- what services call ---- */

static struct output output_of(struct process *p, int fd, const char *kind)
{
	return (struct output){ .watch = { .fd = fd, .ready = on_output }, .process = p, .kind = kind };
}

static struct process *process_new(struct agent *agent, const struct process_request *request)
{
	const struct spawn_spec *spec = &request->spec;
	struct process *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	*p = (struct process){
		.agent = agent,
		.child.ended = on_ended,
		.command = strdup(spec->argv[0]),
		.cwd = strdup(spec->cwd),
		.tag = request->tag ? strdup(request->tag) : NULL,
		.config = strdup(request->config),
		.config_len = strlen(request->config),
		.pty = spec->pty,
		.status = { .fd = -1, .ready = on_status },
		.outputs = { output_of(p, -1, spec->pty ? "pty" : "stdout"), output_of(p, -1, "stderr") },
		.input.fd = -1,
		.deadline.fire = on_deadline,
		.next = agent->processes,
		.link = &agent->processes,
	};
	if (p->next)
		p->next->link = &p->next;
	agent->processes = p;
	agent->n_processes++;
	agent->process_bytes += p->config_len;
	if (p->command && p->cwd && p->config && (p->tag || !request->tag))
		return p;
	process_free(p);
	return NULL;
}

static int check_limits(const struct agent *agent, const struct process_request *request, struct err *err)
{
	if (agent->n_processes >= LIMIT_PROCESSES)
		return err_set(err, ERR_BUSY, "%d processes are running, which is the most", LIMIT_PROCESSES);
	if (agent->process_bytes + strlen(request->config) > LIMIT_PROCESS_BYTES)
		return err_set(err, ERR_BUSY, "the configurations of running processes have %d bytes at most",
			       LIMIT_PROCESS_BYTES);
	return 0;
}

int process_start(struct exchange *ex, const struct process_request *request, struct err *err)
{
	struct agent *agent = ex->agent;
	struct spawned s = {};

	if (check_limits(agent, request, err) < 0)
		return err->num;
	struct process *p = process_new(agent, request);
	if (!p)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start a process");
	int r = subscriber_new(ex, p, request->deadline_ns, request->bound, err);
	if (r == 0)
		r = spawn(&request->spec, &s, err);
	if (r < 0) {
		subscribers_fail(p, err);
		process_free(p);
		return 0; /* the subscriber has heard it */
	}
	p->child.pid = s.pid;
	loop_child_add(&agent->loop, &p->child);
	p->status.fd = s.status;
	p->input.fd = s.in;
	p->outputs[0].watch.fd = s.out;
	p->outputs[1].watch.fd = s.err;
	if (request->deadline_ns)
		loop_timer_set(&agent->loop, &p->deadline, monotonic_ns() + request->deadline_ns);
	if (loop_add(&agent->loop, &p->status, EPOLLIN, err) < 0)
		loop_child_signal(&p->child, SIGKILL); /* its end says how it went */
	return 0;
}

int process_select(struct agent *agent, const struct json_node *message, struct process **ret_process, struct err *err)
{
	const struct json_node *selector;
	const char *tag;
	uint64_t pid;

	if (message_object(message, "process", &selector, err) < 0 ||
	    message_uint(selector, "pid", UINT32_MAX, &pid, err) < 0 || message_string(selector, "tag", &tag, err) < 0)
		return err->num;
	if (!message_get(selector, "pid") && !tag)
		return err_set(err, ERR_INVALID, "process: needs a pid or a tag");
	for (struct process *p = agent->processes; p; p = p->next) {
		if (!p->runs || p->ended || (tag ? !p->tag || strcmp(p->tag, tag) != 0 : (uint64_t)p->child.pid != pid))
			continue;
		*ret_process = p;
		return 0;
	}
	if (tag)
		return err_set(err, ERR_NOT_FOUND, "process with tag %.256s not found", tag);
	return err_set(err, ERR_NOT_FOUND, "process with pid %llu not found", (unsigned long long)pid);
}

int process_signal(struct process *p, int signo, struct err *err)
{
	return kill(-p->child.pid, signo) < 0 ? err_sys(err, ERR_INTERNAL, "signal process %d", p->child.pid) : 0;
}

int process_resize(struct process *p, uint16_t cols, uint16_t rows, struct err *err)
{
	const struct winsize size = { .ws_col = cols, .ws_row = rows };

	if (!p->pty)
		return err_set(err, ERR_CONFLICT, "process %d has no terminal", p->child.pid);
	if (ioctl(p->outputs[0].watch.fd, TIOCSWINSZ, &size) < 0)
		return err_sys(err, ERR_INTERNAL, "resize the terminal of process %d", p->child.pid);
	return 0;
}

void processes_done(struct agent *agent)
{
	while (agent->processes) {
		struct process *p = agent->processes;
		if (!p->ended)
			loop_child_signal(&p->child, SIGKILL);
		subscribers_fail(p, &(struct err){ .code = ERR_INTERNAL, .msg = "the agent ends" });
		process_free(p);
	}
}
