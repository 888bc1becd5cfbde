// SPDX-License-Identifier: Apache-2.0
/* A stream to a TCP port of a guest's loopback, through the guest's agent. Any thread; nothing is shared. */
#ifndef FORKD_AGENT_TUNNEL_H
#define FORKD_AGENT_TUNNEL_H

#include <stdint.h>

#include "common/err.h"

/*
 * Has the agent connect `fd`, a new connection to its private port, to a TCP port of the guest. On
 * success the next byte of `fd` is the first one of whoever listens there. E_AGENT: nobody does, or the
 * agent has not said so in time (CLOCK_MONOTONIC, ns).
 */
MUST_CHECK int agent_tunnel(int fd, unsigned port, uint64_t deadline_ns, struct err *err);

#endif
