// SPDX-License-Identifier: Apache-2.0
/* Interfaces, with libnl. */
#include "forkd/net/links.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/tbf.h>
#include <netlink/route/route.h>
#include <string.h>

#include "common/auto.h"

enum {
	BURST_MIN = 65536 + 4096, /* the largest frame that the kernel hands over, segments of it together */
	QUEUE_PARTS = 10,         /* of a second: what waits */
	RATE_MAX = 2147483647,
};

struct links {
	struct nl_sock *sock;
};

static int nl_fail(struct err *err, int r, const char *what, const char *name)
{
	enum err_code code = r == -NLE_EXIST ? ERR_CONFLICT : ERR_INTERNAL;

	return err_set(err, code, "%s '%s': %s", what, name, nl_geterror(r));
}

int links_open(struct links **ret, struct err *err)
{
	struct links *l = calloc(1, sizeof(*l));

	if (!l || !(l->sock = nl_socket_alloc())) {
		free(l);
		return err_num(err, ERR_INTERNAL, ENOMEM, "open a netlink socket");
	}
	int r = nl_connect(l->sock, NETLINK_ROUTE);
	if (r < 0) {
		links_close(&l);
		return nl_fail(err, r, "open a netlink socket", "route");
	}
	*ret = l;
	return 0;
}

void links_close(struct links **l)
{
	if (*l)
		nl_socket_free((*l)->sock);
	free(*l);
	*l = NULL;
}

static int index_of(const char *name, int *ret, struct err *err)
{
	unsigned index = if_nametoindex(name);

	if (index == 0)
		return err_sys(err, ERR_NOT_FOUND, "interface '%s'", name);
	*ret = (int)index;
	return 0;
}

int links_veth(struct links *l, const char *name, const char *peer, int ns_fd, struct err *err)
{
	struct rtnl_link *link = rtnl_link_veth_alloc();

	if (!link)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make interface '%s'", name);
	struct rtnl_link *far = rtnl_link_veth_get_peer(link);
	rtnl_link_set_name(link, name);
	rtnl_link_set_name(far, peer);
	if (ns_fd >= 0)
		rtnl_link_set_ns_fd(far, ns_fd);
	int r = rtnl_link_add(l->sock, link, NLM_F_CREATE | NLM_F_EXCL);
	rtnl_link_put(far);
	rtnl_link_put(link);
	return r < 0 ? nl_fail(err, r, "make interface", name) : 0;
}

static struct nl_addr *nl_address(const struct cidr *c, unsigned prefix)
{
	struct nl_addr *a = nl_addr_build(c->version == 4 ? AF_INET : AF_INET6, c->addr, c->version == 4 ? 4 : 16);

	if (a)
		nl_addr_set_prefixlen(a, (int)prefix);
	return a;
}

int links_address(struct links *l, const char *name, const struct cidr *address, unsigned prefix, struct err *err)
{
	struct rtnl_addr *a = rtnl_addr_alloc();
	struct nl_addr *local = nl_address(address, prefix);
	int index = 0, r = -NLE_NOMEM;

	if (a && local && index_of(name, &index, err) >= 0) {
		rtnl_addr_set_ifindex(a, index);
		rtnl_addr_set_flags(a, address->version == 6 ? IFA_F_NODAD : 0);
		r = rtnl_addr_set_local(a, local);
		r = r < 0 ? r : rtnl_addr_add(l->sock, a, 0);
	}
	nl_addr_put(local);
	rtnl_addr_put(a);
	if (err->code)
		return err->num;
	return r < 0 ? nl_fail(err, r, "give an address to", name) : 0;
}

int links_up(struct links *l, const char *name, struct err *err)
{
	struct rtnl_link *old = rtnl_link_alloc(), *change = rtnl_link_alloc();
	int index = 0, r = -NLE_NOMEM;

	if (old && change && index_of(name, &index, err) >= 0) {
		rtnl_link_set_ifindex(old, index);
		rtnl_link_set_flags(change, IFF_UP);
		r = rtnl_link_change(l->sock, old, change, 0);
	}
	rtnl_link_put(old);
	rtnl_link_put(change);
	if (err->code)
		return err->num;
	return r < 0 ? nl_fail(err, r, "bring up interface", name) : 0;
}

