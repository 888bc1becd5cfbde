// SPDX-License-Identifier: Apache-2.0
/*
 * Network interfaces of the guest, by rtnetlink: a clone's own MAC address, addresses and default
 * route. The agent's thread; the kernel answers at once.
 */
#ifndef GUEST_LINK_H
#define GUEST_LINK_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/mac.h"

enum { LINK_ADDRESSES_MAX = 16 };

struct link_address {
	uint8_t family, prefix, bytes[16]; /* AF_INET has 4 bytes, AF_INET6 16 */
};

struct link_change {
	uint8_t mac[MAC_BYTES]; /* the interface that has it now */
	const char *ifname;     /* and this name; NULL: any */
	bool has_new_mac, has_gateway;
	uint8_t new_mac[MAC_BYTES];
	uint32_t n_addresses; /* 0: addresses stay as they are */
	struct link_address addresses[LINK_ADDRESSES_MAX];
	struct link_address gateway; /* its prefix does not count */
};

/* "10.0.0.2/24", "fd00::2/64"; without a prefix the longest one. false: it is something else. */
bool link_address_parse(const char *text, struct link_address *ret_address);
/*
 * Makes the changes, in this order: MAC address, with the link-local address that follows from it;
 * addresses, which replace all that the interface has of global scope; up; default route. ERR_NOT_FOUND:
 * there is no such interface; one that has new_mac already counts, so that a change can be repeated.
 */
MUST_CHECK int link_apply(const struct link_change *change, struct err *err);

#endif
