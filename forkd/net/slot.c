// SPDX-License-Identifier: Apache-2.0
/* Making and removing one slot. */
#include "forkd/net/slot.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <string.h>

#include "common/log.h"
#include "common/tap.h"
#include "forkd/access/taps.h"
#include "forkd/net/links.h"
#include "forkd/net/netns.h"
#include "forkd/net/nft.h"
#include "forkd/net/resolver.h"
#include "forkd/net/rules.h"
#include "forkd/net/sysctl.h"

enum { PAIR_PREFIX4 = 31, PAIR_PREFIX6 = 64, INNER_PREFIX6 = 64 };

struct making {
	const struct layout *l;
	const struct resolver_setup *rs;
	const struct net_wish *wish;
	struct slot *slot;
};

/* ---- the host's side ---- */

/* No addresses but those that a slot gives: nothing is announced, nothing is learned. */
static int quiet(const char *name, struct err *err)
{
	if (sysctl_set_of("ipv6", name, "addr_gen_mode", 1, err) < 0 ||
	    sysctl_set_of("ipv6", name, "accept_ra", 0, err) < 0)
		return err->num;
	return sysctl_set_of("ipv4", name, "accept_redirects", 0, err);
}

static int make_pair(const struct slot *s, struct err *err)
{
	autolinks struct links *links = NULL;
	const struct slot_place *p = &s->place;

	if (links_open(&links, err) < 0 || links_veth(links, p->veth, SLOT_UPLINK, s->ns_fd, err) < 0 ||
	    quiet(p->veth, err) < 0 || sysctl_set_of("ipv4", p->veth, "route_localnet", 1, err) < 0 ||
	    links_address(links, p->veth, &p->host4, PAIR_PREFIX4, err) < 0 ||
	    links_address(links, p->veth, &p->host6, PAIR_PREFIX6, err) < 0 ||
	    links_address(links, p->veth, &p->host_link, PAIR_PREFIX6, err) < 0)
		return err->num;
	return links_up(links, p->veth, err);
}

/* ---- inside ---- */

static int add_tap(struct links *links, const struct making *m, bool many, struct err *err)
{
	struct cidr gateway6, link_local6;
	char name[IFNAMSIZ];

	if (!cidr_parse_address(SLOT_GATEWAY6, &gateway6) || !cidr_parse_address(SLOT_LINK_LOCAL6, &link_local6))
		return err_set(err, ERR_INTERNAL, "the addresses of a tap are none");
	m->slot->tap_fd = tap_open_queue(SLOT_TAP, many, name, err);
	if (m->slot->tap_fd < 0 || quiet(SLOT_TAP, err) < 0 ||
	    links_address(links, SLOT_TAP, &m->l->gateway4, m->l->inner4.prefix, err) < 0 ||
	    links_address(links, SLOT_TAP, &gateway6, INNER_PREFIX6, err) < 0 ||
	    links_address(links, SLOT_TAP, &link_local6, INNER_PREFIX6, err) < 0)
		return err->num;
	return links_up(links, SLOT_TAP, err);
}

static int add_uplink(struct links *links, const struct slot_place *p, struct err *err)
{
	if (quiet(SLOT_UPLINK, err) < 0 || links_address(links, SLOT_UPLINK, &p->slot4, PAIR_PREFIX4, err) < 0 ||
	    links_address(links, SLOT_UPLINK, &p->slot6, PAIR_PREFIX6, err) < 0 ||
	    links_address(links, SLOT_UPLINK, &p->slot_link, PAIR_PREFIX6, err) < 0 ||
	    links_up(links, SLOT_UPLINK, err) < 0 || links_default_route(links, SLOT_UPLINK, &p->host4, err) < 0)
		return err->num;
	return links_default_route(links, SLOT_UPLINK, &p->host6, err);
}

static int put_rules(const struct making *m, struct err *err)
{
	autostrbuf struct strbuf text = {};
	const struct cidr *upstreams = m->wish->n_dns ? m->wish->dns : m->rs->servers;

	rules_text(m->l, m->wish, upstreams, m->wish->n_dns ? m->wish->n_dns : m->rs->n_servers, &text);
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write the rules of a network");
	return nft_run(text.text, "the rules of a network", err);
}

/* The rules come first: nothing passes before them. */
static int furnish(void *arg, struct err *err)
{
	const struct making *m = arg;
	autolinks struct links *links = NULL;

	if (put_rules(m, err) < 0 || links_open(&links, err) < 0 || sysctl_set("ipv4/ip_forward", 1, err) < 0 ||
	    sysctl_set("ipv6/conf/all/forwarding", 1, err) < 0 || add_uplink(links, &m->slot->place, err) < 0 ||
	    add_tap(links, m, false, err) < 0)
		return err->num;
	return resolver_start(m->rs, m->l, m->slot->place.name, m->wish, err);
}

int slot_make(const struct layout *l, const struct resolver_setup *rs, unsigned number, struct slot *ret,
	      struct err *err)
{
	struct slot s = { .place = layout_place(l, number), .ns_fd = -1, .tap_fd = -1 };
	const struct net_wish none = {};
	struct making m = { .l = l, .rs = rs, .wish = &none, .slot = &s };

