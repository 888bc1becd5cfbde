// SPDX-License-Identifier: Apache-2.0
#include "guest/job.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>

/* Fits into a pipe, so the child never waits for the agent. */
struct report {
	int result;
	struct err err;
};
_Static_assert(sizeof(struct report) <= PIPE_BUF, "one write");

static void on_deadline(struct timer *t)
{
	struct job *j = container_of(t, struct job, deadline);

	j->timed_out = true;
	kill(j->child.pid, SIGKILL);
}

static void on_ended(struct child *child, int status)
{
	struct job *j = container_of(child, struct job, child);
	struct report report = {};
	ssize_t n = read(j->pipe_fd, &report, sizeof(report));

	loop_timer_cancel(&j->deadline);
	close(j->pipe_fd);
	j->running = false;
	if (n != (ssize_t)sizeof(report) && j->timed_out)
		report.result = err_num(&report.err, ERR_INTERNAL, ETIMEDOUT, "%s", j->name);
	else if (n != (ssize_t)sizeof(report))
		report.result =
			err_set(&report.err, ERR_INTERNAL, "%s: its process has ended with status %d", j->name, status);
	j->done(j, report.result, &report.err);
}

int job_start(struct job *j, struct loop *loop, const char *name, int (*run)(void *arg, struct err *err), void *arg,
	      uint64_t deadline_ns, struct err *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, ERR_INTERNAL, "%s: pipe", name);
	autoclose int read_end = ends[0];
	autoclose int write_end = ends[1];
	pid_t pid = fork();
	if (pid < 0)
		return err_sys(err, ERR_INTERNAL, "%s: fork", name);
	if (pid == 0) {
		struct report report = {};
		report.result = run(arg, &report.err);
		_exit(write(write_end, &report, sizeof(report)) != (ssize_t)sizeof(report));
	}
	*j = (struct job){
		.loop = loop, .name = name, .pipe_fd = steal_fd(&read_end), .running = true, .done = j->done
	};
	j->child = (struct child){ .pid = pid, .ended = on_ended };
	j->deadline.fire = on_deadline;
	loop_child_add(loop, &j->child);
	loop_timer_set(loop, &j->deadline, deadline_ns);
	return 0;
}
