// SPDX-License-Identifier: Apache-2.0
/* The rules inside a slot. */
#include "forkd/net/rules.h"

#include <stdio.h>
#include <string.h>

/* Networks that belong to the host, to its neighbours, or to nobody. */
static const char *const special4[] = {
	"0.0.0.0/8",    "10.0.0.0/8",     "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
};
static const char *const special6[] = {
	"::/96",                                           /* unspecified, loopback, IPv4-compatible */
	"::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", /* an IPv4 address inside, which no rule would look at */
	"2002::/16",     "2001::/32",    "100::/64",       "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
};

bool rules_is_special(const struct cidr *net)
{
	const char *const *list = net->version == 4 ? special4 : special6;
	size_t n = net->version == 4 ? ARRAY_LEN(special4) : ARRAY_LEN(special6);
	struct cidr c;

	for (size_t i = 0; i < n; i++)
		if (cidr_parse(list[i], &c) && cidr_within(net, &c))
			return true;
	return false;
}

/* ---- sets ---- */

enum pick { PICK_ALL, PICK_SPECIAL, PICK_ORDINARY };

static void add_set(struct strbuf *out, const char *name, int version, const char *more)
{
	strbuf_printf(out, " set %s%d { type ipv%d_addr; %s", name, version, version, more);
}

static void add_rule_set(struct strbuf *out, const char *name, int version, const struct wish_rules *rules,
			 enum pick pick)
{
	char text[CIDR_TEXT_BYTES];
	const char *before = "elements = { ";

	add_set(out, name, version, "flags interval; auto-merge; ");
	for (uint32_t i = 0; i < rules->n; i++) {
		const struct cidr *c = &rules->list[i].net;
		if (rules->list[i].domain || c->version != version ||
		    (pick != PICK_ALL && rules_is_special(c) != (pick == PICK_SPECIAL)))
			continue;
		strbuf_printf(out, "%s%s", before, cidr_text(c, text));
		before = ", ";
	}
	strbuf_puts(out, before[0] == ',' ? " }; }\n" : "}\n");
}

static void add_constant_set(struct strbuf *out, const char *name, int version, const char *const *list, size_t n)
{
	add_set(out, name, version, "flags interval; auto-merge; elements = { ");
	for (size_t i = 0; i < n; i++)
		strbuf_printf(out, "%s%s", i ? ", " : "", list[i]);
	strbuf_puts(out, " }; }\n");
}

static void add_upstreams(struct strbuf *out, int version, const struct cidr *list, uint32_t n)
{
	char text[CIDR_TEXT_BYTES];
	const char *before = "elements = { ";

	add_set(out, "upstream", version, "");
	for (uint32_t i = 0; i < n; i++) {
		if (list[i].version != version)
			continue;
		strbuf_printf(out, "%s%s", before, cidr_address_text(&list[i], text));
		before = ", ";
	}
	strbuf_puts(out, before[0] == ',' ? " }; }\n" : "}\n");
}

static void add_sets(struct strbuf *out, const struct net_wish *w, const struct cidr *upstreams, uint32_t n)
{
	static const char *const names[] = { "", RULES_NAMES4, RULES_NAMES6 };

	add_constant_set(out, "special", 4, special4, ARRAY_LEN(special4));
	add_constant_set(out, "special", 6, special6, ARRAY_LEN(special6));
	for (int version = 4; version <= 6; version += 2) {
		add_rule_set(out, "deny", version, &w->deny, PICK_ALL);
		add_rule_set(out, "near", version, &w->allow, PICK_SPECIAL);
		add_rule_set(out, "allow", version, &w->allow, PICK_ORDINARY);
		add_upstreams(out, version, upstreams, n);
		/* The resolver adds an answer anew each time; a size keeps a guest from filling memory with it. */
		strbuf_printf(out, " set %s { type ipv%d_addr; flags timeout; timeout 1h; size 4096; }\n",
			      names[version / 2 - 1], version);
	}
}

/* ---- chains ---- */

/* Frames of a guest that says it is somebody else go nowhere, whatever follows. */
static void add_spoofing(struct strbuf *out, const struct layout *l)
{
	char guest[CIDR_TEXT_BYTES];

	strbuf_printf(out,
		      " chain forged { type filter hook prerouting priority -300; policy accept;\n"
		      "  iifname \"" SLOT_TAP "\" ip saddr != { %s, 0.0.0.0 } drop\n"
		      "  iifname \"" SLOT_TAP "\" ip6 saddr != { " SLOT_INNER6 ", fe80::/10, :: } drop\n"
		      "  iifname \"" SLOT_TAP "\" ip saddr 0.0.0.0 udp dport != 67 drop\n"
		      " }\n",
		      cidr_address_text(&l->guest4, guest));
}

