// SPDX-License-Identifier: Apache-2.0
/*
 * Which names and addresses the slots of a daemon have: all follow from the daemon's tag, its range,
 * and the slot's number. Plain data, pure functions.
 *
 *   guest 172.16.0.2 -- tap "fkguest" 172.16.0.1 | slot's namespace | "fkhost" 10.201.0.5 -- "fn-2" 10.201.0.4 | host
 */
#ifndef FORKD_NET_LAYOUT_H
#define FORKD_NET_LAYOUT_H

#include <net/if.h>

#include "common/err.h"
#include "forkd/net/cidr.h"

#define SLOT_TAP "fkguest"         /* in the slot's namespace, towards the guest */
#define SLOT_UPLINK "fkhost"       /* likewise, towards the host */
#define SLOT_TABLE "forkd"         /* the slot's table of rules, in its namespace */
#define SLOT_GUEST6 "fd00:666b::2" /* what every guest has */
#define SLOT_GATEWAY6 "fd00:666b::1"
#define SLOT_INNER6 "fd00:666b::/64"
#define SLOT_LINK_LOCAL6 "fe80::1" /* of the tap: who sends router advertisements */
#define SLOT_RANGE_DEFAULT "10.201.0.0/16"
#define SLOT_INNER_DEFAULT "172.16.0.1/30"

enum { LAYOUT_TAG_MAX = 4, SLOT_NAME_BYTES = 32, SLOTS_LIMIT = 16384 };

struct layout {
	char tag[LAYOUT_TAG_MAX + 1]; /* "" for the daemon in /run/forkd */
	char table[24];               /* the host's table */
	char veth_prefix[8];          /* names of the host's ends */
	char ns_prefix[16];           /* names of the namespaces */
	struct cidr range4, range6;
	struct cidr gateway4, guest4; /* inside: the same for all */
	struct cidr inner4;           /* the network of these two */
	unsigned n;                   /* slots that the range is enough for, numbered from 1 */
};

struct slot_place {
	unsigned number;
	char name[SLOT_NAME_BYTES]; /* of the namespace */
	char veth[IFNAMSIZ];
	/* Both ends of the veth pair. Neighbours find each other by link-local addresses. */
	struct cidr host4, slot4, host6, slot6, host_link, slot_link;
};

/* `range` and `inner` as in --network-range and --network-inner; `runtime_dir` makes the tag. E_INVALID. */
MUST_CHECK int layout_make(const char *runtime_dir, const char *range, const char *inner, struct layout *ret,
			   struct err *err);
/* `number` is 1 to l->n. */
struct slot_place layout_place(const struct layout *l, unsigned number);
/* The number in the name of a namespace or of a host's end of a pair; 0: it is none of this daemon. */
unsigned layout_ns_number(const struct layout *l, const char *name);
unsigned layout_veth_number(const struct layout *l, const char *name);

#endif
