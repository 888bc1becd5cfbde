// SPDX-License-Identifier: Apache-2.0
/* The host side of a virtio network card: a tap and the interface behind it. */
#include "vmm/virtio/tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/log.h"
#include "common/mac.h"
#include "vmm/core/host_open.h"

static int take_fd(int given, int *ret_fd, struct err *err)
{
	struct ifreq ifr = {};

	if (given < 0)
		return err_set(err, ERR_INVALID, "a descriptor of it is missing");
	if (ioctl(given, TUNGETIFF, &ifr) < 0 || !(ifr.ifr_flags & IFF_TAP))
		return err_set(err, ERR_INVALID, "descriptor %d is not a tap", given);
	if (!(ifr.ifr_flags & IFF_VNET_HDR))
		return err_set(err, ERR_INVALID,
			       "descriptor %d is a tap (%s) without virtio-net headers (IFF_VNET_HDR)", given,
			       ifr.ifr_name);
	int fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "duplicate descriptor %d", given);
	*ret_fd = fd;
	int r = tap_set_header(fd), flags = fcntl(fd, F_GETFL);
	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "set the header size of a tap");
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(err, ERR_INTERNAL, "make a tap non-blocking");
	return 0;
}

static int if_ioctl(int sock, unsigned long request, struct ifreq *ifr, const char *what, struct err *err)
{
	if (ioctl(sock, request, ifr) < 0)
		return err_sys(err, ERR_INTERNAL, "tap '%s': %s", ifr->ifr_name, what);
	return 0;
}

static int set_address(int sock, struct ifreq *ifr, unsigned long request, const char *text, struct err *err)
{
	struct sockaddr_in *in = (struct sockaddr_in *)(void *)&ifr->ifr_addr;

	*in = (struct sockaddr_in){ .sin_family = AF_INET };
	if (inet_pton(AF_INET, text, &in->sin_addr) != 1)
		return err_set(err, ERR_INVALID, "'%s' is not an IPv4 address", text);
	return if_ioctl(sock, request, ifr, "set the address", err);
}

/* Sets what the configuration says of the host's side. An interface that existed keeps its address. */
static int configure(const struct net_config *cfg, const char *name, bool existed, struct err *err)
{
	struct ifreq ifr = {};
	autoclose int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (sock < 0)
		return err_sys(err, ERR_INTERNAL, "make a socket");
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	if (existed && (cfg->ip || cfg->mask))
		log_warn("tap '%s' exists: its address is left as it is", name);
	if (!existed && cfg->ip &&
	    (set_address(sock, &ifr, SIOCSIFADDR, cfg->ip, err) < 0 ||
	     set_address(sock, &ifr, SIOCSIFNETMASK, cfg->mask, err) < 0))
		return err->num;
	if (cfg->host_mac) {
		ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
		if (!mac_parse(cfg->host_mac, (uint8_t *)ifr.ifr_hwaddr.sa_data))
			return err_set(err, ERR_INVALID, "host_mac '%s' is not a MAC address", cfg->host_mac);
		if (if_ioctl(sock, SIOCSIFHWADDR, &ifr, "set the MAC address", err) < 0)
			return err->num;
	}
	if (cfg->has_mtu) {
		ifr.ifr_mtu = cfg->mtu;
		if (if_ioctl(sock, SIOCSIFMTU, &ifr, "set the MTU", err) < 0)
			return err->num;
	}
	if (if_ioctl(sock, SIOCGIFFLAGS, &ifr, "get its flags", err) < 0)
		return err->num;
	ifr.ifr_flags |= IFF_UP | IFF_RUNNING;
	return if_ioctl(sock, SIOCSIFFLAGS, &ifr, "bring it up", err);
}

static int open_by_name(struct net_config *cfg, int *fds, unsigned n, struct err *err)
{
	char name[IFNAMSIZ] = "vmtap%d";

	if (host_open_is_shut())
		return err_set(err, ERR_INVALID, "tap '%s': a VM of forkd gets descriptors, not names",
			       cfg->tap ? cfg->tap : name);
	if (cfg->tap && strlen(cfg->tap) >= IFNAMSIZ)
		return err_set(err, ERR_INVALID, "tap name '%s' is longer than %d characters", cfg->tap, IFNAMSIZ - 1);
	if (cfg->tap)
		memcpy(name, cfg->tap, strlen(cfg->tap) + 1);
	bool existed = cfg->tap && if_nametoindex(name) != 0;
	for (unsigned i = 0; i < n; i++) {
		fds[i] = tap_open_queue(name, n > 1, name, err);
		if (fds[i] < 0) {
			err->code = ERR_INTERNAL; /* in this program's API, whatever the reason */
			return err->num;
		}
	}
	if (configure(cfg, name, existed, err) < 0)
		return err->num;
	return 0;
}

int tap_open(struct net_config *cfg, int fds[TAP_QUEUES_MAX], struct err *err)
{
	unsigned n = cfg->num_queues / 2;
	int r = 0;

	for (unsigned i = 0; i < TAP_QUEUES_MAX; i++)
		fds[i] = -1;
	if (n > TAP_QUEUES_MAX)
		return err_set(err, ERR_INVALID, "net '%s': %u queue pairs are more than %d", cfg->id, n,
			       TAP_QUEUES_MAX);
	if (cfg->fds)
		for (unsigned i = 0; i < n && r >= 0; i++)
			r = take_fd(cfg->fds[i], &fds[i], err);
	else
		r = open_by_name(cfg, fds, n, err);
	if (r >= 0)
		return 0;
	for (unsigned i = 0; i < TAP_QUEUES_MAX; i++)
		if (fds[i] >= 0)
			close(steal_fd(&fds[i]));
	err_wrap(err, "net '%s'", cfg->id);
	err_wrap(err, "Cannot create virtio-net device");
	return err_wrap(err, "Error from device manager");
}

void tap_set_offload(int fd, unsigned tun_features)
{
	if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)tun_features) < 0 && (tun_features & TUN_F_UFO))
		(void)ioctl(fd, TUNSETOFFLOAD, (unsigned long)(tun_features & ~(unsigned)TUN_F_UFO));
}

void tap_use_queue(int fd, bool use)
{
	struct ifreq ifr = { .ifr_flags = use ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	(void)ioctl(fd, TUNSETQUEUE, &ifr); /* EINVAL: the queue is so already */
}

unsigned tap_mtu(int fd)
{
	struct ifreq ifr = {};
	autoclose int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (sock < 0 || ioctl(fd, TUNGETIFF, &ifr) < 0 || ioctl(sock, SIOCGIFMTU, &ifr) < 0 || ifr.ifr_mtu <= 0 ||
	    ifr.ifr_mtu > UINT16_MAX)
		return 1500;
	return (unsigned)ifr.ifr_mtu;
}

bool tap_mac(int fd, uint8_t ret_mac[MAC_BYTES])
{
	struct ifreq ifr = {};

	if (ioctl(fd, SIOCGIFHWADDR, &ifr) < 0 || ifr.ifr_hwaddr.sa_family != ARPHRD_ETHER)
		return false;
	memcpy(ret_mac, ifr.ifr_hwaddr.sa_data, MAC_BYTES);
	return true;
}
