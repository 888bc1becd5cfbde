// SPDX-License-Identifier: Apache-2.0
/*
 * An event loop: descriptors, and what to call when they are ready. The main thread's loop has
 * device back-ends, the API socket and signals as its sources; a busy device has a loop and a
 * thread of its own (vmm/virtio/worker.h). Any thread may call loop_add(), loop_mod(), loop_move()
 * and loop_mute(). Only the loop's own thread may call loop_del(), or any thread while no thread
 * runs the loop.
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
	struct epoll_event pending[16]; /* of the running round: loop_del() takes its source out of it */
	int n_pending;
};

MUST_CHECK int loop_init(struct loop *loop, struct err *err);
void loop_done(struct loop *loop);
/* `s` stays where it is until loop_del(). `events` are EPOLLIN …; 0 waits for errors only. */
MUST_CHECK int loop_add(struct loop *loop, struct source *s, uint32_t events, struct err *err);
void loop_mod(struct loop *loop, struct source *s, uint32_t events);
/*
 * Loop `to` serves the source from now on. `from` may call the source once more, and needs
 * loop_del() before the source is freed.
 */
MUST_CHECK int loop_move(struct loop *from, struct loop *to, struct source *s, uint32_t events, struct err *err);
/* Stops the events of a source that is not freed yet. */
void loop_mute(struct loop *loop, struct source *s);
/* Takes a source out. A source that was never added is no error. */
void loop_del(struct loop *loop, struct source *s);
/*
 * SIGTERM and SIGINT end the loop with exit code 0. To be called before any other thread exists, so
 * that every thread blocks the two, and SIGCONT, which a console on the terminal waits for.
 */
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
