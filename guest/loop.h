// SPDX-License-Identifier: Apache-2.0
/*
 * The agent's one event loop: descriptors, timers, and children that end. All of the agent runs in the
 * one thread that calls loop_run(), so its state needs no lock and fork() is safe. No callback may wait:
 * what takes long is done by a child or a thread that reports through a pipe or an eventfd.
 * Structs that are added stay where they are until they are taken out, fired or ended.
 */
#ifndef GUEST_LOOP_H
#define GUEST_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/types.h>

#include "common/err.h"

struct watch {
	int fd; /* not owned */
	void (*ready)(struct watch *w, uint32_t events);
	bool added;
};

struct timer {
	uint64_t at_ns; /* CLOCK_MONOTONIC */
	void (*fire)(struct timer *t);
	struct timer *next, **link; /* link NULL: not set */
};

struct child {
	pid_t pid;
	void (*ended)(struct child *c, int status); /* as waitpid() has it; the child is taken out before */
	struct child *next, **link;                 /* link NULL: not watched */
};

struct loop {
	int epoll_fd;
	bool stopped;
	int exit_code;
	struct epoll_event pending[64]; /* of the running round: loop_del() takes its watch out of it */
	int n_pending;
	struct timer *timers; /* the earliest first */
	struct child *children;
	struct watch signals;
	/* SIGTERM, SIGINT, SIGHUP or SIGPWR came. NULL: the first two stop the loop. */
	void (*on_signal)(struct loop *loop, int signo);
	void *owner; /* of on_signal */
};

/*
 * Blocks the signals that the loop takes, and ignores SIGPIPE. A child that is to run a program calls
 * loop_child_signals() between fork() and execve(2).
 */
MUST_CHECK int loop_init(struct loop *loop, struct err *err);
void loop_done(struct loop *loop);
/* Runs until loop_stop(); returns its exit code. */
int loop_run(struct loop *loop);
/* One round: waits for `wait_ms` at most, -1: for ever, and calls what is ready. 0, or -errno. For tests. */
int loop_round(struct loop *loop, int wait_ms);
void loop_stop(struct loop *loop, int exit_code);

/* `events` are EPOLLIN …; 0 waits for errors only. */
MUST_CHECK int loop_add(struct loop *loop, struct watch *w, uint32_t events, struct err *err);
/* Changes what an added watch waits for. */
void loop_set(struct loop *loop, struct watch *w, uint32_t events);
/* Takes a watch out. A watch that was never added is no error. To be called before the descriptor is closed. */
void loop_del(struct loop *loop, struct watch *w);

/* Sets or moves the timer: it fires once, in a later round than this one, not before `at_ns`. */
void loop_timer_set(struct loop *loop, struct timer *t, uint64_t at_ns);
/* A timer that is not set is no error. */
void loop_timer_cancel(struct timer *t);

/*
 * Waits for the end of a child of this process. To be called before the loop goes on after fork(). Every
 * other child that ends is reaped and forgotten: the orphans that the first process of a system inherits.
 */
void loop_child_add(struct loop *loop, struct child *c);
/*
 * Signals the child's process group; the child alone where it has not made its group yet, as one that was just forked.
 * SIGKILL ends all of the group in any case.
 */
void loop_child_signal(const struct child *c, int signo);
/* The child's end interests nobody any more. A child that is not watched is no error. */
void loop_child_forget(struct child *c);
/* In a forked child: the signals' actions and mask as a program expects them. */
void loop_child_signals(void);

#endif
