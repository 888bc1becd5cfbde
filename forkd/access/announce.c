// SPDX-License-Identifier: Apache-2.0
/* Sends the ARP frame, and hears the kernel's news of addresses and links. */
#include "forkd/access/announce.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/auto.h"
#include "common/log.h"
#include "common/mac.h"
#include "forkd/registry/registry.h"
#include "forkd/watch/watch.h"

enum { NEWS_BYTES = 16384 };

struct news {
	struct watch watch; /* rtnetlink */
	struct forkd *d;
};

/* A socket each: links have many more news, and what is too much for a socket is lost. */
struct announcer {
	struct news addresses, links;
};

/* Broadcasts an ARP request that says that `ip` is at `mac`. */
static int send_frame(int index, const uint8_t mac[MAC_BYTES], struct in_addr ip)
{
	struct {
		struct ethhdr eth;
		uint16_t hw, proto;
		uint8_t hw_len, proto_len;
		uint16_t op;
		uint8_t sender[MAC_BYTES], sender_ip[4], target[MAC_BYTES], target_ip[4];
		uint8_t padding[18];
	} __attribute__((packed)) f = {
		.eth.h_proto = htons(ETH_P_ARP),
		.hw = htons(ARPHRD_ETHER),
		.proto = htons(ETH_P_IP),
		.hw_len = MAC_BYTES,
		.proto_len = sizeof(ip),
		.op = htons(ARPOP_REQUEST),
	};
	const struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = index, .sll_halen = MAC_BYTES };
	autoclose int sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* protocol 0: receives nothing */

	memset(f.eth.h_dest, 0xff, MAC_BYTES);
	memcpy(f.eth.h_source, mac, MAC_BYTES);
	memcpy(f.sender, mac, MAC_BYTES);
	memcpy(f.sender_ip, &ip, sizeof(ip));
	memcpy(f.target_ip, &ip, sizeof(ip));
	if (sock < 0 ||
	    sendto(sock, &f, sizeof(f), 0, (const struct sockaddr *)(const void *)&to, sizeof(to)) != sizeof(f))
		return -errno;
	return 0;
}

static void announce(const char *name, struct in_addr ip)
{
	struct ifreq ifr = {};
	autoclose int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint8_t mac[MAC_BYTES];

	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	int r = sock < 0 || ioctl(sock, SIOCGIFHWADDR, &ifr) < 0 ? -errno : 0;
	memcpy(mac, ifr.ifr_hwaddr.sa_data, MAC_BYTES);
	if (r == 0)
		r = ioctl(sock, SIOCGIFINDEX, &ifr) < 0 ? -errno : send_frame(ifr.ifr_ifindex, mac, ip);
	if (r < 0)
		log_warn("tap '%s': its guest cannot be told whose its address is: %s", name, strerror(-r));
}

/* Its IPv4 address. false: it has none. */
static bool address_of(const char *name, struct in_addr *ret)
{
	struct ifreq ifr = { .ifr_addr.sa_family = AF_INET };
	struct sockaddr_in in;
	autoclose int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	if (sock < 0 || ioctl(sock, SIOCGIFADDR, &ifr) < 0)
		return false;
	memcpy(&in, &ifr.ifr_addr, sizeof(in));
	*ret = in.sin_addr;
	return true;
}

void announce_tap(const char *name)
{
	struct in_addr ip;

	if (address_of(name, &ip))
		announce(name, ip);
}

static void take_address(struct forkd *d, struct nlmsghdr *h)
{
	struct ifaddrmsg *m = NLMSG_DATA(h);
	char name[IFNAMSIZ];
	struct in_addr ip;

	if (h->nlmsg_type != RTM_NEWADDR || !if_indextoname(m->ifa_index, name) || !registry_has_tap(d->registry, name))
		return;
	int left = (int)IFA_PAYLOAD(h);
	for (struct rtattr *a = IFA_RTA(m); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == IFA_LOCAL && RTA_PAYLOAD(a) == sizeof(ip)) {
			memcpy(&ip, RTA_DATA(a), sizeof(ip));
			announce(name, ip);
		}
}

/*
 * A link that comes up: Linux sends nothing on it before, though it takes frames for it. A tap's does so some time after a
 * descriptor of it was opened.
 */
static void take_link(struct forkd *d, struct nlmsghdr *h)
{
	const struct ifinfomsg *m = NLMSG_DATA(h);
	char name[IFNAMSIZ];
	struct in_addr ip;

	/* The registry is asked last: most links are no clone's, and most taps of clones have no address. */
	if (h->nlmsg_type == RTM_NEWLINK && m->ifi_flags & IFF_RUNNING &&
	    if_indextoname((unsigned)m->ifi_index, name) && address_of(name, &ip) &&
	    registry_has_tap(d->registry, name))
		announce(name, ip);
}

static void on_news(struct watch *w)
{
	struct forkd *d = container_of(w, struct news, watch)->d;
	_Alignas(struct nlmsghdr) char text[NEWS_BYTES];
	ssize_t n = recv(w->fd, text, sizeof(text), MSG_DONTWAIT);
	unsigned left = n > 0 ? (unsigned)n : 0;

	for (struct nlmsghdr *h = (void *)text; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
		take_address(d, h);
		take_link(d, h);
	}
}

static void hear(struct news *news, struct forkd *d, unsigned group)
{
	const struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = group };
	struct err err = {};

	news->d = d;
	news->watch =
		(struct watch){ .fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), .ready = on_news };
	if (news->watch.fd < 0 ||
	    bind(news->watch.fd, (const struct sockaddr *)(const void *)&address, sizeof(address)) < 0)
		err_sys(&err, ERR_INTERNAL, "hear of new addresses and links");
	if (err.code == ERR_NONE && watch_add(d->watcher, &news->watch, &err) >= 0)
		return;
	log_warn("%s: guests are not told of addresses that their taps get later", err.msg);
	auto_close_p(&news->watch.fd);
	news->watch.fd = -1;
}

struct announcer *announce_start(struct forkd *d)
{
	struct announcer *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	hear(&a->addresses, d, RTMGRP_IPV4_IFADDR);
	hear(&a->links, d, RTMGRP_LINK);
	return a;
}

void announce_free(struct announcer *a)
{
	if (!a)
		return;
	auto_close_p(&a->addresses.watch.fd);
	auto_close_p(&a->links.watch.fd);
	free(a);
}
