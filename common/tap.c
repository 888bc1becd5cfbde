// SPDX-License-Identifier: Apache-2.0
/* /dev/net/tun. */
#include "common/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/auto.h"

int tap_set_header(int fd)
{
	int bytes = VNET_HEADER_BYTES;

	return ioctl(fd, TUNSETVNETHDRSZ, &bytes) < 0 ? -errno : 0;
}

int tap_open_queue(const char *name, bool multi_queue, char ret_name[IFNAMSIZ], struct err *err)
{
	struct ifreq ifr = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
						  (multi_queue ? IFF_MULTI_QUEUE : 0)) };
	autoclose int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "open /dev/net/tun");
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		return err_sys(err, errno == EBUSY ? ERR_CONFLICT : ERR_INVALID, "open tap '%s'", name);
	int r = tap_set_header(fd);
	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "tap '%s': set the header size", name);
	memcpy(ret_name, ifr.ifr_name, IFNAMSIZ);
	return steal_fd(&fd);
}
