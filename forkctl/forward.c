// SPDX-License-Identifier: Apache-2.0
/*
 * forkctl forward: ports of this host that lead to ports of a guest. One loop for all connections; each has one buffer for each
 * direction, which is filled when it is empty, so who does not read holds up the other side alone.
 */
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "forkctl/forkctl.h"
#include "forkctl/terminal.h"
#include "forkctl/tunnel.h"

enum { LINKS_MAX = 256, PORTS_MAX = 64, BUFFER = 64 << 10, ROUNDS = 16, TEXT = 128 };

/* Bytes in one direction. */
struct flow {
	char bytes[BUFFER];
	size_t at, len;
	bool ended; /* the source has ended */
	bool shut;  /* the sink was told */
};

/* One connection to a port of this host. */
struct link {
	struct link *next;
	int fd;
	struct tunnel tunnel;
	struct flow up, down; /* to the guest, from the guest */
	unsigned n_fds;       /* of the loop's descriptors */
	bool again;           /* there may be more at hand than the loop can see */
};

struct port {
	int fd; /* listens */
	unsigned guest_port;
};

struct forward {
	struct cli *cli;
	const char *id;
	struct port ports[PORTS_MAX];
	unsigned n_ports, n_links;
	struct link *links;
	struct pollfd fds[1 + PORTS_MAX + 2 * LINKS_MAX];
};

/* ---- ports ---- */

/* [ADDR:]PORT:GUESTPORT, cut into pieces; an IPv6 address is in brackets. */
static bool cut(const struct args *args, const char *word, char address[TEXT], char port[TEXT], unsigned *ret_guest)
{
	const char *last = strrchr(word, ':'), *begin = word, *middle;
	unsigned long guest = last ? strtoul(last + 1, NULL, 10) : 0;
	bool ok = last && last[1] && last[1 + strspn(last + 1, "0123456789")] == '\0' && guest > 0 &&
		  guest <= UINT16_MAX && last - word < TEXT;

	if (!ok)
		return args_wrong(args, "'%s' is not of the form [ADDR:]PORT:GUESTPORT", word);
	middle = memrchr(word, ':', (size_t)(last - word));
	snprintf(address, TEXT, "127.0.0.1");
	if (middle && word[0] == '[' && middle[-1] == ']')
		snprintf(address, TEXT, "%.*s", (int)(middle - word - 2), word + 1);
	else if (middle)
		snprintf(address, TEXT, "%.*s", (int)(middle - word), word);
	begin = middle ? middle + 1 : word;
	snprintf(port, TEXT, "%.*s", (int)(last - begin), begin);
	char *end;
	if (strtoul(port, &end, 10) > UINT16_MAX || *end || port[0] < '0' || port[0] > '9')
		return args_wrong(args, "'%s': '%s' is not a port", word, port);
	*ret_guest = (unsigned)guest;
	return true;
}

/* A socket that listens there, or -1 with errno. */
static int listen_at(const struct addrinfo *a)
{
	const int on = 1;
	autoclose int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 128) < 0)
		return -1;
	return steal_fd(&fd);
}

/* "127.0.0.1:8080 leads to port 80 of clone c-1": the port may have been chosen by the kernel. */
static void say_port(const struct forward *f, const struct port *p)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char host[TEXT] = "?", port[TEXT] = "?";
	bool v6;

	if (getsockname(p->fd, (struct sockaddr *)&address, &len) == 0)
		(void)getnameinfo((struct sockaddr *)&address, len, host, sizeof(host), port, sizeof(port),
				  NI_NUMERICHOST | NI_NUMERICSERV);
	v6 = strchr(host, ':');
	printf("%s%s%s:%s leads to port %u of clone %s\n", v6 ? "[" : "", host, v6 ? "]" : "", port, p->guest_port,
	       f->id);
}

static int open_port(struct forward *f, const char *word)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct port *p = &f->ports[f->n_ports];
	struct addrinfo *found = NULL;
	char address[TEXT], port[TEXT];

	if (!cut(f->cli->args, word, address, port, &p->guest_port))
		return EXIT_USAGE;
	int num = getaddrinfo(address, port, &hints, &found);
	if (num != 0) {
		fprintf(stderr, "forkctl: '%s': %s\n", word, gai_strerror(num));
		return EXIT_FAILED;
	}
	p->fd = listen_at(found);
	freeaddrinfo(found);
	if (p->fd < 0) {
		fprintf(stderr, "forkctl: cannot listen at '%s': %s\n", word, strerror(errno));
		return EXIT_FAILED;
	}
	f->n_ports++;
	say_port(f, p);
	return EXIT_FINE;
}

/* ---- connections ---- */

