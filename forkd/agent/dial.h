// SPDX-License-Identifier: Apache-2.0
/*
 * Connections to a vsock port of a guest. The VM process makes the connection (op dial of
 * common/ctl.h); the daemon keeps the other end of a socket pair. Any thread.
 */
#ifndef FORKD_AGENT_DIAL_H
#define FORKD_AGENT_DIAL_H

#include "forkd/wire/control.h"

/*
 * What is dialled. `first`, of first_len bytes, goes to the guest with the guest's acceptance, without a
 * turn of the daemon in between; NULL: nothing.
 */
struct dial_to {
	uint32_t port;
	uint64_t timeout_ms;
	const char *first;
	size_t first_len;
};

/*
 * A connection that is being made: dial_begin() prepares `call`, the caller has the exchange with the
 * VM process, dial_end() waits until the guest accepts. dial_done() closes what is left. `to->first` must
 * stay until dial_end().
 */
struct dial {
	int ours, theirs; /* the two ends; -1: closed, or given away */
	struct ctl_dial rq;
	struct control_call call; /* points into this struct, which must not move */
	const char *rest;         /* of `first`: what the socket pair had no room for */
	size_t rest_len;
};
#define DIAL_INIT                        \
	{                                \
		.ours = -1, .theirs = -1 \
	}
MUST_CHECK int dial_begin(struct dial *dial, const struct dial_to *to, struct err *err);
/*
 * Returns the caller's stream socket, which blocks and is close-on-exec; its first byte is the
 * guest's first byte. The socket ends when the guest ends the stream, and with the VM. E_AGENT:
 * nothing listens there, or the guest has not accepted until the deadline (CLOCK_MONOTONIC, ns).
 * E_TIMEOUT: the guest has not taken all of `first` until then.
 */
MUST_CHECK int dial_end(struct dial *dial, uint64_t deadline_ns, struct err *err);
void dial_done(struct dial *dial);
#define autodial __attribute__((cleanup(dial_done)))

#endif
