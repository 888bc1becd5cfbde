// SPDX-License-Identifier: Apache-2.0
/*
 * forkd's side of the control protocol (common/ctl.h): sending a request, and waiting for the reply
 * until a deadline. Events that come before the reply go to the caller's callback. The caller holds
 * the lock of the conversation.
 */
#ifndef FORKD_WIRE_CONTROL_H
#define FORKD_WIRE_CONTROL_H

#include "common/ctl.h"

typedef void event_fn(void *arg, const struct ctl_packet *p);

/* The time `ms` from now, CLOCK_MONOTONIC in ns: a deadline. */
uint64_t deadline_in_ms(uint64_t ms);
/* Waits for events of poll(). Returns 1; 0 when the deadline has passed; or -errno. */
int wait_events(int fd, short events, uint64_t deadline_ns);
/* The same until fd is readable. */
int wait_readable(int fd, uint64_t deadline_ns);

/*
 * Sends a request with the members of `obj`. `extra`: more members as JSON text, or NULL. The
 * descriptors stay the caller's. -EPIPE: the other end is gone.
 */
MUST_CHECK int control_send(int fd, const char *op, const struct field *rows, const void *obj, const char *extra,
			    const int *fds, uint32_t n_fds, struct err *err);
/*
 * Waits for the next reply. Events before the reply go to `on_event`, unless that is NULL. -EPIPE:
 * the other end is gone. -ETIMEDOUT: the deadline has passed.
 */
MUST_CHECK int control_reply(int fd, uint64_t deadline_ns, event_fn *on_event, void *arg, struct ctl_packet *p,
			     struct err *err);
/*
 * control_call() sends a request, waits for the reply, and loads the reply's members into *ret. The
 * caller has initialised *ret with fields_init().
 */
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
/*
 * Says hello to a process that was just started. E_VERSION: the process does not speak the newest
 * version that this program knows. `who` names the process in messages.
 */
MUST_CHECK int control_hello(int fd, const char *who, uint64_t timeout_ms, struct err *err);
/* Waits until the other end has closed the connection. Packets that come before are dropped. */
MUST_CHECK int control_await_end(int fd, uint64_t deadline_ns, struct err *err);
bool control_hung_up(int fd); /* the other end has closed the connection */
/* Tells a process to quit, and waits until the process has closed the connection. */
MUST_CHECK int control_quit(int fd, uint64_t timeout_ms, struct err *err);
/* Gives the socket a send timeout of some seconds, in case the other end never reads. */
MUST_CHECK int control_bound(int fd, struct err *err);

/*
 * Starts `program option fd=3` in a session of its own. The process has no terminal, default
 * signals, the daemon's stderr for all output, and `fd` as its descriptor 3. The caller closes
 * *ret_pidfd and waits for the process.
 */
MUST_CHECK int spawn_vmm(const char *program, const char *option, int fd, pid_t *ret_pid, int *ret_pidfd,
			 struct err *err);

#endif