int links_default_route(struct links *l, const char *name, const struct cidr *gateway, struct err *err)
{
	struct rtnl_route *route = rtnl_route_alloc();
	struct rtnl_nexthop *hop = rtnl_route_nh_alloc();
	struct cidr any = { .version = gateway->version };
	struct nl_addr *to = nl_address(&any, 0), *via = nl_address(gateway, gateway->prefix);
	int index = 0, r = -NLE_NOMEM;

	if (route && hop && to && via && index_of(name, &index, err) >= 0) {
		rtnl_route_set_family(route, gateway->version == 4 ? AF_INET : AF_INET6);
		rtnl_route_set_dst(route, to);
		rtnl_route_nh_set_ifindex(hop, index);
		rtnl_route_nh_set_gateway(hop, via);
		rtnl_route_add_nexthop(route, steal_ptr(&hop));
		r = rtnl_route_add(l->sock, route, NLM_F_CREATE);
	}
	if (hop)
		rtnl_route_nh_free(hop);
	nl_addr_put(to);
	nl_addr_put(via);
	rtnl_route_put(route);
	if (err->code)
		return err->num;
	return r < 0 ? nl_fail(err, r, "make the default route through", name) : 0;
}

int links_delete(struct links *l, const char *name, struct err *err)
{
	struct rtnl_link *link = rtnl_link_alloc();

	if (!link)
		return err_num(err, ERR_INTERNAL, ENOMEM, "remove interface '%s'", name);
	rtnl_link_set_name(link, name);
	int r = rtnl_link_delete(l->sock, link);
	rtnl_link_put(link);
	return r < 0 && r != -NLE_NODEV && r != -NLE_OBJ_NOTFOUND ? nl_fail(err, r, "remove interface", name) : 0;
}

int links_limit(struct links *l, const char *name, uint64_t bytes_per_s, struct err *err)
{
	struct rtnl_qdisc *q = rtnl_qdisc_alloc();
	int rate = bytes_per_s > RATE_MAX ? RATE_MAX : (int)bytes_per_s, index = 0, r = -NLE_NOMEM;
	int burst = rate / 100 > BURST_MIN ? rate / 100 : BURST_MIN;

	if (q && index_of(name, &index, err) >= 0) {
		rtnl_tc_set_ifindex(TC_CAST(q), index);
		rtnl_tc_set_parent(TC_CAST(q), TC_H_ROOT);
		r = rtnl_tc_set_kind(TC_CAST(q), "tbf");
		if (r >= 0) {
			rtnl_qdisc_tbf_set_rate(q, rate, burst, 0);
			rtnl_qdisc_tbf_set_limit(q, burst + rate / QUEUE_PARTS);
			r = rtnl_qdisc_add(l->sock, q, NLM_F_CREATE | NLM_F_REPLACE);
		}
	}
	rtnl_qdisc_put(q);
	if (err->code)
		return err->num;
	return r < 0 ? nl_fail(err, r, "limit the rate of", name) : 0;
}

/* ---- collisions ---- */

static bool overlaps(struct nl_addr *a, const struct cidr *net)
{
	struct cidr c = { .version = 4 };

	if (!a || nl_addr_get_family(a) != (net->version == 4 ? AF_INET : AF_INET6) ||
	    nl_addr_get_len(a) > sizeof(c.addr) || nl_addr_get_prefixlen(a) == 0)
		return false; /* the default route leads everywhere */
	c.version = net->version;
	c.prefix = (uint8_t)nl_addr_get_prefixlen(a);
	memcpy(c.addr, nl_addr_get_binary_addr(a), nl_addr_get_len(a));
	return cidr_overlap(&c, net);
}

struct search {
	const struct cidr *net;
	const char *but;
	char *found;
};

static void look_at_route(struct nl_object *o, void *arg)
{
	struct rtnl_route *route = (struct rtnl_route *)(void *)o;
	struct search *s = arg;
	char name[IF_NAMESIZE] = "", text[CIDR_TEXT_BYTES];

	struct rtnl_nexthop *hop = rtnl_route_get_nnexthops(route) > 0 ? rtnl_route_nexthop_n(route, 0) : NULL;
	if (s->found || !overlaps(rtnl_route_get_dst(route), s->net))
		return;
	if (hop)
		if_indextoname((unsigned)rtnl_route_nh_get_ifindex(hop), name);
	if (s->but && strncmp(name, s->but, strlen(s->but)) == 0)
		return;
	nl_addr2str(rtnl_route_get_dst(route), text, sizeof(text));
	if (asprintf(&s->found, "the route to %s%s%s", text, name[0] ? " through " : "", name) < 0)
		s->found = NULL;
}

int links_collision(struct links *l, const struct cidr *net, const char *but, char **ret_what, struct err *err)
{
	struct search s = { .net = net, .but = but };
	struct nl_cache *routes;

	int r = rtnl_route_alloc_cache(l->sock, net->version == 4 ? AF_INET : AF_INET6, 0, &routes);
	if (r < 0)
		return nl_fail(err, r, "list the", "routes");
	nl_cache_foreach(routes, look_at_route, &s); /* every address has a route in the table "local", too */
	nl_cache_free(routes);
	*ret_what = s.found;
	return 0;
}
