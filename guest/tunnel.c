// SPDX-License-Identifier: Apache-2.0
#include "guest/tunnel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "guest/private.h"

/* Bytes on their way from one side to the other. */
struct flow {
	char *bytes; /* TUNNEL_BUFFER of them, or what the client sent with its request */
	size_t at, len;
	bool ended; /* the source has ended, and the sink was told */
};

struct side {
	struct watch watch; /* fd owned */
	struct tunnel *tunnel;
	struct flow out; /* what this side still has to send */
};

struct tunnel {
	struct tunnels *all;
	struct tunnel *next, **link;
	struct loop *loop;
	struct exchange *ex; /* NULL: it was taken over */
	struct side client, port;
	bool tried_ipv6;
	int first_num; /* why IPv4 has failed */
	uint16_t number;
};

enum { ROUNDS = 16 };

static void tunnel_free(struct tunnel *t)
{
	struct side *sides[] = { &t->client, &t->port };

	for (size_t i = 0; i < ARRAY_LEN(sides); i++) {
		loop_del(t->loop, &sides[i]->watch);
		if (sides[i]->watch.fd >= 0)
			close(sides[i]->watch.fd);
		free(sides[i]->out.bytes);
	}
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	t->all->n--;
	free(t);
}

void tunnels_done(struct tunnels *tunnels)
{
	while (tunnels->first)
		tunnel_free(tunnels->first);
}

static struct side *other_of(struct side *s)
{
	return s == &s->tunnel->client ? &s->tunnel->port : &s->tunnel->client;
}

/* Sends what is buffered. false: the side is gone. */
static bool push(struct side *s)
{
	struct flow *f = &s->out;

	while (f->len > 0) {
		ssize_t n = send(s->watch.fd, f->bytes + f->at, f->len, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		f->at += (size_t)n;
		f->len -= (size_t)n;
	}
	return true;
}

/* Moves bytes from one side to the other, until one of them has to be waited for. false: one is gone. */
static bool pump(struct side *from, struct side *to)
{
	struct flow *f = &to->out;

	for (unsigned i = 0; i < ROUNDS; i++) { /* others come between */
		if (!push(to))
			return false;
		if (f->len > 0 || f->ended)
			return true;
		ssize_t n = recv(from->watch.fd, f->bytes, TUNNEL_BUFFER, 0);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		f->at = 0;
		f->len = (size_t)n;
		f->ended = n == 0;
		if (n == 0)
			shutdown(to->watch.fd, SHUT_WR);
	}
	return true;
}

/*
 * Waits for what the side can do next. When that is nothing, the side is not watched at all: epoll
 * tells a hang-up again and again. false: no memory.
 */
static bool want(struct side *s)
{
	struct loop *loop = s->tunnel->loop;
	const struct flow *in = &other_of(s)->out;
	uint32_t events = (s->out.len > 0 ? EPOLLOUT : 0) | (in->len == 0 && !in->ended ? EPOLLIN : 0);
	struct err err = {};

	if (events == 0)
		loop_del(loop, &s->watch);
	else if (!s->watch.added)
		return loop_add(loop, &s->watch, events, &err) == 0;
	else
		loop_set(loop, &s->watch, events);
	return true;
}

static void go_on(struct tunnel *t)
{
	bool alive = pump(&t->port, &t->client) && pump(&t->client, &t->port);

	if (!alive || (t->client.out.ended && t->port.out.ended && t->client.out.len == 0 && t->port.out.len == 0) ||
	    !want(&t->client) || !want(&t->port))
		tunnel_free(t);
}

static void on_ready(struct watch *w, uint32_t events)
{
	(void)events;
	go_on(container_of(w, struct side, watch)->tunnel);
}

/* ---- the beginning ---- */

static void fail(struct tunnel *t, int num)
{
	struct exchange *ex = t->ex;
	unsigned port = t->number;

	tunnel_free(t);
	ex_fail(ex, 502, "port %u of the guest's loopback: %s", port, strerror(num));
}

static void connected(struct tunnel *t)
{
	static const char head[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n";
	autofree char *early = NULL;

	loop_del(t->loop, &t->port.watch);
	t->port.watch.ready = on_ready;
	t->client.watch.fd = ex_take_over(t->ex, &early, &t->port.out.len);
	t->ex = NULL;
	memcpy(t->port.out.bytes, early ? early : "", t->port.out.len);
	memcpy(t->client.out.bytes, head, sizeof(head) - 1);
	t->client.out.len = sizeof(head) - 1;
	go_on(t);
}

static void try_connect(struct tunnel *t);

/* Nobody listens at the one address: the other one is tried. */
static void connect_failed(struct tunnel *t, int num)
{
	if (t->tried_ipv6)
		return fail(t, t->first_num);
	t->first_num = num;
	t->tried_ipv6 = true;
	try_connect(t);
}

static void on_connected(struct watch *w, uint32_t events)
{
	struct tunnel *t = container_of(w, struct side, watch)->tunnel;
	int num = 0;
	socklen_t len = sizeof(num);

	(void)events;
	if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &num, &len) < 0)
		num = errno;
	if (num == 0)
		return connected(t);
	loop_del(t->loop, w);
	close(w->fd);
	w->fd = -1;
	connect_failed(t, num);
}

