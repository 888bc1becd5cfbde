// SPDX-License-Identifier: Apache-2.0
/*
 * An event loop: descriptors and what to call when they are ready. The main thread's has device back-ends, the API socket
 * and signals as sources; a busy device has a loop and thread of its own (worker.h). loop_add(), loop_mod(), loop_move() and
 * loop_mute() may be called from any thread, loop_del() from the loop's own, or while no thread runs it.
 */
#ifndef VMM_CORE_LOOP_H
#define VMM_CORE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "common/err.h"

struct source {
	int fd; /* not owned */
	void (*ready)(struct source *s, uint32_t events);
};

struct loop {
	int epoll_fd;
	bool stopped;
	int exit_code;
	struct epoll_event pending[16]; /* of the running round, so that a removed source is not called any more */
	int n_pending;
};

MUST_CHECK int loop_init(struct loop *loop, struct err *err);
void loop_done(struct loop *loop);
/* `s` must stay where it is until loop_del(). `events` are EPOLLIN …; 0 waits for nothing (errors apart). */
MUST_CHECK int loop_add(struct loop *loop, struct source *s, uint32_t events, struct err *err);
void loop_mod(struct loop *loop, struct source *s, uint32_t events);
/* The source is served by loop `to` from now on; `from` may call it once more, and needs loop_del() before `s` goes. */
MUST_CHECK int loop_move(struct loop *from, struct loop *to, struct source *s, uint32_t events, struct err *err);
/* No more events of a source that stays where it is. */
void loop_mute(struct loop *loop, struct source *s);
/* A source that was never added is no error. */
void loop_del(struct loop *loop, struct source *s);
/* SIGTERM and SIGINT end the loop with 0. Before any thread exists, so that every thread blocks them. */
struct loop_signals {
	struct source source;
	struct loop *loop;
};
MUST_CHECK int loop_signals_init(struct loop_signals *s, struct loop *loop, struct err *err);
void loop_signals_done(struct loop_signals *s);
/* Runs until loop_stop(); returns its exit code. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop, int exit_code);

#endif
