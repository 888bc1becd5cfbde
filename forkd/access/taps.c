// SPDX-License-Identifier: Apache-2.0
/* Opens taps, and checks descriptors that claim to be taps. */
#include "forkd/access/taps.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/mac.h"
#include "common/tap.h"
#include "forkd/errors.h"
#include "forkd/registry/record.h"

static int open_queue(const char *name, bool multi, int *ret_fd, struct err *err)
{
	char own_name[IFNAMSIZ];
	int fd = tap_open_queue(name, multi, own_name, err);

	if (fd == -EINVAL)
		err_num(err, ERR_INVALID, EINVAL,
			"open tap '%s' (a tap has one queue or many from its making on; or it is no tap)", name);
	if (fd < 0)
		return err->code == ERR_INTERNAL
			       ? err->num
			       : fail_as(err, err->code == ERR_CONFLICT ? E_CONFLICT : E_INVALID, NULL);
	*ret_fd = fd;
	return 0;
}

/* A daemon that is not root may change nothing of an interface but the MAC address of a tap of its own. */
int taps_set_mac(const char *name, int tap_fd, const char *text, struct err *err)
{
	struct ifreq ifr = {};
	uint8_t mac[MAC_BYTES];

	if (!mac_parse(text, mac))
		return fail(err, E_INVALID, "host_mac '%.40s' is not a MAC address", text);
	if (ioctl(tap_fd, SIOCGIFHWADDR, &ifr) == 0 && memcmp(ifr.ifr_hwaddr.sa_data, mac, MAC_BYTES) == 0)
		return 0;
	ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(ifr.ifr_hwaddr.sa_data, mac, MAC_BYTES);
	if (ioctl(tap_fd, SIOCSIFHWADDR, &ifr) == 0)
		return 0;
	err_sys(err, ERR_INTERNAL, "tap '%s': set the MAC address '%s'", name, text);
	return fail_as(err, E_INVALID, NULL);
}

static int set_mtu(int sock, struct ifreq *ifr, uint16_t mtu, struct err *err)
{
	if (ioctl(sock, SIOCGIFMTU, ifr) == 0 && ifr->ifr_mtu == mtu)
		return 0;
	ifr->ifr_mtu = mtu;
	if (ioctl(sock, SIOCSIFMTU, ifr) == 0)
		return 0;
	err_sys(err, ERR_INTERNAL, "tap '%s': set the MTU %u", ifr->ifr_name, mtu);
	return fail_as(err, E_INVALID, NULL);
}

int taps_settle(const char *name, int tap_fd, const struct tap_settings *settings, struct err *err)
{
	struct ifreq ifr = {};
	autoclose int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	if (settings->host_mac && taps_set_mac(name, tap_fd, settings->host_mac, err) < 0)
		return err->num;
	if (sock < 0)
		return err_sys(err, ERR_INTERNAL, "make a socket");
	if (settings->mtu && set_mtu(sock, &ifr, settings->mtu, err) < 0)
		return err->num;
	if (ioctl(sock, SIOCGIFFLAGS, &ifr) < 0)
		return err_sys(err, ERR_INTERNAL, "tap '%s': get its flags", name);
	if (ifr.ifr_flags & IFF_UP)
		return 0;
	ifr.ifr_flags |= IFF_UP;
	return ioctl(sock, SIOCSIFFLAGS, &ifr) < 0 ? err_sys(err, ERR_INTERNAL, "tap '%s': bring it up", name) : 0;
}

int taps_open(const char *name, unsigned n, const struct tap_settings *settings, int ret_fds[TAP_QUEUES_MAX],
	      struct err *err)
{
	unsigned made = 0;
	int r = 0;

	if (n > TAP_QUEUES_MAX)
		return fail(err, E_INVALID, "tap '%s': %u queues are more than %d", name, n, TAP_QUEUES_MAX);
	while (made < n && r >= 0) {
		r = open_queue(name, n > 1, &ret_fds[made], err);
		made += r >= 0;
	}
	if (r >= 0)
		r = taps_settle(name, ret_fds[0], settings, err);
	while (r < 0 && made > 0)
		close(ret_fds[--made]);
	return r;
}

void taps_auto_name(const char *clone_id, unsigned i, char ret_name[IFNAMSIZ])
{
	static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";

	snprintf(ret_name, IFNAMSIZ, "fk%.12s", clone_id + 2); /* without the "c-" of the id */
	if (i > 0)
		ret_name[14] = digits[i % 32];
	ret_name[15] = '\0';
}

int taps_check(const int *fds, unsigned n, const char *id, unsigned first, char ret_name[IFNAMSIZ], struct err *err)
{
	for (unsigned i = 0; i < n; i++) {
		struct ifreq ifr = {};
		unsigned number = first + i;
		if (ioctl(fds[i], TUNGETIFF, &ifr) < 0 || !(ifr.ifr_flags & IFF_TAP))
			return fail(err, E_BAD_FDS, "net_fds: descriptor %u (queue pair %u of net '%s') is not a tap",
				    number, i, id);
		if (!(ifr.ifr_flags & IFF_VNET_HDR))
			return fail(
				err, E_BAD_FDS,
				"net_fds: descriptor %u (queue pair %u of net '%s') is a tap (%s) without virtio-net "
				"headers (IFF_VNET_HDR)",
				number, i, id, ifr.ifr_name);
		if (i > 0 && strcmp(ifr.ifr_name, ret_name) != 0)
			return fail(
				err, E_BAD_FDS,
				"net_fds: descriptor %u (queue pair %u of net '%s') is of tap %s, the first one of %s",
				number, i, id, ifr.ifr_name, ret_name);
		memcpy(ret_name, ifr.ifr_name, IFNAMSIZ);
		int flags = fcntl(fds[i], F_GETFL);
		if (flags < 0 || fcntl(fds[i], F_SETFL, flags | O_NONBLOCK) < 0)
			return err_sys(err, ERR_INTERNAL, "make descriptor %u non-blocking", number);
	}
	return 0;
}
