// SPDX-License-Identifier: Apache-2.0
/*
 * The control socket of a clone. Its process may hang up, or not answer: then it is called again and asked to say hello, once in some
 * seconds until it answers. Only its pidfd tells that it has ended. "The caller holds talk": the clone's lock of that name.
 */
#ifndef FORKD_CLONE_TALK_H
#define FORKD_CLONE_TALK_H

#include "forkd/forkd.h"
#include "forkd/registry/registry.h"
#include "forkd/wire/control.h"

/*
 * One exchange with the clone's process. E_BAD_STATE when it is creating, exited or deleting; E_CLONE_DIED; E_NO_ANSWER when it lives
 * but does not answer, which takes no longer than some seconds. wait false: E_BUSY, not after another one.
 */
MUST_CHECK int clone_talk(struct forkd *d, struct clone *c, const struct control_call *call, bool wait,
			  struct err *err);
/* The same in any state. The caller holds talk. */
MUST_CHECK int clone_talk_locked(struct forkd *d, struct clone *c, const struct control_call *call, struct err *err);
/* E_BAD_STATE: it is in this state. */
int clone_state_error(const struct clone *c, enum clone_state state, struct err *err);
/* What its process says of its state; deleting and exited stay what they are. */
void clone_take_state(struct forkd *d, struct clone *c, const char *text);

/* Sends "hello"; the answer comes as any packet does. It is connected; the caller holds talk. */
MUST_CHECK int clone_greet(struct forkd *d, struct clone *c, struct err *err);
/* There is something on the control socket; the caller holds talk. */
void clone_hear(struct forkd *d, struct clone *c);
/* Reads what is in the socket. The caller holds talk. */
void clone_read_rest(struct forkd *d, struct clone *c);
void clone_hang_up(struct forkd *d, struct clone *c); /* the caller holds talk */
/* Calls those again that hung up and live. In the watcher's thread, every some seconds. */
void clones_call_again(struct forkd *d);

#endif
