// SPDX-License-Identifier: Apache-2.0
/* The host's table of rules, as text: the way out for slots, ports into them, and a second lock on what their own tables forbid. */
#include <stdio.h>

#include "forkd/net/host.h"

static void add_sets(struct strbuf *out)
{
	for (int v = 4; v <= 6; v += 2)
		strbuf_printf(
			out,
			" set resolvers%d { type ipv%d_addr; }\n"
			" set local%d { type ipv%d_addr . ipv%d_addr; }\n"
			" map any%d { type inet_proto . inet_service : ipv%d_addr . inet_service; }\n"
			" map one%d { type inet_proto . ipv%d_addr . inet_service : ipv%d_addr . inet_service; }\n",
			v, v, v, v, v, v, v, v, v, v);
}

/*
 * A packet of a slot has the slot's own address: the route back to it leads to where it came from. What arrives for the host
 * itself goes nowhere, unless a request has listed this very address.
 */
static void add_locks(const char *veths, struct strbuf *out)
{
	strbuf_printf(out,
		      " chain forged { type filter hook prerouting priority -300; policy accept;\n"
		      "  iifname \"%s*\" meta nfproto { ipv4, ipv6 } fib saddr . iif oif missing drop\n"
		      " }\n"
		      " chain input { type filter hook input priority -10; policy accept;\n"
		      "  iifname \"%s*\" jump from_slot\n"
		      " }\n"
		      " chain from_slot {\n"
		      "  ct state established,related accept\n"
		      "  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
		      "  meta l4proto { tcp, udp } th dport 53 ip daddr @resolvers4 accept\n"
		      "  meta l4proto { tcp, udp } th dport 53 ip6 daddr @resolvers6 accept\n"
		      "  ip saddr . ip daddr @local4 accept\n"
		      "  ip6 saddr . ip6 daddr @local6 accept\n"
		      "  drop\n"
		      " }\n"
		      " chain forward { type filter hook forward priority -10; policy accept;\n"
		      "  iifname \"%s*\" oifname \"%s*\" drop\n"
		      "  oifname \"%s*\" ct state established,related accept\n"
		      "  oifname \"%s*\" ct status dnat accept\n"
		      "  oifname \"%s*\" drop\n"
		      " }\n",
		      veths, veths, veths, veths, veths, veths, veths);
}

static void add_dnat(struct strbuf *out)
{
	strbuf_puts(out, "  fib daddr type local dnat ip to meta l4proto . th dport map @any4\n"
			 "  fib daddr type local dnat ip6 to meta l4proto . th dport map @any6\n"
			 "  dnat ip to meta l4proto . ip daddr . th dport map @one4\n"
			 "  dnat ip6 to meta l4proto . ip6 daddr . th dport map @one6\n"
			 " }\n");
}

void host_table_text(const struct layout *l, struct strbuf *out)
{
	char range4[CIDR_TEXT_BYTES], range6[CIDR_TEXT_BYTES];
	const char *v = l->veth_prefix;

	strbuf_printf(out, "table inet %s {\n", l->table);
	add_sets(out);
	add_locks(v, out);
	strbuf_puts(out, " chain arriving { type nat hook prerouting priority -100; policy accept;\n");
	add_dnat(out);
	strbuf_puts(out, " chain starting { type nat hook output priority -100; policy accept;\n");
	add_dnat(out);
	strbuf_printf(out,
		      " chain leaving { type nat hook postrouting priority 100; policy accept;\n"
		      "  oifname \"%s*\" ip saddr 127.0.0.0/8 masquerade\n"
		      "  oifname != \"%s*\" ip saddr %s masquerade\n"
		      "  oifname != \"%s*\" ip6 saddr %s masquerade\n"
		      " }\n}\n",
		      v, v, cidr_text(&l->range4, range4), v, cidr_text(&l->range6, range6));
}

/* ---- elements ---- */

static bool is_any(const struct cidr *c)
{
	for (unsigned i = 0; i < (c->version == 4 ? 4 : 16); i++)
		if (c->addr[i])
			return false;
	return true;
}

static void add_port(const struct layout *l, const struct slot_place *p, const struct wish_port *port, const char *verb,
		     struct strbuf *out)
{
	char slot[CIDR_TEXT_BYTES], own[CIDR_TEXT_BYTES];
	const char *proto = port->udp ? "udp" : "tcp";
	int v = port->address.version;

	cidr_address_text(v == 4 ? &p->slot4 : &p->slot6, slot);
	if (is_any(&port->address))
		strbuf_printf(out, "%s element inet %s any%d { %s . %u : %s . %u }\n", verb, l->table, v, proto,
			      port->host, slot, port->guest);
	else
		strbuf_printf(out, "%s element inet %s one%d { %s . %s . %u : %s . %u }\n", verb, l->table, v, proto,
			      cidr_address_text(&port->address, own), port->host, slot, port->guest);
}

static void add_elements(const struct layout *l, const struct slot_place *p, const struct net_wish *w, const char *verb,
			 struct strbuf *out)
{
	char slot[CIDR_TEXT_BYTES], own[CIDR_TEXT_BYTES];

	for (uint32_t i = 0; i < w->n_ports; i++)
		add_port(l, p, &w->ports[i], verb, out);
	for (uint32_t i = 0; i < w->allow.n; i++) {
		const struct cidr *c = &w->allow.list[i].net;
		if (w->allow.list[i].domain || !cidr_is_single(c))
			continue;
		strbuf_printf(out, "%s element inet %s local%d { %s . %s }\n", verb, l->table, c->version,
			      cidr_address_text(c->version == 4 ? &p->slot4 : &p->slot6, slot),
			      cidr_address_text(c, own));
	}
}

/* What is to go is added first: an element that is not there would keep the others, too. */
void host_elements_text(const struct layout *l, const struct slot_place *p, const struct net_wish *w, bool remove,
			struct strbuf *out)
{
	add_elements(l, p, w, "add", out);
	if (remove)
		add_elements(l, p, w, "delete", out);
}
