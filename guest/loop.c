// SPDX-License-Identifier: Apache-2.0
/* The event loop over epoll, level-triggered; timers in a sorted list; signals through a signalfd. */
#include "guest/loop.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "common/log.h"

static const int taken[] = { SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGPWR };

/* ---- descriptors ---- */

int loop_add(struct loop *loop, struct watch *w, uint32_t events, struct err *err)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) < 0)
		return err_sys(err, ERR_INTERNAL, "wait for descriptor %d", w->fd);
	w->added = true;
	return 0;
}

void loop_set(struct loop *loop, struct watch *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (w->added)
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev);
}

void loop_del(struct loop *loop, struct watch *w)
{
	if (!w->added)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	w->added = false;
	for (int i = 0; i < loop->n_pending; i++)
		if (loop->pending[i].data.ptr == w)
			loop->pending[i].data.ptr = NULL;
}

/* ---- timers ---- */

void loop_timer_cancel(struct timer *t)
{
	if (!t->link)
		return;
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	t->link = NULL;
}

void loop_timer_set(struct loop *loop, struct timer *t, uint64_t at_ns)
{
	struct timer **at = &loop->timers;

	loop_timer_cancel(t);
	while (*at && (*at)->at_ns <= at_ns)
		at = &(*at)->next;
	t->at_ns = at_ns;
	t->next = *at;
	t->link = at;
	if (t->next)
		t->next->link = &t->next;
	*at = t;
}

/* Timers that are set by what fires here wait for the next round: the list of those that are due is cut off first. */
static void fire_timers(struct loop *loop)
{
	struct timer *due = loop->timers, **end = &due;
	const uint64_t now = due ? monotonic_ns() : 0;

	while (*end && (*end)->at_ns <= now)
		end = &(*end)->next;
	if (end == &due)
		return;
	loop->timers = *end;
	if (loop->timers)
		loop->timers->link = &loop->timers;
	*end = NULL;
	due->link = &due;
	while (due) {
		struct timer *t = due;
		loop_timer_cancel(t);
		t->fire(t);
	}
}

/* How long the loop may sleep. */
static int wait_ms(const struct loop *loop)
{
	if (!loop->timers)
		return -1;
	const uint64_t now = monotonic_ns(), at = loop->timers->at_ns;
	if (at <= now)
		return 0;
	const uint64_t ms = (at - now + 999999) / 1000000;
	return ms > 3600000 ? 3600000 : (int)ms;
}

/* ---- children and signals ---- */

void loop_child_forget(struct child *c)
{
	if (!c->link)
		return;
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	c->link = NULL;
}

void loop_child_add(struct loop *loop, struct child *c)
{
	c->next = loop->children;
	c->link = &loop->children;
	if (c->next)
		c->next->link = &c->next;
	loop->children = c;
}

void loop_child_signal(const struct child *c, int signo)
{
	if (kill(-c->pid, signo) == 0)
		return;
	(void)kill(c->pid, signo);
	if (signo == SIGKILL)
		(void)kill(-c->pid, signo); /* it may have made its group, and others in it, meanwhile */
}

static void reap(struct loop *loop)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct child *c = loop->children;
		while (c && c->pid != pid)
			c = c->next;
		if (!c)
			continue;
		loop_child_forget(c);
		c->ended(c, status);
	}
}

static void on_signals(struct watch *w, uint32_t events)
{
	struct loop *loop = container_of(w, struct loop, signals);
	struct signalfd_siginfo info;

	(void)events;
	while (read(w->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		const int signo = (int)info.ssi_signo;
		if (signo == SIGCHLD)
			reap(loop);
		else if (loop->on_signal)
			loop->on_signal(loop, signo);
		else if (signo == SIGTERM || signo == SIGINT)
			loop_stop(loop, 0);
	}
}

void loop_child_signals(void)
{
	sigset_t none;

	/* SIG_DFL, without flags, in the kernel's own struct: the C library refuses to touch some that it may need */
	static const unsigned long action[4];
	for (int signo = 1; signo < NSIG; signo++)
		(void)syscall(SYS_rt_sigaction, signo, action, NULL, 8);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* ---- the loop ---- */

int loop_init(struct loop *loop, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(taken); i++)
		sigaddset(&set, taken[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	*loop = (struct loop){ .epoll_fd = epoll_create1(EPOLL_CLOEXEC) };
	loop->signals = (struct watch){ .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .ready = on_signals };
	if (loop->epoll_fd < 0 || loop->signals.fd < 0)
		err_sys(err, ERR_INTERNAL, "create the event loop");
	else if (loop_add(loop, &loop->signals, EPOLLIN, err) == 0)
		return 0;
	loop_done(loop);
	return err->num;
}

void loop_done(struct loop *loop)
{
	if (loop->signals.fd >= 0)
		close(loop->signals.fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	loop->epoll_fd = loop->signals.fd = -1;
}

int loop_round(struct loop *loop, int wait_ms)
{
	const int n = epoll_wait(loop->epoll_fd, loop->pending, ARRAY_LEN(loop->pending), wait_ms);

	if (n < 0 && errno != EINTR)
		return -errno;
	loop->n_pending = n;
	for (int i = 0; i < n && !loop->stopped; i++) {
		struct watch *w = loop->pending[i].data.ptr;
		if (w)
			w->ready(w, loop->pending[i].events);
	}
	loop->n_pending = 0;
	fire_timers(loop);
	return 0;
}

int loop_run(struct loop *loop)
{
	while (!loop->stopped) {
		const int r = loop_round(loop, wait_ms(loop));
		if (r < 0) {
			log_error("event loop: epoll_wait: errno %d", -r);
			return 1;
		}
	}
	return loop->exit_code;
}

void loop_stop(struct loop *loop, int exit_code)
{
	loop->stopped = true;
	loop->exit_code = exit_code;
}
