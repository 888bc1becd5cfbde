// SPDX-License-Identifier: Apache-2.0
/*
 * One slot: a network namespace with a tap for the guest, a veth pair to the host, addresses, rules
 * and a resolver. The functions block for some milliseconds. A slot belongs to one thread at a time.
 */
#ifndef FORKD_NET_SLOT_H
#define FORKD_NET_SLOT_H

#include "forkd/net/layout.h"
#include "forkd/net/wish.h"

struct resolver_setup;

struct slot {
	struct slot_place place;
	int ns_fd;  /* -1: none */
	int tap_fd; /* the tap's first queue; -1: given away */
};

/* Makes the slot with the rules of an empty wish. Nothing stays of one that fails. */
MUST_CHECK int slot_make(const struct layout *l, const struct resolver_setup *rs, unsigned number, struct slot *ret,
			 struct err *err);
/* Puts a wish into force. The guest does not run yet: what does not work is an error, never a slot with fewer rules. */
MUST_CHECK int slot_apply(const struct slot *s, const struct layout *l, const struct resolver_setup *rs,
			  const struct net_wish *w, struct err *err);
/*
 * Replaces the tap by one with `n` queues, 2 to TAP_QUEUES_MAX: s->tap_fd is the first, ret_fds[1] … are the caller's. Before
 * slot_apply(). Not made ahead: a tap that can have more than one queue takes 7 MiB. On failure no more queues are open.
 */
MUST_CHECK int slot_widen(struct slot *s, const struct layout *l, const struct resolver_setup *rs, int *ret_fds,
			  unsigned n, struct err *err);
/* Sets what the guest knows of its host: MAC address (NULL: as it is) and MTU (0: as it is). */
MUST_CHECK int slot_settle_tap(const struct slot *s, const char *mac, uint16_t mtu, struct err *err);
/* Takes away all that slot `number` has on the host, however much of it there is. A failure is logged. */
void slot_remove(const struct layout *l, const struct resolver_setup *rs, unsigned number);
void slot_close(struct slot *s); /* the descriptors alone */

#endif
