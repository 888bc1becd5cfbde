// SPDX-License-Identifier: Apache-2.0
/*
 * The table of rules inside a slot's namespace, as commands for nftables. All that restricts a guest is
 * in it, where the guest cannot reach it. Pure functions.
 */
#ifndef FORKD_NET_RULES_H
#define FORKD_NET_RULES_H

#include "forkd/net/layout.h"
#include "forkd/net/wish.h"

/* Sets that the resolver fills, in SLOT_TABLE. */
#define RULES_NAMES4 "names4"
#define RULES_NAMES6 "names6"

/*
 * Adds the commands that replace the whole table. `upstreams`: the servers that the slot's resolver asks.
 */
void rules_text(const struct layout *l, const struct net_wish *w, const struct cidr *upstreams, uint32_t n_upstreams,
		struct strbuf *out);
/* Whether the network is within those that a guest reaches only when they are listed. */
bool rules_is_special(const struct cidr *net);

#endif
