// SPDX-License-Identifier: Apache-2.0
/* rtnetlink(7): one socket for one change, each request acknowledged before the next one. */
#include "guest/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum { ANSWER_BYTES = 32 << 10, DUMPED_MAX = 64 };

struct request {
	struct nlmsghdr head;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg address;
		struct rtmsg route;
	};
	char attributes[256];
};

static struct request request_make(uint16_t type, uint16_t flags, size_t body_bytes)
{
	return (struct request){ .head = { .nlmsg_len = (uint32_t)NLMSG_LENGTH(body_bytes),
					   .nlmsg_type = type,
					   .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags) } };
}

static void request_add(struct request *rq, uint16_t type, const void *bytes, size_t len)
{
	struct rtattr head = { .rta_type = type, .rta_len = (uint16_t)RTA_LENGTH(len) };
	char *at = (char *)rq + NLMSG_ALIGN(rq->head.nlmsg_len);

	memcpy(at, &head, sizeof(head));
	memcpy(at + RTA_LENGTH(0), bytes, len);
	rq->head.nlmsg_len = NLMSG_ALIGN(rq->head.nlmsg_len) + (uint32_t)RTA_ALIGN(head.rta_len);
}

static size_t address_bytes(uint8_t family)
{
	return family == AF_INET ? 4 : 16;
}