	if (netns_make(s.place.name, &s.ns_fd, err) < 0)
		return err_wrap(err, "network '%s'", s.place.name);
	if (make_pair(&s, err) < 0 || netns_run(s.ns_fd, furnish, &m, err) < 0) {
		slot_close(&s);
		slot_remove(l, rs, number);
		return err_wrap(err, "network '%s'", s.place.name);
	}
	*ret = s;
	return 0;
}

/* ---- a wish ---- */

static int limit_rates(const struct net_wish *w, struct err *err)
{
	autolinks struct links *links = NULL;

	if (!w->rx_bytes_per_s && !w->tx_bytes_per_s)
		return 0;
	if (links_open(&links, err) < 0)
		return err->num;
	if (w->rx_bytes_per_s && links_limit(links, SLOT_TAP, w->rx_bytes_per_s, err) < 0)
		return err->num;
	return w->tx_bytes_per_s ? links_limit(links, SLOT_UPLINK, w->tx_bytes_per_s, err) : 0;
}

static int apply_inside(void *arg, struct err *err)
{
	const struct making *m = arg;

	if (put_rules(m, err) < 0 || limit_rates(m->wish, err) < 0)
		return err->num;
	if (!net_wish_has_domains(m->wish) && m->wish->n_dns == 0 && m->wish->egress != EGRESS_LIST)
		return 0; /* the resolver is as it must be */
	resolver_stop(m->rs, m->slot->place.name, m->slot->ns_fd);
	return resolver_start(m->rs, m->l, m->slot->place.name, m->wish, err);
}

int slot_apply(const struct slot *s, const struct layout *l, const struct resolver_setup *rs, const struct net_wish *w,
	       struct err *err)
{
	struct slot copy = *s;
	struct making m = { .l = l, .rs = rs, .wish = w, .slot = &copy };

	return netns_run(s->ns_fd, apply_inside, &m, err) < 0 ? err_wrap(err, "network '%s'", s->place.name) : 0;
}

/* ---- the tap ---- */

struct widening {
	struct making m;
	int *fds;
	unsigned n;
};

/* The resolver listens on the interface, so it begins anew with it. */
static int widen(void *arg, struct err *err)
{
	struct widening *w = arg;
	struct slot *s = w->m.slot;
	autolinks struct links *links = NULL;
	char name[IFNAMSIZ];

	resolver_stop(w->m.rs, s->place.name, s->ns_fd);
	close(steal_fd(&s->tap_fd));
	/* Deleted by name: a child that is just being started may have a copy of the descriptor for a moment. */
	if (links_open(&links, err) < 0 || links_delete(links, SLOT_TAP, err) < 0 ||
	    add_tap(links, &w->m, true, err) < 0)
		return err->num;
	for (unsigned i = 1; i < w->n; i++) {
		w->fds[i] = tap_open_queue(SLOT_TAP, true, name, err);
		while (w->fds[i] < 0 && i > 1)
			close(w->fds[--i]);
		if (err->code)
			return err->num;
	}
	return resolver_start(w->m.rs, w->m.l, s->place.name, w->m.wish, err);
}

int slot_widen(struct slot *s, const struct layout *l, const struct resolver_setup *rs, int *ret_fds, unsigned n,
	       struct err *err)
{
	const struct net_wish none = {};
	struct widening w = { .m = { .l = l, .rs = rs, .wish = &none, .slot = s }, .fds = ret_fds, .n = n };

	return netns_run(s->ns_fd, widen, &w, err) < 0 ? err_wrap(err, "network '%s'", s->place.name) : 0;
}

struct settling {
	int tap_fd;
	struct tap_settings settings;
};

static int settle(void *arg, struct err *err)
{
	const struct settling *t = arg;

	return taps_settle(SLOT_TAP, t->tap_fd, &t->settings, err);
}

int slot_settle_tap(const struct slot *s, const char *mac, uint16_t mtu, struct err *err)
{
	struct settling t = { s->tap_fd, { mac, mtu } };

	if (mtu == 0 || mtu == ETH_DATA_LEN) /* no need to enter the namespace: the descriptor is enough */
		return mac ? taps_set_mac(SLOT_TAP, s->tap_fd, mac, err) : 0;
	return netns_run(s->ns_fd, settle, &t, err);
}

/* ---- the end ---- */

void slot_close(struct slot *s)
{
	if (s->ns_fd >= 0)
		close(s->ns_fd);
	if (s->tap_fd >= 0)
		close(s->tap_fd);
	s->ns_fd = s->tap_fd = -1;
}

void slot_remove(const struct layout *l, const struct resolver_setup *rs, unsigned number)
{
	const struct slot_place p = layout_place(l, number);
	autolinks struct links *links = NULL;
	autoclose int ns_fd = -1;
	struct err err = {}, why = {};
	char line[ERR_MSG_BYTES];

	if (netns_open(p.name, &ns_fd, &why) >= 0)
		resolver_stop(rs, p.name, ns_fd);
	if (links_open(&links, &err) < 0 || links_delete(links, p.veth, &err) < 0)
		log_error("network '%s': %s", p.name, err_line(&err, line, sizeof(line)));
	if (!netns_remove(p.name))
		log_error("network '%s': its namespace stays: %s", p.name, strerror(errno));
}
