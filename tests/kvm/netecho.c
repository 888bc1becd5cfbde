/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network peer of the guest "devices": echoes its frames (addresses swapped) through a packet
 * socket on the host's side of a tap.
 *
 * usage: netecho INTERFACE     runs until killed; prints "ready" when it listens
 * Ethertype 0x88b5 is echoed, 0x88b6 dropped, 0x88b7 sent back as often as the frame says.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ETHER_ECHO = 0x88b5, ETHER_BLAST = 0x88b7, COUNT_AT = 36, HEADER_BYTES = 44, COUNT_MAX = 4096 };

static void swap_addresses(uint8_t *frame, const uint8_t own[6])
{
	memcpy(frame, frame + 6, 6);
	memcpy(frame + 6, own, 6);
}

/* A full queue of the tap is waited for, a tap that is down or gone loses the frame. */
static void send_frame(int fd, const uint8_t *frame, size_t bytes)
{
	while (send(fd, frame, bytes, 0) < 0 && (errno == ENOBUFS || errno == EAGAIN || errno == EINTR))
		usleep(100);
}

static int open_socket(const char *name)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* bound below: hears nothing before */
	if (fd < 0) {
		perror("netecho: packet socket");
		return -1;
	}
	struct sockaddr_ll at = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(0x0003), /* ETH_P_ALL */
		.sll_ifindex = (int)if_nametoindex(name),
	};
	int bytes = 8 << 20, one = 1;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
	(void)setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one));
	if (at.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0) {
		fprintf(stderr, "netecho: interface '%s': %s\n", name, strerror(errno));
		close(fd);
		return -1;
	}
	return fd;
}

int main(int argc, char **argv)
{
	static const uint8_t own[6] = { 0x02, 0, 0, 0, 0, 0x01 };
	static uint8_t frame[65536];
	if (argc != 2) {
		fprintf(stderr, "usage: netecho INTERFACE\n");
		return 2;
	}
	int fd = open_socket(argv[1]);
	if (fd < 0)
		return 1;
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		ssize_t n = recv(fd, frame, sizeof(frame), 0);
		if (n < 0 && (errno == EINTR || errno == ENETDOWN))
			continue;
		if (n < 0) {
			perror("netecho: receive");
			return 1;
		}
		unsigned type = n < HEADER_BYTES ? 0 : (unsigned)frame[12] << 8 | frame[13];
		uint32_t count = type == ETHER_ECHO;
		if (type == ETHER_BLAST)
			memcpy(&count, frame + COUNT_AT, sizeof(count));
		if (count == 0)
			continue;
		swap_addresses(frame, own);
		for (uint32_t i = 0; i < count && i < COUNT_MAX; i++)
			send_frame(fd, frame, (size_t)n);
	}
}