static void try_connect(struct tunnel *t)
{
	const struct sockaddr_in ipv4 = { .sin_family = AF_INET,
					  .sin_port = htons(t->number),
					  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const struct sockaddr_in6 ipv6 = { .sin6_family = AF_INET6,
					   .sin6_port = htons(t->number),
					   .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	const struct sockaddr *address = t->tried_ipv6 ? (const void *)&ipv6 : (const void *)&ipv4;
	socklen_t len = t->tried_ipv6 ? sizeof(ipv6) : sizeof(ipv4);
	struct err err = {};

	t->port.watch.ready = on_connected;
	t->port.watch.fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int r = t->port.watch.fd < 0 ? -1 : connect(t->port.watch.fd, address, len);
	if (r == 0)
		return connected(t);
	int num = errno;
	if (t->port.watch.fd >= 0 && num == EINPROGRESS && loop_add(t->loop, &t->port.watch, EPOLLOUT, &err) == 0)
		return;
	if (t->port.watch.fd >= 0)
		close(t->port.watch.fd);
	t->port.watch.fd = -1;
	connect_failed(t, num);
}

static void on_gone(struct exchange *ex)
{
	tunnel_free(ex->state);
}

static struct tunnel *tunnel_new(struct exchange *ex, uint16_t number)
{
	struct tunnels *all = &ex->agent->private->tunnels;
	struct tunnel *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	*t = (struct tunnel){ .all = all, .next = all->first, .link = &all->first, .loop = &ex->agent->loop, .ex = ex };
	t->number = number;
	if (t->next)
		t->next->link = &t->next;
	all->first = t;
	all->n++;
	t->client = (struct side){ .watch = { .fd = -1, .ready = on_ready }, .tunnel = t };
	t->port = (struct side){ .watch = { .fd = -1 }, .tunnel = t };
	t->client.out.bytes = malloc(TUNNEL_BUFFER);
	t->port.out.bytes = malloc(TUNNEL_BUFFER);
	if (t->client.out.bytes && t->port.out.bytes)
		return t;
	tunnel_free(t);
	return NULL;
}

void tunnel_begin(struct exchange *ex)
{
	const char *port = ex_query(ex, "port"), *upgrade = ex_header(ex, "upgrade");
	size_t digits = port ? strspn(port, "0123456789") : 0;
	unsigned long number = digits > 0 && digits < 6 && !port[digits] ? strtoul(port, NULL, 10) : 0;

	if (number < 1 || number > UINT16_MAX)
		return ex_fail(ex, 400, "port: expected a number from 1 to %d", UINT16_MAX);
	if (!upgrade || strcasecmp(upgrade, "tcp") != 0)
		return ex_fail(ex, 400, "expected the header \"Upgrade: tcp\"");
	if (ex->agent->private->tunnels.n >= TUNNELS_MAX)
		return ex_fail(ex, 503, "there are %d tunnels, more are not possible", TUNNELS_MAX);
	struct tunnel *t = tunnel_new(ex, (uint16_t)number);
	if (!t)
		return ex_fail(ex, 503, "no memory for a tunnel");
	ex->state = t;
	ex->on_gone = on_gone;
	try_connect(t);
}
