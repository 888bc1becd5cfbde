// SPDX-License-Identifier: Apache-2.0
/*
 * The host's side of all slots together: one table of rules, forwarding, and what was there before. It is
 * made with the first slot and taken away with the last one. The caller serialises the calls.
 */
#ifndef FORKD_NET_HOST_H
#define FORKD_NET_HOST_H

#include "common/field.h"
#include "forkd/net/layout.h"
#include "forkd/net/wish.h"

/* What stood on the host before the first slot: a file in the runtime directory, for the next daemon. */
struct host_state {
	char *range, *inner;              /* of the slots that there are */
	int32_t ip_forward, ipv6_forward; /* the switches as they were */
	char **accept_ra;                 /* interfaces that would no longer hear routers, and do all the same */
	uint32_t n_accept_ra;
};
extern const struct field host_state_fields[];

/* Loads the file. *ret_found false: there is none, nothing was changed. host_state_done() frees *ret. */
MUST_CHECK int host_state_load(const char *path, struct host_state *ret, bool *ret_found, struct err *err);
void host_state_done(struct host_state *s);

/*
 * Makes the host ready for slots, or sees to it that it still is. `path`: of the file, written before anything is
 * changed. What is there of an earlier call stays.
 */
MUST_CHECK int host_prepare(const struct layout *l, const char *path, struct err *err);
/* Puts everything back. Failures are logged. */
void host_restore(const struct layout *l, const char *path);

/* Lets a slot have what its wish says of the host: ports, addresses of the host. */
MUST_CHECK int host_add(const struct layout *l, const struct slot_place *p, const struct net_wish *w, struct err *err);
void host_remove(const struct layout *l, const struct slot_place *p, const struct net_wish *w);
/* Lets the slots' resolvers reach these servers, also where a server is the host itself. */
MUST_CHECK int host_add_servers(const struct layout *l, const struct cidr *servers, uint32_t n, struct err *err);
/* The table's text without elements; for tests, too. */
void host_table_text(const struct layout *l, struct strbuf *out);
/* The commands that add (or, with `remove`, take away) what a wish needs of the table; empty when it needs nothing. */
void host_elements_text(const struct layout *l, const struct slot_place *p, const struct net_wish *w, bool remove,
			struct strbuf *out);

#endif