bool link_address_parse(const char *text, struct link_address *ret)
{
	struct link_address a = { .family = strchr(text, ':') ? AF_INET6 : AF_INET };
	char address[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	unsigned long most = 8 * address_bytes(a.family), prefix = most;

	if (len >= sizeof(address))
		return false;
	snprintf(address, sizeof(address), "%.*s", (int)len, text);
	if (inet_pton(a.family, address, a.bytes) != 1)
		return false;
	if (slash &&
	    (slash[1] == '\0' || strlen(slash + 1) > 3 || strspn(slash + 1, "0123456789") != strlen(slash + 1)))
		return false;
	if (slash)
		prefix = strtoul(slash + 1, NULL, 10);
	a.prefix = (uint8_t)prefix;
	if (prefix > most)
		return false;
	*ret = a;
	return true;
}

/* ---- one exchange with the kernel ---- */

typedef void (*on_message)(struct nlmsghdr *message, void *arg);

/* Sends, and reads until the acknowledgement or the end of the list. Returns 0 or -errno. */
static int talk(int fd, const struct request *rq, on_message each, void *arg)
{
	autofree char *answer = malloc(ANSWER_BYTES);

	if (!answer)
		return -ENOMEM;
	if (send(fd, rq, rq->head.nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		ssize_t n = recv(fd, answer, ANSWER_BYTES, 0);
		if (n < 0)
			return -errno;
		size_t left = (size_t)n;
		for (struct nlmsghdr *m = (void *)answer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
			if (m->nlmsg_type == NLMSG_DONE)
				return 0;
			if (m->nlmsg_type == NLMSG_ERROR)
				return ((struct nlmsgerr *)NLMSG_DATA(m))->error;
			if (each)
				each(m, arg);
		}
	}
}

/* The attributes behind a body of that type, and their bytes. */
#define ATTRIBUTES(m, body) ((struct rtattr *)(void *)((char *)NLMSG_DATA(m) + NLMSG_ALIGN(sizeof(body))))
#define ATTRIBUTES_BYTES(m, body) ((size_t)(m)->nlmsg_len - NLMSG_LENGTH(sizeof(body)))

struct finding {
	const struct link_change *change;
	const uint8_t *mac;
	int index; /* 0: not found */
	unsigned flags;
};

static void find_link(struct nlmsghdr *m, void *arg)
{
	struct finding *f = arg;
	const struct ifinfomsg *info = NLMSG_DATA(m);
	bool has_mac = false, has_name = !f->change->ifname;
	size_t left = ATTRIBUTES_BYTES(m, *info);

	for (struct rtattr *a = ATTRIBUTES(m, *info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == IFLA_ADDRESS && RTA_PAYLOAD(a) == MAC_BYTES)
			has_mac = memcmp(RTA_DATA(a), f->mac, MAC_BYTES) == 0;
		if (a->rta_type == IFLA_IFNAME && !has_name)
			has_name = strcmp(RTA_DATA(a), f->change->ifname) == 0;
	}
	if (has_mac && has_name && info->ifi_type == ARPHRD_ETHER && !f->index) {
		f->index = info->ifi_index;
		f->flags = info->ifi_flags;
	}
}

/* The interface with the old MAC address, or with the new one. */
static int find(int fd, const struct link_change *c, struct finding *ret, struct err *err)
{
	const uint8_t *macs[] = { c->mac, c->has_new_mac ? c->new_mac : NULL };
	char text[MAC_TEXT_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(macs) && macs[i]; i++) {
		struct request rq = request_make(RTM_GETLINK, NLM_F_DUMP, sizeof(rq.link));
		*ret = (struct finding){ .change = c, .mac = macs[i] };
		int r = talk(fd, &rq, find_link, ret);
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "list the interfaces");
		if (ret->index)
			return 0;
	}
	mac_text(c->mac, text);
	return err_set(err, ERR_NOT_FOUND, "there is no interface %s%swith the MAC address %s",
		       c->ifname ? c->ifname : "", c->ifname ? " " : "", text);
}

static int set_flags(int fd, int index, unsigned flags)
{
	struct request rq = request_make(RTM_NEWLINK, NLM_F_ACK, sizeof(rq.link));

	rq.link.ifi_index = index;
	rq.link.ifi_flags = flags;
	rq.link.ifi_change = IFF_UP;
	return talk(fd, &rq, NULL, NULL);
}

static int set_mac(int fd, const struct finding *f, const uint8_t mac[MAC_BYTES])
{
	struct request rq = request_make(RTM_NEWLINK, NLM_F_ACK, sizeof(rq.link));

	rq.link.ifi_index = f->index;
	request_add(&rq, IFLA_ADDRESS, mac, MAC_BYTES);
	int r = talk(fd, &rq, NULL, NULL);
	if (r != -EBUSY)
		return r;
	/* This driver takes an address only while the interface is down. */
	r = set_flags(fd, f->index, 0);
	if (r == 0)
		r = talk(fd, &rq, NULL, NULL);
	if (r == 0 && (f->flags & IFF_UP))
		r = set_flags(fd, f->index, IFF_UP);
	return r;
}

/* ---- addresses ---- */

struct addresses {
	int index;
	uint8_t scope;
	uint32_t n;
	struct link_address list[DUMPED_MAX];
};

static void note_address(struct nlmsghdr *m, void *arg)
{
	struct addresses *found = arg;
	const struct ifaddrmsg *info = NLMSG_DATA(m);
	struct link_address a = { .family = info->ifa_family, .prefix = info->ifa_prefixlen };
	size_t left = ATTRIBUTES_BYTES(m, *info);
	bool known = info->ifa_family == AF_INET || info->ifa_family == AF_INET6;

	if (!known || (int)info->ifa_index != found->index || info->ifa_scope != found->scope || found->n == DUMPED_MAX)
		return;
	for (struct rtattr *at = ATTRIBUTES(m, *info); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
		/* IFA_LOCAL is the own address where IFA_ADDRESS is the peer's. */
		bool own = at->rta_type == IFA_LOCAL || (at->rta_type == IFA_ADDRESS && a.family == AF_INET6);
		if (own && RTA_PAYLOAD(at) == address_bytes(a.family))
			memcpy(a.bytes, RTA_DATA(at), address_bytes(a.family));
	}
	found->list[found->n++] = a;
}

static int change_address(int fd, uint16_t type, int index, uint8_t scope, const struct link_address *a)
{
	uint16_t flags = type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_REPLACE : 0;
	struct request rq = request_make(type, NLM_F_ACK | flags, sizeof(rq.address));

	rq.address.ifa_family = a->family;
	rq.address.ifa_prefixlen = a->prefix;
	rq.address.ifa_index = (unsigned)index;
	rq.address.ifa_scope = scope;
	/* An address that nobody else can have yet need not be looked for before its first use. */
	rq.address.ifa_flags = type == RTM_NEWADDR && a->family == AF_INET6 ? IFA_F_NODAD : 0;
	request_add(&rq, IFA_LOCAL, a->bytes, address_bytes(a->family));
	request_add(&rq, IFA_ADDRESS, a->bytes, address_bytes(a->family));
	if (type == RTM_NEWADDR && a->family == AF_INET && a->prefix < 31) {
		uint8_t last[4];
		uint32_t host = htonl(UINT32_MAX >> a->prefix), bits;
		memcpy(&bits, a->bytes, sizeof(bits));
		bits |= host;
		memcpy(last, &bits, sizeof(last));
		request_add(&rq, IFA_BROADCAST, last, sizeof(last));
	}
	return talk(fd, &rq, NULL, NULL);
}

/* Removes the interface's addresses of that scope. Returns their number, or -errno. */
static int flush(int fd, int index, uint8_t scope)
{
	struct addresses found = { .index = index, .scope = scope };
	struct request rq = request_make(RTM_GETADDR, NLM_F_DUMP, sizeof(rq.address));
	int r = talk(fd, &rq, note_address, &found);

	for (uint32_t i = 0; r == 0 && i < found.n; i++) {
		r = change_address(fd, RTM_DELADDR, index, scope, &found.list[i]);
		if (r == -EADDRNOTAVAIL) /* it went with the one that it was secondary to */
			r = 0;
	}
	return r < 0 ? r : (int)found.n;
}

/* RFC 4291, appendix A: the address that the kernel had made from the old MAC address. */
static int move_link_local(int fd, int index, const uint8_t mac[MAC_BYTES])
{
	const struct link_address own = { .family = AF_INET6,
					  .prefix = 64,
					  .bytes = { 0xfe, 0x80, [8] = mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3],
						     mac[4], mac[5] } };
	int n = flush(fd, index, RT_SCOPE_LINK);

	return n <= 0 ? n : change_address(fd, RTM_NEWADDR, index, RT_SCOPE_LINK, &own);
}