static void add_egress(struct strbuf *out, const struct net_wish *w)
{
	strbuf_puts(out, " chain egress {\n");
	if (w->egress == EGRESS_LIST) /* else a name that is not listed would be found all the same */
		strbuf_puts(out, "  meta l4proto { tcp, udp } th dport { 53, 853 } drop\n");
	strbuf_puts(out, "  ip daddr @deny4 drop\n"
			 "  ip6 daddr @deny6 drop\n"
			 "  ip daddr @near4 accept\n"
			 "  ip6 daddr @near6 accept\n"
			 "  ip daddr @special4 drop\n"
			 "  ip6 daddr @special6 drop\n");
	if (w->egress == EGRESS_OPEN || (w->egress == EGRESS_LIST && !w->only_allowed))
		strbuf_puts(out, "  accept\n");
	if (w->egress == EGRESS_LIST && w->only_allowed)
		strbuf_puts(out, "  ip daddr @allow4 accept\n"
				 "  ip6 daddr @allow6 accept\n"
				 "  ip daddr @" RULES_NAMES4 " accept\n"
				 "  ip6 daddr @" RULES_NAMES6 " accept\n");
	strbuf_puts(out, "  drop\n }\n");
}

static void add_filters(struct strbuf *out, const struct net_wish *w)
{
	strbuf_puts(out, " chain forward { type filter hook forward priority 0; policy drop;\n"
			 "  ct state established,related accept\n"
			 "  ct state invalid drop\n"
			 "  iifname \"" SLOT_UPLINK "\" oifname \"" SLOT_TAP "\" ct status dnat accept\n");
	if (w->egress != EGRESS_NONE)
		strbuf_puts(out, "  iifname \"" SLOT_TAP "\" oifname \"" SLOT_UPLINK "\" jump egress\n");
	strbuf_puts(out, " }\n"
			 " chain input { type filter hook input priority 0; policy drop;\n"
			 "  ct state established,related accept\n"
			 "  meta l4proto ipv6-icmp icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
			 "  iifname != \"" SLOT_TAP "\" drop\n"
			 "  udp dport { 67, 547 } accept\n"
			 "  icmp type echo-request accept\n"
			 "  icmpv6 type { echo-request, nd-router-solicit } accept\n");
	if (w->egress != EGRESS_NONE)
		strbuf_puts(out, "  meta l4proto { tcp, udp } th dport 53 accept\n");
	strbuf_puts(out, " }\n"
			 " chain output { type filter hook output priority 0; policy drop;\n"
			 "  ct state established,related accept\n"
			 "  oifname \"" SLOT_TAP "\" accept\n"
			 "  meta l4proto ipv6-icmp icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
			 "  meta l4proto { tcp, udp } th dport 53 ip daddr @upstream4 accept\n"
			 "  meta l4proto { tcp, udp } th dport 53 ip6 daddr @upstream6 accept\n"
			 " }\n");
}

static void add_nat(struct strbuf *out, const struct layout *l, const struct net_wish *w)
{
	char guest[CIDR_TEXT_BYTES];

	strbuf_puts(out, " chain arriving { type nat hook prerouting priority -100; policy accept;\n");
	for (uint32_t i = 0; i < w->n_ports; i++) {
		const struct wish_port *p = &w->ports[i];
		const char *proto = p->udp ? "udp" : "tcp";
		if (p->address.version == 4)
			strbuf_printf(out, "  iifname \"" SLOT_UPLINK "\" %s dport %u dnat ip to %s\n", proto, p->guest,
				      cidr_address_text(&l->guest4, guest));
		else
			strbuf_printf(out, "  iifname \"" SLOT_UPLINK "\" %s dport %u dnat ip6 to " SLOT_GUEST6 "\n",
				      proto, p->guest);
	}
	strbuf_puts(out, " }\n"
			 " chain leaving { type nat hook postrouting priority 100; policy accept;\n"
			 "  oifname \"" SLOT_UPLINK "\" masquerade\n"
			 " }\n");
}

void rules_text(const struct layout *l, const struct net_wish *w, const struct cidr *upstreams, uint32_t n_upstreams,
		struct strbuf *out)
{
	strbuf_puts(out, "table inet " SLOT_TABLE "\n"
			 "delete table inet " SLOT_TABLE "\n"
			 "table inet " SLOT_TABLE " {\n");
	add_sets(out, w, upstreams, n_upstreams);
	add_spoofing(out, l);
	add_egress(out, w);
	add_filters(out, w);
	add_nat(out, l, w);
	strbuf_puts(out, "}\n");
}
