// SPDX-License-Identifier: Apache-2.0
/* The event loop over epoll, level-triggered. */
#include "vmm/core/loop.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>

#include "common/log.h"

int loop_init(struct loop *loop, struct err *err)
{
	*loop = (struct loop){ .epoll_fd = epoll_create1(EPOLL_CLOEXEC) };
	return loop->epoll_fd < 0 ? err_sys(err, ERR_INTERNAL, "create the event loop") : 0;
}

void loop_done(struct loop *loop)
{
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	loop->epoll_fd = -1;
}

int loop_add(struct loop *loop, struct source *s, uint32_t events, struct err *err)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, s->fd, &ev) < 0)
		return err_sys(err, ERR_INTERNAL, "wait for descriptor %d", s->fd);
	return 0;
}

void loop_mod(struct loop *loop, struct source *s, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };

	epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, s->fd, &ev);
}

void loop_mute(struct loop *loop, struct source *s)
{
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
}

int loop_move(struct loop *from, struct loop *to, struct source *s, uint32_t events, struct err *err)
{
	if (loop_add(to, s, events, err) < 0)
		return err->num;
	loop_mute(from, s);
	return 0;
}

void loop_del(struct loop *loop, struct source *s)
{
	if (!s->ready)
		return;
	loop_mute(loop, s);
	for (int i = 0; i < loop->n_pending; i++)
		if (loop->pending[i].data.ptr == s)
			loop->pending[i].data.ptr = NULL;
}

int loop_run(struct loop *loop)
{
	while (!loop->stopped) {
		int n = epoll_wait(loop->epoll_fd, loop->pending, ARRAY_LEN(loop->pending), -1);
		if (n < 0 && errno != EINTR) {
			log_error("event loop: epoll_wait: errno %d", errno);
			return 1;
		}
		loop->n_pending = n;
		for (int i = 0; i < n && !loop->stopped; i++) {
			struct source *s = loop->pending[i].data.ptr;
			if (s)
				s->ready(s, loop->pending[i].events);
		}
		loop->n_pending = 0;
	}
	return loop->exit_code;
}

void loop_stop(struct loop *loop, int exit_code)
{
	loop->stopped = true;
	loop->exit_code = exit_code;
}

void loop_signals_done(struct loop_signals *s)
{
	if (s->source.fd >= 0)
		close(s->source.fd);
}

static void on_signal(struct source *source, uint32_t events)
{
	struct loop_signals *s = container_of(source, struct loop_signals, source);
	struct signalfd_siginfo info;

	(void)events;
	if (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		loop_stop(s->loop, 0);
}

int loop_signals_init(struct loop_signals *s, struct loop *loop, struct err *err)
{
	sigset_t set, blocked;

	signal(SIGPIPE, SIG_IGN);
	/* A job in the background goes on; what it may do with the terminal is the console's to know. */
	signal(SIGTTOU, SIG_IGN);
	signal(SIGTTIN, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	blocked = set;
	sigaddset(&blocked, SIGCONT); /* a console on the terminal reads it */
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	s->loop = loop;
	s->source = (struct source){ .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .ready = on_signal };
	if (s->source.fd < 0)
		return err_sys(err, ERR_INTERNAL, "watch for signals");
	return loop_add(loop, &s->source, EPOLLIN, err);
}
