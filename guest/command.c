// SPDX-License-Identifier: Apache-2.0
/* fork(), a pipe for stderr, a timer for the deadline. */
#include "guest/command.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "guest/process/spawn.h"

static const char *const search[] = { "/usr/sbin", "/usr/bin", "/sbin", "/bin" };

/* In the child. Returns only when there is no such program. */
static void execute(const struct command_spec *spec)
{
	char *const *argv = (char *const *)(uintptr_t)spec->argv, *const *env = (char *const *)(uintptr_t)spec->env;
	const char *name = argv[0];
	char path[256];

	if (strchr(name, '/'))
		execve(name, argv, env);
	for (size_t i = 0; !strchr(name, '/') && i < ARRAY_LEN(search); i++) {
		snprintf(path, sizeof(path), "%s/%s", search[i], name);
		execve(path, argv, env);
		if (errno != ENOENT)
			break;
	}
}

_Noreturn static void child_main(const struct command_spec *spec, int stderr_fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	loop_child_signals();
	spawn_restore_files();
	setsid();
	if (spec->user_group && groups_enter_user(spec->user_group) < 0)
		dprintf(stderr_fd, "enter the control group: errno %d\n", errno);
	else if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(stderr_fd, 2) < 0 ||
		 fchdir(spec->dir_fd) < 0)
		dprintf(stderr_fd, "start: errno %d\n", errno);
	else
		execute(spec);
	dprintf(stderr_fd, "%s\n", strerror(errno));
	_exit(127);
}

static void close_output(struct command *c)
{
	loop_del(c->loop, &c->output);
	if (c->output.fd >= 0)
		close(c->output.fd);
	c->output.fd = -1;
}

/* What does not fit is read and thrown away, so that the program does not stand still. */
static void on_output(struct watch *w, uint32_t events)
{
	struct command *c = container_of(w, struct command, output);
	char chunk[4096];
	ssize_t n;

	(void)events;
	while ((n = read(w->fd, chunk, sizeof(chunk))) > 0) {
		size_t room = sizeof(c->text) - c->len, kept = (size_t)n < room ? (size_t)n : room;
		memcpy(c->text + c->len, chunk, kept);
		c->len += kept;
	}
	if (n == 0 || errno != EAGAIN)
		close_output(c);
}

static void on_deadline(struct timer *t)
{
	struct command *c = container_of(t, struct command, deadline);

	c->timed_out = true;
	loop_child_signal(&c->child, SIGKILL);
}

static void on_ended(struct child *child, int status)
{
	struct command *c = container_of(child, struct command, child);

	if (c->output.fd >= 0)
		on_output(&c->output, EPOLLIN);
	close_output(c);
	loop_timer_cancel(&c->deadline);
	c->running = false;
	c->status = status;
	c->ended(c);
}

int command_start(struct command *c, struct loop *loop, const struct command_spec *spec, struct err *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, ERR_INTERNAL, "pipe for '%s'", spec->argv[0]);
	autoclose int write_end = ends[1];
	autoclose int read_end = ends[0];
	*c = (struct command){ .loop = loop, .ended = c->ended };
	c->output = (struct watch){ .fd = read_end, .ready = on_output };
	c->deadline.fire = on_deadline;
	c->child.ended = on_ended;
	if (fcntl(read_end, F_SETFL, O_NONBLOCK) < 0 || loop_add(loop, &c->output, EPOLLIN, err) < 0)
		return err_sys(err, ERR_INTERNAL, "pipe for '%s'", spec->argv[0]);
	c->child.pid = fork();
	if (c->child.pid == 0)
		child_main(spec, write_end);
	if (c->child.pid < 0) {
		int num = errno;
		loop_del(loop, &c->output);
		return err_num(err, ERR_INTERNAL, num, "start '%s'", spec->argv[0]);
	}
	steal_fd(&read_end);
	loop_child_add(loop, &c->child);
	loop_timer_set(loop, &c->deadline, spec->deadline_ns);
	c->running = true;
	return 0;
}

/* The bytes on one line, for a message. */
static void printable(const struct command *c, char *to, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < c->len && n + 1 < size; i++) {
		unsigned char byte = (unsigned char)c->text[i];
		to[n++] = byte < 0x80 && isprint(byte) ? (char)byte : byte == '\n' ? ' ' : '?';
	}
	while (n > 0 && to[n - 1] == ' ')
		n--;
	to[n] = '\0';
}

int command_result(const struct command *c, const char *name, struct err *err)
{
	char said[1024];

	printable(c, said, sizeof(said));
	const char *colon = *said ? ": " : "";
	if (c->timed_out)
		return err_set(err, ERR_INTERNAL, "'%s' was killed at its deadline%s%s", name, colon, said);
	if (WIFSIGNALED(c->status))
		return err_set(err, ERR_INTERNAL, "'%s' was ended by signal %d%s%s", name, WTERMSIG(c->status), colon,
			       said);
	if (WEXITSTATUS(c->status) != 0)
		return err_set(err, ERR_INTERNAL, "'%s' has failed with exit status %d%s%s", name,
			       WEXITSTATUS(c->status), colon, said);
	return 0;
}

void command_kill(struct command *c)
{
	if (!c->running)
		return;
	loop_child_forget(&c->child);
	on_deadline(&c->deadline);
	close_output(c);
	loop_timer_cancel(&c->deadline);
	c->running = false;
}
