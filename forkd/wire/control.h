// SPDX-License-Identifier: Apache-2.0
/*
 * forkd's side of the control protocol (common/ctl.h): ask, and wait for the answer with a deadline; events that come between are
 * handed to whoever asked. The caller holds the lock of the conversation.
 */
#ifndef FORKD_WIRE_CONTROL_H
#define FORKD_WIRE_CONTROL_H

#include "common/ctl.h"

typedef void event_fn(void *arg, const struct ctl_packet *p);

/* CLOCK_MONOTONIC in ms from now, for the deadlines of this program. */
uint64_t deadline_in_ms(uint64_t ms);
/* Waits until fd is readable: 1, the deadline: 0, or -errno. */
int wait_readable(int fd, uint64_t deadline_ns);

MUST_CHECK int control_send(int fd, const char *op, const struct field *rows, const void *obj, const char *extra,
			    const int *fds, uint32_t n_fds, struct err *err);
/* The next reply. -EPIPE: the other end is gone; -ETIMEDOUT: the deadline; both with a message. */
MUST_CHECK int control_reply(int fd, uint64_t deadline_ns, event_fn *on_event, void *arg, struct ctl_packet *p,
			     struct err *err);
/* Both, and the reply's members into *ret (initialised by fields_init). */
struct control_call {
	const char *op;
	const struct field *rows, *ret_rows;
	const void *obj;
	void *ret;
	const int *fds;
	uint32_t n_fds;
	uint64_t timeout_ms;
	event_fn *on_event;
	void *arg;
};
MUST_CHECK int control_call(int fd, const struct control_call *call, struct err *err);
/* Asks a process that was just started, which must speak the newest version that is known here. E_VERSION: it does not. */
MUST_CHECK int control_hello(int fd, const char *who, uint64_t timeout_ms, struct err *err);
/* Waits until the other end has closed its end, whatever it says before. */
MUST_CHECK int control_await_end(int fd, uint64_t deadline_ns, struct err *err);
bool control_hung_up(int fd); /* it has */
/* Tells a process to quit and waits for that. */
MUST_CHECK int control_quit(int fd, uint64_t timeout_ms, struct err *err);
/* Sending on that socket fails after some seconds, should the other end never read. */
MUST_CHECK int control_bound(int fd, struct err *err);

/*
 * Starts `program --OPTION fd=3` in a session of its own: no terminal, default signals, the daemon's stderr, and `fd` as its descriptor 3.
 */
MUST_CHECK int spawn_vmm(const char *program, const char *option, int fd, pid_t *ret_pid, int *ret_pidfd,
			 struct err *err);

#endif