static int set_gateway(int fd, int index, const struct link_address *gateway)
{
	struct request rq = request_make(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, sizeof(rq.route));
	uint32_t out = (uint32_t)index;

	rq.route = (struct rtmsg){ .rtm_family = gateway->family,
				   .rtm_table = RT_TABLE_MAIN,
				   .rtm_protocol = RTPROT_STATIC,
				   .rtm_scope = RT_SCOPE_UNIVERSE,
				   .rtm_type = RTN_UNICAST,
				   .rtm_flags = RTNH_F_ONLINK };
	request_add(&rq, RTA_GATEWAY, gateway->bytes, address_bytes(gateway->family));
	request_add(&rq, RTA_OIF, &out, sizeof(out));
	return talk(fd, &rq, NULL, NULL);
}

static int apply(int fd, const struct finding *f, const struct link_change *c, struct err *err)
{
	int r = 0;

	if (c->has_new_mac && memcmp(f->mac, c->new_mac, MAC_BYTES) != 0) {
		r = set_mac(fd, f, c->new_mac);
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "set the MAC address");
		r = move_link_local(fd, f->index, c->new_mac);
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "move the link-local address");
	}
	if (c->n_addresses > 0) {
		r = flush(fd, f->index, RT_SCOPE_UNIVERSE);
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "remove the old addresses");
	}
	for (uint32_t i = 0; i < c->n_addresses; i++) {
		r = change_address(fd, RTM_NEWADDR, f->index, RT_SCOPE_UNIVERSE, &c->addresses[i]);
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "add address %u", i);
	}
	if ((c->n_addresses > 0 || c->has_gateway) && !(f->flags & IFF_UP))
		r = set_flags(fd, f->index, IFF_UP);
	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "bring it up");
	r = c->has_gateway ? set_gateway(fd, f->index, &c->gateway) : 0;
	return r < 0 ? err_num(err, ERR_INTERNAL, -r, "set the default route") : 0;
}

int link_apply(const struct link_change *change, struct err *err)
{
	autoclose int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	struct finding found;
	char text[MAC_TEXT_BYTES];

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "rtnetlink socket");
	int r = find(fd, change, &found, err);
	if (r < 0)
		return r;
	mac_text(change->mac, text);
	return apply(fd, &found, change, err) < 0 ? err_wrap(err, "interface %s", text) : 0;
}