/* `reset`: the other side sees that this is no end in good order. */
static void link_free(struct forward *f, struct link *l, bool reset)
{
	const struct linger now = { .l_onoff = 1 };
	struct link **at = &f->links;

	if (reset)
		setsockopt(l->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(l->fd);
	tunnel_done(&l->tunnel);
	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	f->n_links--;
	free(l);
}

static void accept_one(struct forward *f, const struct port *p)
{
	int fd = accept4(p->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	struct link *l = calloc(1, sizeof(*l));
	if (!l) {
		close(fd);
		return;
	}
	l->fd = fd;
	l->next = f->links;
	f->links = l;
	f->n_links++;
	if (tunnel_begin(f->cli->client, &l->tunnel, f->id, p->guest_port) != EXIT_FINE)
		link_free(f, l, true);
}

/* What a read or a write of one side was: bytes, nothing now, or a broken side. */
static ssize_t or_errno(ssize_t n)
{
	return n < 0 ? (errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno) : n;
}

static ssize_t get(struct link *l, struct flow *flow)
{
	return flow == &l->up ? or_errno(recv(l->fd, flow->bytes, BUFFER, 0))
			      : tunnel_recv(&l->tunnel, flow->bytes, BUFFER);
}

static ssize_t put(struct link *l, struct flow *flow)
{
	const char *bytes = flow->bytes + flow->at;

	return flow == &l->up ? tunnel_send(&l->tunnel, bytes, flow->len)
			      : or_errno(send(l->fd, bytes, flow->len, MSG_NOSIGNAL));
}

/* Moves bytes until one of both sides has to be waited for. False: one is broken. */
static bool pump(struct link *l, struct flow *flow)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		ssize_t n = flow->len > 0 ? put(l, flow) : 0;
		if (n == -EAGAIN)
			return true;
		if (n < 0)
			return false;
		flow->at += (size_t)n;
		flow->len -= (size_t)n;
		if (flow->len > 0)
			continue;
		if (flow->ended && !flow->shut) {
			flow->shut = true;
			if (flow == &l->up)
				tunnel_shut(&l->tunnel);
			else
				shutdown(l->fd, SHUT_WR);
		}
		n = flow->ended ? -EAGAIN : get(l, flow);
		if (n == -EAGAIN)
			return true;
		if (n < 0)
			return false;
		flow->at = 0;
		flow->len = (size_t)n;
		flow->ended = n == 0;
	}
	l->again = true;
	return true;
}

static void link_step(struct forward *f, struct link *l)
{
	enum tunnel_state state = tunnel_step(&l->tunnel);

	l->again = false;
	if (state == TUNNEL_FAILED)
		link_free(f, l, true);
	if (state != TUNNEL_OPEN)
		return;
	if (!pump(l, &l->up) || !pump(l, &l->down))
		link_free(f, l, true);
	else if (l->up.shut && l->down.shut)
		link_free(f, l, false);
}

/* ---- the loop ---- */

static struct pollfd wait_for(int fd, short events)
{
	return (struct pollfd){ .fd = events ? fd : -1, .events = events };
}

static short wants(const struct flow *in, const struct flow *out)
{
	return (short)((in->len == 0 && !in->ended ? POLLIN : 0) | (out->len > 0 ? POLLOUT : 0));
}

static unsigned fill(struct forward *f, int signal_fd, int *ret_timeout_ms)
{
	unsigned n = 0;

	*ret_timeout_ms = 60000;
	f->fds[n++] = wait_for(signal_fd, POLLIN);
	for (unsigned i = 0; i < f->n_ports; i++)
		f->fds[n++] = wait_for(f->ports[i].fd, f->n_links < LINKS_MAX ? POLLIN : 0);
	for (struct link *l = f->links; l; l = l->next) {
		bool open = l->tunnel.state == TUNNEL_OPEN;
		f->fds[n++] =
			wait_for(tunnel_fd(&l->tunnel), open ? wants(&l->down, &l->up) : tunnel_wants(&l->tunnel));
		if (open)
			f->fds[n++] = wait_for(l->fd, wants(&l->up, &l->down));
		l->n_fds = open ? 2 : 1;
		*ret_timeout_ms = l->again ? 0 : *ret_timeout_ms;
	}
	return n;
}

/* Until a signal comes. */
static void loop(struct forward *f, int signal_fd)
{
	for (;;) {
		int timeout_ms, signo;
		unsigned n = fill(f, signal_fd, &timeout_ms), at = 1 + f->n_ports;
		transfers_turn(f->cli->client, f->fds, n, timeout_ms);
		while ((signo = signals_next(signal_fd)) > 0)
			if (signo != SIGWINCH)
				return;
		for (struct link *l = f->links, *next; l; l = next) {
			bool ready = l->again || l->tunnel.state == TUNNEL_CONNECTS;
			for (unsigned i = 0; i < l->n_fds; i++)
				ready |= f->fds[at++].revents != 0;
			next = l->next;
			if (ready)
				link_step(f, l);
		}
		for (unsigned i = 0; i < f->n_ports; i++)
			if (f->fds[1 + i].revents)
				accept_one(f, &f->ports[i]);
	}
}

static int check_clone(struct cli *cli)
{
	autoanswer struct answer a = {};
	autostrbuf struct strbuf path = {};

	path_add(&path, "/v1/clones/", cli->args->words[0]);
	return client_call(cli->client, "GET", path.text, NULL, &a);
}

int forward_ports(struct cli *cli)
{
	static struct forward f; /* too large for a stack */
	int status = check_clone(cli);

	f = (struct forward){ .cli = cli, .id = cli->args->words[0] };
	if (status == EXIT_FINE && cli->args->n_words - 1 > PORTS_MAX) {
		args_wrong(cli->args, "more than %d ports", PORTS_MAX);
		return EXIT_USAGE;
	}
	for (unsigned i = 1; i < cli->args->n_words && status == EXIT_FINE; i++)
		status = open_port(&f, cli->args->words[i]);
	autoclose int signal_fd = signals_open();
	if (status == EXIT_FINE)
		loop(&f, signal_fd);
	while (f.links)
		link_free(&f, f.links, true);
	for (unsigned i = 0; i < f.n_ports; i++)
		close(f.ports[i].fd);
	return status;
}
