// SPDX-License-Identifier: Apache-2.0
/* overrides.network: what a request wants of the network of its clones. Plain data. */
#ifndef FORKD_NET_WISH_H
#define FORKD_NET_WISH_H

#include "common/err.h"
#include "common/json64.h"
#include "forkd/net/cidr.h"

enum {
	WISH_RULES_MAX = 256, /* entries of allow, and of deny */
	WISH_PORTS_MAX = 64,
	WISH_DNS_MAX = 8,
	WISH_NAME_MAX = 253, /* characters of a domain */
};

enum egress { EGRESS_OPEN, EGRESS_NONE, EGRESS_LIST };

/* One entry of allow or deny: a network, or a domain with all below it. */
struct wish_rule {
	struct cidr net;
	char *domain; /* heap, lower case; NULL: `net` counts */
};
struct wish_rules {
	struct wish_rule *list;
	uint32_t n;
};

struct wish_port {
	uint16_t host, guest; /* host 0: any free one */
	bool udp;
	struct cidr address; /* of the host */
};

struct net_wish {
	bool given; /* the request has the object */
	enum egress egress;
	bool only_allowed; /* EGRESS_LIST with `allow`: what is not in it is not reached */
	struct wish_rules allow, deny;
	struct wish_port *ports;
	uint32_t n_ports;
	struct cidr dns[WISH_DNS_MAX];
	uint32_t n_dns;                          /* 0: the host's */
	uint64_t rx_bytes_per_s, tx_bytes_per_s; /* towards the guest, from it; 0: no limit */
};

/* `node` NULL or null: an empty wish. E_BAD_OVERRIDE. net_wish_done() frees *ret, which stays unchanged on failure. */
MUST_CHECK int net_wish_load(const struct json_node *node, struct net_wish *ret, struct err *err);
/* Reads what net_wish_json() wrote. */
MUST_CHECK int net_wish_parse(const char *text, struct net_wish *ret, struct err *err);
MUST_CHECK int net_wish_copy(const struct net_wish *from, struct net_wish *ret, struct err *err);
void net_wish_done(struct net_wish *w);
#define autonetwish __attribute__((cleanup(net_wish_done)))
/* The whole wish as JSON, in the form of the request. */
void net_wish_json(const struct net_wish *w, struct strbuf *out);
/* Whether a slot as it is made ahead will do. */
bool net_wish_is_plain(const struct net_wish *w);
/* Whether the wish names domains. */
bool net_wish_has_domains(const struct net_wish *w);

#endif
