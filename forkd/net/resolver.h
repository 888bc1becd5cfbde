// SPDX-License-Identifier: Apache-2.0
/*
 * The resolver of a slot: one dnsmasq inside the slot's namespace, which serves DNS, DHCP and router
 * advertisements to the guest. It outlives the daemon, like the clone. Functions that say so run in the
 * slot's namespace.
 */
#ifndef FORKD_NET_RESOLVER_H
#define FORKD_NET_RESOLVER_H

#include "forkd/net/layout.h"
#include "forkd/net/wish.h"

enum { RESOLVER_SERVERS_MAX = 8, RESOLVER_QUERIES_MAX = 150 };

/* What all resolvers of a daemon have in common. */
struct resolver_setup {
	char *program;                             /* heap; its path */
	bool fills_sets;                           /* knows `nftset`: rules by domain are possible */
	char *dir;                                 /* heap; for pid files */
	struct cidr servers[RESOLVER_SERVERS_MAX]; /* the host's own */
	uint32_t n_servers;
};

/* Looks for the program, and what it can do. ERR_NOT_FOUND: there is none. */
MUST_CHECK int resolver_find(struct resolver_setup *rs, struct err *err);
void resolver_setup_done(struct resolver_setup *rs);
/* Reads the host's servers from resolv.conf, or the file of systemd-resolved behind it. None is fine. */
void resolver_read_servers(struct resolver_setup *rs, const char *resolv_conf, const char *behind_it);
/* Inside the namespace: starts it. When this returns, it listens. */
MUST_CHECK int resolver_start(const struct resolver_setup *rs, const struct layout *l, const char *slot,
			      const struct net_wish *w, struct err *err);
/* From anywhere: ends it, if it runs. */
void resolver_stop(const struct resolver_setup *rs, const char *slot, int ns_fd);
/* Its configuration; for tests, too. */
void resolver_config(const struct resolver_setup *rs, const struct layout *l, const char *slot,
		     const struct net_wish *w, struct strbuf *out);

#endif
