// SPDX-License-Identifier: Apache-2.0
/* Interfaces, their addresses and routes, by netlink, in the network namespace of the calling thread. */
#ifndef FORKD_NET_LINKS_H
#define FORKD_NET_LINKS_H

#include <stdbool.h>

#include "common/err.h"
#include "forkd/net/cidr.h"

struct links; /* a netlink socket of one namespace; one thread at a time */

MUST_CHECK int links_open(struct links **ret, struct err *err);
void links_close(struct links **l);
#define autolinks __attribute__((cleanup(links_close)))

/* Makes a veth pair: `name` here, `peer` in the namespace ns_fd (-1: here, too). ERR_CONFLICT: the name is taken. */
MUST_CHECK int links_veth(struct links *l, const char *name, const char *peer, int ns_fd, struct err *err);
/* Gives an interface an address, which works at once (no duplicate address detection). */
MUST_CHECK int links_address(struct links *l, const char *name, const struct cidr *address, unsigned prefix,
			     struct err *err);
MUST_CHECK int links_up(struct links *l, const char *name, struct err *err);
/* The default route of the gateway's IP version. */
MUST_CHECK int links_default_route(struct links *l, const char *name, const struct cidr *gateway, struct err *err);
/* Removes an interface. There is none: fine. */
MUST_CHECK int links_delete(struct links *l, const char *name, struct err *err);
/* Limits what goes out of an interface; the queue holds a tenth of a second at that rate. */
MUST_CHECK int links_limit(struct links *l, const char *name, uint64_t bytes_per_s, struct err *err);
/*
 * Whether another interface than those whose names begin with `but` has an address in the network, or a route
 * leads into it. *ret_what names the first one found, on the heap; NULL: none.
 */
MUST_CHECK int links_collision(struct links *l, const struct cidr *net, const char *but, char **ret_what,
			       struct err *err);

#endif
