// SPDX-License-Identifier: Apache-2.0
/*
 * Ports of the host that lead to a guest. Each is held by a socket that is bound and never read: so no program of
 * the host gets it, and none that a program has is taken away from it. Plain data of one slot.
 */
#ifndef FORKD_NET_PORTS_H
#define FORKD_NET_PORTS_H

#include "forkd/net/wish.h"

struct held_ports {
	int *fds; /* heap */
	uint32_t n;
};

/* Holds the wish's ports; one whose number is 0 gets a free one. E_CONFLICT: a port is taken. */
MUST_CHECK int ports_hold(struct net_wish *w, bool trusted, struct held_ports *ret, struct err *err);
void ports_release(struct held_ports *p);

#endif
