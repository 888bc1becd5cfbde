// SPDX-License-Identifier: Apache-2.0
/*
 * Connections to a vsock port of a clone's guest. The clone's process makes the connection; the daemon
 * keeps the other end of a socket pair. Any thread.
 */
#ifndef FORKD_CLONE_DIAL_H
#define FORKD_CLONE_DIAL_H

#include "forkd/agent/dial.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

/*
 * Connects to `to->port` of the guest and waits until the guest accepts. Returns the caller's stream
 * socket, which blocks and is close-on-exec; its first byte is the guest's first byte. The socket ends
 * when the guest ends the stream, and with the clone. E_AGENT: nothing listens there, the guest
 * has not accepted within to->timeout_ms, or the clone has no vsock device. ERR_BUSY: too many streams are
 * open. E_VERSION: the clone's process is too old to dial. Else as clone_talk() with `wait`; but a
 * clone that is being created can be dialled, too.
 */
MUST_CHECK int clone_dial(struct forkd *d, struct clone *c, const struct dial_to *to, struct err *err);
/*
 * The same for what clients want of the guest: E_PAUSED for a clone that is paused; a clone that is to
 * become itself (docs/identity.md) is waited for.
 */
MUST_CHECK int clone_dial_running(struct forkd *d, struct clone *c, const struct dial_to *to, struct err *err);
/*
 * The end of a dial whose request was sent to a clone's process already, while the clone is being created:
 * takes the process' answer, then as clone_dial(). The caller is the only one who talks to the process.
 */
MUST_CHECK int clone_dial_begun(struct forkd *d, struct clone *c, struct dial *dial, uint64_t deadline_ns,
				struct err *err);

#endif
