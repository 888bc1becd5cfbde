/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Linux network stack in the place of a guest: takes the tap of a VM process whose guest does not use it,
 * makes a network namespace with an interface eth0, and passes frames between the two, headers included.
 *
 * usage: tapguest PID     runs until killed; prints "ready" when eth0 is up
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FDS_LOOKED_AT = 256, HEADER_BYTES = 12 };

static int die(const char *what)
{
	fprintf(stderr, "tapguest: %s: %s\n", what, strerror(errno));
	return -1;
}

/* The first descriptor of the process that is a tap. */
static int find_tap(const char *pid)
{
	int process = (int)syscall(SYS_pidfd_open, (pid_t)strtol(pid, NULL, 10), 0);
	char path[64], to[64];

	if (process < 0)
		return die("open the process");
	for (int i = 0; i < FDS_LOOKED_AT; i++) {
		snprintf(path, sizeof(path), "/proc/%.16s/fd/%d", pid, i);
		ssize_t n = readlink(path, to, sizeof(to) - 1);
		to[n > 0 ? n : 0] = '\0';
		if (strcmp(to, "/dev/net/tun") == 0)
			return (int)syscall(SYS_pidfd_getfd, process, i, 0);
	}
	errno = ENOENT;
	return die("look for a tap");
}

static int up(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_UP };
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	int r = sock < 0 ? -1 : ioctl(sock, SIOCSIFFLAGS, &ifr);
	if (sock >= 0)
		close(sock);
	return r < 0 ? die(name) : 0;
}

static int make_eth0(void)
{
	struct ifreq ifr = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) };
	int bytes = HEADER_BYTES, fd;

	if (unshare(CLONE_NEWNET) < 0)
		return die("make a network namespace");
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	snprintf(ifr.ifr_name, IFNAMSIZ, "eth0");
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &bytes) < 0 ||
	    ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0)
		return die("make eth0");
	return up("lo") < 0 || up("eth0") < 0 ? -1 : fd;
}

/* A frame that the other side does not take is lost, as on a wire. */
static void pass(int from, int to)
{
	static char frame[HEADER_BYTES + 65536];
	ssize_t n = read(from, frame, sizeof(frame));

	if (n > 0 && write(to, frame, (size_t)n) < 0 && errno == EBADFD)
		exit(1);
	if (n < 0 && errno == EBADFD)
		exit(0); /* the tap is gone */
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: tapguest PID\n");
		return 2;
	}
	int tap = find_tap(argv[1]), eth = tap < 0 ? -1 : make_eth0();
	if (eth < 0)
		return 1;
	printf("ready\n");
	fflush(stdout);
	struct pollfd p[] = { { .fd = tap, .events = POLLIN }, { .fd = eth, .events = POLLIN } };
	while (poll(p, 2, -1) >= 0 || errno == EINTR) {
		if (p[0].revents)
			pass(tap, eth);
		if (p[1].revents)
			pass(eth, tap);
	}
	return 1;
}
