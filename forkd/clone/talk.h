// SPDX-License-Identifier: Apache-2.0
/*
 * The control socket of a clone. The clone's process may hang up, or may not answer. Then the
 * process is called again and asked to say hello, once in some seconds until the process answers.
 * Only the pidfd tells that the process has ended. "The caller holds talk" means the clone's lock
 * of this name.
 */
#ifndef FORKD_CLONE_TALK_H
#define FORKD_CLONE_TALK_H

#include "forkd/forkd.h"
#include "forkd/registry/registry.h"
#include "forkd/wire/control.h"

/*
 * Has one exchange with the clone's process. E_BAD_STATE: the clone is creating, exited or
 * deleting. E_CLONE_DIED: the process has ended. E_NO_ANSWER: the process lives but does not
 * answer, which is known after some seconds. E_TIMEOUT: call->timeout_ms have passed. `wait` false:
 * E_BUSY instead of waiting for another exchange, and E_NO_ANSWER instead of calling the process.
 */
MUST_CHECK int clone_talk(struct forkd *d, struct clone *c, const struct control_call *call, bool wait,
			  struct err *err);
/* The same in any state of the clone. The caller holds talk. */
MUST_CHECK int clone_talk_locked(struct forkd *d, struct clone *c, const struct control_call *call, struct err *err);
/*
 * Takes the answer to a request without members in its answer, which was sent to a clone that is being
 * created. Errors as those of clone_talk_locked(); E_TIMEOUT at the deadline (CLOCK_MONOTONIC, ns).
 */
MUST_CHECK int clone_take_answer(struct forkd *d, struct clone *c, uint64_t deadline_ns, struct err *err);
/*
 * Fails unless the clone's process speaks at least this version of the protocol. E_VERSION: the
 * process is too old to do `what`; E_NO_ANSWER: the process has never said which versions it speaks.
 */
MUST_CHECK int clone_needs_version(struct forkd *d, const struct clone *c, int version, const char *what,
				   struct err *err);
/* E_BAD_STATE, unless the state is running or paused. */
MUST_CHECK int clone_check_lives(const struct clone *c, enum clone_state state, struct err *err);
/* Fails with E_BAD_STATE, and a message that names the state. */
int clone_state_error(const struct clone *c, enum clone_state state, struct err *err);
/* Takes over the state that the clone's process says. A clone that is deleting or exited stays so. */
void clone_take_state(struct forkd *d, struct clone *c, const char *text);

/*
 * Sends "hello" on the connection that is there. The answer comes like any packet. The caller holds
 * talk.
 */
MUST_CHECK int clone_greet(struct forkd *d, struct clone *c, struct err *err);
/*
 * Reads a packet from the control socket; calls the process again if the process has hung up. The
 * caller holds talk.
 */
void clone_hear(struct forkd *d, struct clone *c);
/* Reads all packets that are in the control socket. The caller holds talk. */
void clone_read_rest(struct forkd *d, struct clone *c);
void clone_hang_up(struct forkd *d, struct clone *c); /* the caller holds talk */
/* Calls the processes that have hung up and live. In the watcher's thread, every few seconds. */
void clones_call_again(struct forkd *d);

#endif
