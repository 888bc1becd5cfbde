// SPDX-License-Identifier: Apache-2.0
/* Sockets that hold ports of the host. */
#include "forkd/net/ports.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "forkd/errors.h"

enum { PORT_OF_ALL_USERS = 1024 };

static socklen_t address_of(const struct wish_port *p, struct sockaddr_storage *ret)
{
	struct sockaddr_in *in4 = (struct sockaddr_in *)(void *)ret;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)ret;

	*ret = (struct sockaddr_storage){};
	if (p->address.version == 4) {
		in4->sin_family = AF_INET;
		in4->sin_port = htons(p->host);
		memcpy(&in4->sin_addr, p->address.addr, 4);
		return sizeof(*in4);
	}
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(p->host);
	memcpy(&in6->sin6_addr, p->address.addr, 16);
	return sizeof(*in6);
}

static int hold(struct wish_port *p, int *ret_fd, struct err *err)
{
	struct sockaddr_storage at;
	char text[CIDR_TEXT_BYTES];
	socklen_t len = address_of(p, &at);
	int one = 1;

	autoclose int fd = socket(at.ss_family, (p->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "make a socket");
	if (at.ss_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0)
		return err_sys(err, ERR_INTERNAL, "make a socket for IPv6 alone");
	if (bind(fd, (struct sockaddr *)&at, len) < 0) {
		err_sys(err, ERR_INTERNAL, "%s port %u of address %s", p->udp ? "udp" : "tcp", p->host,
			cidr_address_text(&p->address, text));
		return fail_as(err, err->num == -EADDRINUSE ? E_CONFLICT : E_BAD_OVERRIDE, NULL);
	}
	if (getsockname(fd, (struct sockaddr *)&at, &len) < 0)
		return err_sys(err, ERR_INTERNAL, "ask for the number of a port");
	p->host = ntohs(at.ss_family == AF_INET ? ((struct sockaddr_in *)(void *)&at)->sin_port
						: ((struct sockaddr_in6 *)(void *)&at)->sin6_port);
	*ret_fd = steal_fd(&fd);
	return 0;
}

int ports_hold(struct net_wish *w, bool trusted, struct held_ports *ret, struct err *err)
{
	struct held_ports held = {};

	if (w->n_ports == 0)
		return 0;
	held.fds = calloc(w->n_ports, sizeof(*held.fds));
	if (!held.fds)
		return err_num(err, ERR_INTERNAL, ENOMEM, "hold %u ports", w->n_ports);
	for (uint32_t i = 0; i < w->n_ports; i++) {
		struct wish_port *p = &w->ports[i];
		int r = !trusted && p->host > 0 && p->host < PORT_OF_ALL_USERS
				? fail(err, E_FORBIDDEN, "port %u: only root may have a port below %d", p->host,
				       PORT_OF_ALL_USERS)
				: hold(p, &held.fds[i], err);
		if (r < 0) {
			ports_release(&held);
			return err_wrap(err, "overrides.network.ports[%u]", i);
		}
		held.n++;
	}
	*ret = held;
	return 0;
}

void ports_release(struct held_ports *p)
{
	for (uint32_t i = 0; i < p->n; i++)
		close(p->fds[i]);
	free(p->fds);
	*p = (struct held_ports){};
}
