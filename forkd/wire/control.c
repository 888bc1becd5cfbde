// SPDX-License-Identifier: Apache-2.0
/* Conversations with template hosts and VM processes, and starting such a process. */
#include "forkd/wire/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "common/clock.h"
#include "forkd/errors.h"

enum { SEND_TIMEOUT_S = 5 };

extern char **environ;

uint64_t deadline_in_ms(uint64_t ms)
{
	return monotonic_ns() + ms * 1000000;
}

int wait_events(int fd, short events, uint64_t deadline_ns)
{
	struct pollfd p = { .fd = fd, .events = events };

	for (;;) {
		uint64_t now = monotonic_ns();
		uint64_t ms = deadline_ns > now ? (deadline_ns - now + 999999) / 1000000 : 0;
		int n = poll(&p, 1, ms > INT32_MAX ? INT32_MAX : (int)ms);
		if (n >= 0 || errno != EINTR)
			return n < 0 ? -errno : n;
	}
}

int wait_readable(int fd, uint64_t deadline_ns)
{
	return wait_events(fd, POLLIN, deadline_ns);
}

/* Who closed the connection with packets unread has ended as well as who had read them all. */
static int peer_ended(struct err *err)
{
	return err_num(err, ERR_INTERNAL, EPIPE, "the process ended, or closed its control socket");
}

int control_send(int fd, const char *op, const struct field *rows, const void *obj, const char *extra, const int *fds,
		 uint32_t n_fds, struct err *err)
{
	autostrbuf struct strbuf text = {};

	ctl_request(&text, op, rows, obj, extra);
	if (ctl_send(fd, &text, fds, n_fds, err) >= 0)
		return 0;
	if (err->num == -ECONNRESET)
		peer_ended(err);
	return err_wrap(err, "send '%s'", op);
}

int control_reply(int fd, uint64_t deadline_ns, event_fn *on_event, void *arg, struct ctl_packet *p, struct err *err)
{
	for (;;) {
		int r = wait_readable(fd, deadline_ns);
		if (r == 0)
			return err_num(err, ERR_INTERNAL, ETIMEDOUT, "no answer on the control socket");
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "wait for the control socket");
		r = ctl_recv(fd, p, err);
		if (r == -EAGAIN)
			continue;
		if (r == 0)
			return peer_ended(err);
		if (r < 0)
			return err->num;
		if (!json_get(&p->json.nodes[0], "event"))
			return 0;
		if (on_event)
			on_event(arg, p);
	}
}

int control_call(int fd, const struct control_call *call, struct err *err)
{
	autoctl struct ctl_packet p = {};
	uint64_t deadline = deadline_in_ms(call->timeout_ms);

	if (control_send(fd, call->op, call->rows, call->obj, NULL, call->fds, call->n_fds, err) < 0 ||
	    control_reply(fd, deadline, call->on_event, call->arg, &p, err) < 0)
		return err_wrap(err, "'%s'", call->op);
	return ctl_parse_reply(&p, call->ret_rows, call->ret, err);
}

/*
 * The version of the protocol that the answer to "hello" allows. A template host of version 0
 * refuses "hello", because it does not know the request.
 */
static int version_of(const struct ctl_packet *p, const char *who, struct err *err)
{
	if (ctl_parse_reply(p, NULL, NULL, err) >= 0)
		return ctl_agree(&p->json.nodes[0], who, "forkd", err);
	if (err->code != ERR_INVALID)
		return err_wrap(err, "%s", who);
	*err = (struct err){};
	return 0;
}

int control_hello(int fd, const char *who, uint64_t timeout_ms, struct err *err)
{
	autoctl struct ctl_packet p = {};
	uint64_t deadline = deadline_in_ms(timeout_ms);

	if (control_send(fd, "hello", ctl_hello_fields, &ctl_ours, NULL, NULL, 0, err) < 0 ||
	    control_reply(fd, deadline, NULL, NULL, &p, err) < 0)
		return err_wrap(err, "'hello'");
	int version = version_of(&p, who, err);
	if (version < 0)
		return err->code == ERR_CONFLICT ? fail_as(err, E_VERSION, NULL) : err->num;
	if (version < CTL_VERSION)
		return fail(err, E_VERSION, "%s speaks version %d of the control protocol, forkd starts none below %d",
			    who, version, CTL_VERSION);
	return 0;
}

int control_await_end(int fd, uint64_t deadline_ns, struct err *err)
{
	int r = 0;

	while (r >= 0) {
		autoctl struct ctl_packet p = {};
		r = control_reply(fd, deadline_ns, NULL, NULL, &p, err);
	}
	return r == -EPIPE ? 0 : r;
}

bool control_hung_up(int fd)
{
	struct pollfd p = { .fd = fd };

	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR | POLLNVAL);
}

int control_quit(int fd, uint64_t timeout_ms, struct err *err)
{
	uint64_t deadline = deadline_in_ms(timeout_ms);

	int r = control_send(fd, "quit", NULL, NULL, NULL, NULL, 0, err);
	if (r < 0)
		return r == -EPIPE ? 0 : r;
	return control_await_end(fd, deadline, err);
}

int control_bound(int fd, struct err *err)
{
	const struct timeval patience = { .tv_sec = SEND_TIMEOUT_S };

	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
		return err_sys(err, ERR_INTERNAL, "set the timeout of a control socket");
	return 0;
}

static int spawn(const char *program, char *const argv[], int fd, pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	sigdelset(&all, SIGKILL);
	sigdelset(&all, SIGSTOP);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, fd, 3); /* if fd is 3, this clears close-on-exec */
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	int r = posix_spawn(ret_pid, program, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return r;
}

int spawn_vmm(const char *program, const char *option, int fd, pid_t *ret_pid, int *ret_pidfd, struct err *err)
{
	autofree char *name = strdup(program), *opt = strdup(option), *value = strdup("fd=3");

	if (!name || !opt || !value)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start '%s'", program);
	int r = spawn(program, (char *[]){ name, opt, value, NULL }, fd, ret_pid);
	if (r != 0)
		return err_num(err, ERR_INTERNAL, r, "start '%s'", program);
	/* The pid is still that of the child, because nobody has waited for the child yet. */
	*ret_pidfd = (int)syscall(SYS_pidfd_open, *ret_pid, 0);
	if (*ret_pidfd < 0)
		return err_sys(err, ERR_INTERNAL, "watch process %d", *ret_pid);
	return 0;
}
