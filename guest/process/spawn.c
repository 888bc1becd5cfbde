// SPDX-License-Identifier: Apache-2.0
/* Starts programs. What the child cannot do is told through a pipe that execve(2) closes. */
#include "guest/process/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "guest/loop.h"

enum stage { STAGE_SETUP = 1, STAGE_USER, STAGE_CWD, STAGE_EXEC };

struct report {
	int stage, num;
};

/* The child's ends and ours. */
struct ends {
	int child[3]; /* stdin, stdout, stderr; with a terminal the same three times */
	int in, out, err;
};

static struct rlimit files; /* as the agent was started with it; 0: it was not raised */

/* ---- in the child ---- */

static _Noreturn void give_up(int status_fd, enum stage stage)
{
	const struct report report = { stage, errno };

	(void)!write(status_fd, &report, sizeof(report));
	_exit(127);
}

static bool become(const struct user *user)
{
	if (geteuid() != 0 && user->uid == geteuid())
		return true; /* an agent that is not root runs programs as itself */
	return setgroups(user->n_groups, user->groups) == 0 && setgid(user->gid) == 0 && setuid(user->uid) == 0;
}

static _Noreturn void run(const struct spawn_spec *spec, const struct ends *ends, int status_fd)
{
	bool ready = setsid() >= 0;

	for (int i = 0; i < 3; i++)
		ready = ready && dup2(ends->child[i], i) == i;
	if (!ready || (spec->pty && ioctl(0, TIOCSCTTY, 0) < 0))
		give_up(status_fd, STAGE_SETUP);
	if (spec->group_fd >= 0 && write(spec->group_fd, "0", 1) < 0)
		give_up(status_fd, STAGE_SETUP);
	/* CLOSE_RANGE_CLOEXEC; an older kernel has only what the agent's own descriptors say */
	(void)syscall(SYS_close_range, 3U, ~0U, 4U);
	spawn_restore_files();
	if (!become(spec->user))
		give_up(status_fd, STAGE_USER);
	if (chdir(spec->cwd) < 0)
		give_up(status_fd, STAGE_CWD);
	loop_child_signals();
	umask(022);
	environ = spec->env->vars;
	execvp(spec->argv[0], spec->argv);
	give_up(status_fd, STAGE_EXEC);
}

/* ---- in the agent ---- */

static void close_ends(struct ends *e)
{
	int *all[] = { &e->child[0], &e->child[1], &e->child[2], &e->in, &e->out, &e->err };

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		if (*all[i] >= 0)
			close(*all[i]);
		*all[i] = -1;
	}
}

/* A pipe; our end, p[ours], does not block. */
static int make_pipe(int ours, int *ret_ours, int *ret_theirs)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	fcntl(p[ours], F_SETFL, O_NONBLOCK);
	*ret_ours = p[ours];
	*ret_theirs = p[!ours];
	return 0;
}

static int make_terminal(const struct spawn_spec *spec, struct ends *e)
{
	const struct winsize size = { .ws_col = spec->cols, .ws_row = spec->rows };
	char name[64];

	e->out = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->out < 0 || unlockpt(e->out) < 0 || ptsname_r(e->out, name, sizeof(name)) != 0 ||
	    ioctl(e->out, TIOCSWINSZ, &size) < 0 || fcntl(e->out, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return -errno;
	e->in = fcntl(e->out, F_DUPFD_CLOEXEC, 0);
	for (int i = 0; i < 3; i++) {
		e->child[i] = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (e->child[i] < 0)
			return -errno;
	}
	(void)!fchown(e->child[0], spec->user->uid, (gid_t)-1); /* fails where the agent is not root */
	return e->in < 0 ? -errno : 0;
}

static int make_ends(const struct spawn_spec *spec, struct ends *e)
{
	int r;

	*e = (struct ends){ { -1, -1, -1 }, -1, -1, -1 };
	if (spec->pty)
		return make_terminal(spec, e);
	if (spec->stdin_pipe)
		r = make_pipe(1, &e->in, &e->child[0]);
	else
		r = (e->child[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0 ? -errno : 0;
	if (r == 0)
		r = make_pipe(0, &e->out, &e->child[1]);
	if (r == 0)
		r = make_pipe(0, &e->err, &e->child[2]);
	return r;
}

void spawn_restore_files(void)
{
	if (files.rlim_max > 0)
		(void)setrlimit(RLIMIT_NOFILE, &files);
}

void spawn_raise_files(void)
{
	struct rlimit all;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	all = files;
	all.rlim_cur = all.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &all);
}

static enum err_code code_of(int num)
{
	return num == EAGAIN || num == ENOMEM || num == EMFILE || num == ENFILE || num == ENOSPC ? ERR_BUSY
												 : ERR_INVALID;
}

int spawn(const struct spawn_spec *spec, struct spawned *ret_spawned, struct err *err)
{
	struct ends e;
	int status_in = -1, status_out = -1;
	pid_t pid = -1;

	int r = make_ends(spec, &e);
	bool no_terminal = r < 0 && spec->pty;
	if (r == 0)
		r = make_pipe(0, &status_in, &status_out);
	if (r == 0 && (pid = fork()) < 0)
		r = -errno;
	if (pid == 0)
		run(spec, &e, status_out);
	if (status_out >= 0)
		close(status_out);
	if (r < 0) {
		if (status_in >= 0)
			close(status_in);
		close_ends(&e);
		return err_num(err, code_of(-r), -r, no_terminal ? "open a terminal for '%.256s'" : "start '%.256s'",
			       spec->argv[0]);
	}
	*ret_spawned = (struct spawned){ pid, steal_fd(&e.in), steal_fd(&e.out), steal_fd(&e.err), status_in };
	close_ends(&e);
	return 0;
}

int spawn_status(int status_fd, const char *command, const char *cwd, struct err *err)
{
	struct report report = {};
	ssize_t n;

	do
		n = read(status_fd, &report, sizeof(report));
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n == 0)
		return 1;
	if (report.stage == STAGE_CWD && report.num == ENOENT)
		return err_set(err, ERR_INVALID, "cwd '%.512s' does not exist", cwd);
	if (report.stage == STAGE_CWD)
		return err_num(err, ERR_INVALID, report.num, "cwd '%.512s'", cwd);
	if (report.stage == STAGE_USER)
		return err_num(err, ERR_INTERNAL, report.num, "become the user for '%.256s'", command);
	if (report.stage == STAGE_SETUP)
		return err_num(err, ERR_INTERNAL, report.num, "set up '%.256s'", command);
	return err_num(err, code_of(report.num), report.num, "start '%.256s'", command);
}
