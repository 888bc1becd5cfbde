// SPDX-License-Identifier: Apache-2.0
/* A child, the pipe from it, and the exchange that the pipe's bytes go to. */
#include "guest/files/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "guest/connect.h"

enum { PIECE = 65536 };

struct helper {
	struct exchange *ex; /* NULL: the client has gone */
	struct loop *loop;
	struct child child;
	struct watch out; /* fd owned; -1: the child has closed it */
	struct err *err;  /* memory that the child shares */
	bool begun, has_ended, outlives_client;
	int status;
};

static unsigned running;

static void helper_free(struct helper *h)
{
	loop_del(h->loop, &h->out);
	if (h->out.fd >= 0)
		close(h->out.fd);
	if (h->err != MAP_FAILED)
		munmap(h->err, sizeof(*h->err));
	free(h);
	running--;
}

/* The child has ended and all that it wrote was read. */
static void finish(struct helper *h)
{
	struct exchange *ex = h->ex;
	const bool is_well = WIFEXITED(h->status) && WEXITSTATUS(h->status) == 0;

	if (!ex)
		;
	else if (is_well && h->begun)
		ex_end(ex);
	else if (is_well)
		connect_reply(ex, "{}", 2);
	else if (h->begun)
		ex_abort(ex);
	else if (h->err->code == ERR_NONE)
		connect_fail(ex, CONNECT_INTERNAL, "the helper has ended with status %d", h->status);
	else
		connect_fail_err(ex, h->err);
	helper_free(h);
}

static void on_out(struct watch *w, uint32_t events)
{
	struct helper *h = container_of(w, struct helper, out);
	static char piece[PIECE];
	size_t room = ex_room(h->ex);

	(void)events;
	if (room == 0)
		return loop_set(h->loop, w, 0);
	ssize_t n = read(w->fd, piece, room < PIECE ? room : PIECE);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		if (!h->begun)
			ex_begin(h->ex, 200, "application/json", NULL, -1);
		h->begun = true;
		return ex_write(h->ex, piece, (size_t)n);
	}
	loop_del(h->loop, w);
	close(w->fd);
	w->fd = -1;
	if (h->has_ended)
		finish(h);
}

static void on_drain(struct exchange *ex)
{
	struct helper *h = ex->state;

	loop_set(h->loop, &h->out, EPOLLIN);
}

static void on_gone(struct exchange *ex)
{
	struct helper *h = ex->state;

	h->ex = NULL;
	loop_del(h->loop, &h->out);
	if (h->out.fd >= 0)
		close(h->out.fd);
	h->out.fd = -1;
	if (h->has_ended)
		finish(h);
	else if (!h->outlives_client)
		kill(h->child.pid, SIGKILL);
}

static void on_ended(struct child *c, int status)
{
	struct helper *h = container_of(c, struct helper, child);

	h->status = status;
	h->has_ended = true;
	if (h->out.fd < 0)
		finish(h);
}

/* The child keeps nothing of the agent's open: connections would not end while it lives. */
__attribute__((noreturn)) static void be_child(int out_fd, const struct helper_job *job, struct err *err)
{
	enum { OUT = 3 };

	loop_child_signals();
	if (dup2(out_fd, OUT) < 0)
		_exit(1);
	if (syscall(SYS_close_range, OUT + 1, ~0u, 0) < 0)
		for (int fd = OUT + 1; fd < sysconf(_SC_OPEN_MAX); fd++)
			close(fd);
	_exit(job->run(OUT, job, err) < 0);
}

static int start(struct helper *h, const struct helper_job *job, struct err *err)
{
	int ends[2];

	if (h->err == MAP_FAILED)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start a helper");
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, ERR_BUSY, "start a helper");
	autoclose int write_end = ends[1];
	h->out.fd = ends[0];
	if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0 || loop_add(h->loop, &h->out, EPOLLIN, err) < 0)
		return err_sys(err, ERR_INTERNAL, "start a helper");
	h->child.pid = fork();
	if (h->child.pid < 0)
		return err_sys(err, ERR_BUSY, "start a helper");
	if (h->child.pid == 0)
		be_child(write_end, job, h->err);
	return 0;
}

void helper_start(struct exchange *ex, const struct helper_job *job)
{
	struct err err = {};

	if (running >= LIMIT_HELPERS)
		return connect_fail(ex, CONNECT_RESOURCE_EXHAUSTED, "%d listings and removals are running",
				    LIMIT_HELPERS);
	struct helper *h = calloc(1, sizeof(*h));
	if (!h)
		return connect_fail(ex, CONNECT_INTERNAL, "no memory for a helper");
	running++;
	*h = (struct helper){
		.ex = ex,
		.loop = &ex->agent->loop,
		.child.ended = on_ended,
		.out = { .fd = -1, .ready = on_out },
		.outlives_client = job->outlives_client,
		.err = mmap(NULL, sizeof(struct err), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
	};
	if (start(h, job, &err) < 0) {
		helper_free(h);
		return connect_fail_err(ex, &err);
	}
	loop_child_add(h->loop, &h->child);
	ex->state = h;
	ex->on_drain = on_drain;
	ex->on_gone = on_gone;
}
