// SPDX-License-Identifier: Apache-2.0
/* The table of a vsock device's connections, their sockets, and whose turn it is. */
#include "vmm/virtio/vsock_mux.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/agent_ports.h"
#include "common/sock.h"
#include "vmm/core/host_open.h"
#include "vmm/virtio/vring.h"

enum { READY_BATCH = 32, ACCEPT_BATCH = 16, GREETING_MAX_BYTES = 32 };
#define CONN_EVENTS ((uint32_t)EPOLLIN | EPOLLRDHUP | EPOLLET)
#define FIRST_HOST_PORT (1U << 30)

/* ---- table ---- */

static struct vsock_conn **bucket(struct vsock_mux *m, const struct vsock_conn *c)
{
	uint32_t h = (c->local_port * 31 + c->peer_port) % VSOCK_HASHES;

	return c->state == VSOCK_GREETING ? &m->greeting : &m->hash[h];
}

static struct vsock_conn *find_conn(struct vsock_mux *m, uint32_t local_port, uint32_t peer_port)
{
	const struct vsock_conn key = { .state = VSOCK_OPEN, .local_port = local_port, .peer_port = peer_port };
	struct vsock_conn *c = *bucket(m, &key);

	while (c && (c->local_port != local_port || c->peer_port != peer_port))
		c = c->next;
	return c;
}

static void link_conn(struct vsock_mux *m, struct vsock_conn *c)
{
	struct vsock_conn **at = bucket(m, c);

	c->next = *at;
	*at = c;
}

static void unlink_conn(struct vsock_mux *m, struct vsock_conn *c)
{
	struct vsock_conn **at = bucket(m, c);

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
}

/* ---- whose turn it is ---- */

static void add_sender(struct vsock_mux *m, struct vsock_conn *c)
{
	if (c->is_sender || !vsock_conn_has_packet(c))
		return;
	c->is_sender = true;
	c->next_sender = NULL;
	if (m->sender)
		m->last_sender->next_sender = c;
	else
		m->sender = c;
	m->last_sender = c;
}

static void remove_sender(struct vsock_mux *m, struct vsock_conn *c)
{
	struct vsock_conn *before = NULL;

	if (!c->is_sender)
		return;
	for (struct vsock_conn *s = m->sender; s != c; s = s->next_sender)
		before = s;
	if (before)
		before->next_sender = c->next_sender;
	else
		m->sender = c->next_sender;
	if (m->last_sender == c)
		m->last_sender = before;
	c->is_sender = false;
}

/*
 * There is room: no packet is taken while the ring is full, and each connection that the guest knows
 * adds one reset at most.
 */
static void add_reset(struct vsock_mux *m, struct vsock_reset r)
{
	if (m->n_resets < VSOCK_RESETS_MAX)
		m->reset[(m->reset_head + m->n_resets++) % VSOCK_RESETS_MAX] = r;
}

/* ---- connections ---- */

static int watch(struct vsock_mux *m, int fd, void *what, uint32_t events, int op)
{
	struct epoll_event ev = { .events = events, .data.ptr = what };

	return epoll_ctl(m->epoll_fd, op, fd, &ev);
}

static void listen_again(struct vsock_mux *m, bool on)
{
	if (m->listens != on)
		watch(m, m->listen_fd, &m->listen_fd, on ? EPOLLIN : 0, EPOLL_CTL_MOD);
	m->listens = on;
}

/* Whether there may be one stream more when `kept` streams are kept for others. */
static bool has_room(const struct vsock_mux *m, uint32_t kept)
{
	return m->n_conns + (m->owned ? kept : 0) < VSOCK_CONNS_MAX;
}

/* Takes `fd` over on success. NULL: errno says why. The connection is not in the table yet. */
static struct vsock_conn *conn_new(struct vsock_mux *m, int fd)
{
	struct vsock_conn *c = calloc(1, sizeof(*c));

	if (!c || watch(m, fd, c, CONN_EVENTS, EPOLL_CTL_ADD) < 0) {
		free(c);
		return NULL;
	}
	c->fd = fd;
	m->n_conns++;
	return c;
}

static void conn_free(struct vsock_mux *m, struct vsock_conn *c)
{
	unlink_conn(m, c);
	remove_sender(m, c);
	watch(m, c->fd, NULL, 0, EPOLL_CTL_DEL); /* close() is not enough: another process may have the socket open */
	close(c->fd);
	free(c->buf);
	free(c);
	m->n_conns--;
	listen_again(m, true);
}

/* Does what the fate of a connection asks for, after something happened to the connection. */
static void settle_fate(struct vsock_mux *m, struct vsock_conn *c, enum vsock_fate fate)
{
	if (fate == VSOCK_LIVES) {
		if (c->waits_to_write != (c->buf_len > 0)) {
			c->waits_to_write = c->buf_len > 0;
			watch(m, c->fd, c, CONN_EVENTS | (c->waits_to_write ? (uint32_t)EPOLLOUT : 0), EPOLL_CTL_MOD);
		}
		add_sender(m, c);
		return;
	}
	if (fate == VSOCK_RESET && vsock_conn_is_known(c))
		add_reset(m, (struct vsock_reset){ VSOCK_HOST_CID, c->local_port, c->peer_port, VSOCK_STREAM });
	conn_free(m, c);
}

void vsock_mux_clear(struct vsock_mux *m)
{
	while (m->greeting)
		conn_free(m, m->greeting);
	for (unsigned i = 0; i < VSOCK_HASHES; i++)
		while (m->hash[i])
			conn_free(m, m->hash[i]);
	m->n_resets = 0;
}

/* ---- from the host ---- */

/*
 * A port of the host that makes a new pair with peer_port. The first port is random: a pair of an
 * earlier life does not come back.
 */
static uint32_t new_port(struct vsock_mux *m, uint32_t peer_port)
{
	uint32_t port;

	do
		port = FIRST_HOST_PORT | (m->next_port++ & (FIRST_HOST_PORT - 1));
	while (find_conn(m, port, peer_port));
	return port;
}

/* "CONNECT 1234", in any case. */
static bool parse_greeting(char *line, uint32_t *ret_port)
{
	static const char blanks[] = " \t\r";
	char *save = NULL, *word = strtok_r(line, blanks, &save), *port = strtok_r(NULL, blanks, &save);

	if (!word || strcasecmp(word, "connect") != 0 || !port || strtok_r(NULL, blanks, &save) ||
	    strspn(port, "0123456789") != strlen(port))
		return false;
	errno = 0;
	unsigned long long v = strtoull(port, NULL, 10);
	*ret_port = (uint32_t)v;
	return errno == 0 && v <= UINT32_MAX;
}

/* Puts a connection into the table that is to ask the guest for a stream to `port`. */
static void request_stream(struct vsock_mux *m, struct vsock_conn *c, uint32_t port)
{
	c->local_port = new_port(m, port);
	c->peer_port = port;
	c->state = VSOCK_REQUESTED;
	c->owes_request = c->readable = true;
	link_conn(m, c);
}

/* Reads the greeting, if the whole line is there. Only the line is taken from the socket. */
static enum vsock_fate read_greeting(struct vsock_mux *m, struct vsock_conn *c)
{
	char line[GREETING_MAX_BYTES + 1] = "";
	ssize_t n = recv(c->fd, line, GREETING_MAX_BYTES, MSG_PEEK | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? VSOCK_LIVES : VSOCK_GONE;
	char *end = memchr(line, '\n', (size_t)n);
	if (!end)
		return n == 0 || n == GREETING_MAX_BYTES ? VSOCK_GONE : VSOCK_LIVES;
	size_t len = (size_t)(end + 1 - line);
	uint32_t port;
	if (recv(c->fd, line, len, MSG_DONTWAIT) != (ssize_t)len)
		return VSOCK_GONE;
	*end = '\0';
	if (strlen(line) != len - 1 || !parse_greeting(line, &port) || (m->owned && port == AGENT_PRIVATE_PORT))
		return VSOCK_GONE;
	unlink_conn(m, c);
	request_stream(m, c, port);
	return VSOCK_LIVES;
}

static void accept_host(struct vsock_mux *m)
{
	for (unsigned i = 0; i < ACCEPT_BATCH; i++) {
		int fd = accept4(m->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE) && m->n_conns > 0)
			listen_again(m, false); /* until a connection ends */
		if (fd < 0)
			return;
		struct vsock_conn *c = has_room(m, VSOCK_KEPT) ? conn_new(m, fd) : NULL;
		if (!c) {
			close(fd);
			continue;
		}
		link_conn(m, c);
		settle_fate(m, c, read_greeting(m, c));
	}
}

int vsock_mux_dial(struct vsock_mux *m, int fd, uint32_t port, struct err *err)
{
	int type = 0;
	socklen_t len = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM)
		return err_set(err, ERR_INVALID, "the descriptor for vsock port %u is no stream socket", port);
	if (!has_room(m, port == AGENT_PRIVATE_PORT ? 0 : VSOCK_KEPT_PRIVATE))
		return err_set(err, ERR_BUSY, "vsock port %u: the device has %u streams, no more are possible", port,
			       m->n_conns);
	struct vsock_conn *c = conn_new(m, fd);
	if (!c)
		return err_sys(err, ERR_INTERNAL, "connect to vsock port %u", port);
	request_stream(m, c, port);
	settle_fate(m, c, VSOCK_LIVES);
	return 0;
}

static enum vsock_fate on_socket(struct vsock_mux *m, struct vsock_conn *c, uint32_t events)
{
	if (c->state != VSOCK_OPEN && (events & (EPOLLHUP | EPOLLERR)))
		return VSOCK_RESET;
	if (c->state == VSOCK_GREETING)
		return events & EPOLLIN ? read_greeting(m, c) : VSOCK_LIVES;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLERR))
		c->readable = true;
	if (events & EPOLLHUP)
		vsock_conn_hang_up(c);
	return events & (EPOLLOUT | EPOLLHUP | EPOLLERR) && c->state == VSOCK_OPEN ? vsock_conn_flush(c) : VSOCK_LIVES;
}

void vsock_mux_poll(struct vsock_mux *m)
{
	struct epoll_event ev[READY_BATCH];
	uint64_t n_wakes;
	int n = epoll_wait(m->epoll_fd, ev, READY_BATCH, 0);

	for (int i = 0; i < n; i++) { /* serving a connection frees no other connection */
		if (ev[i].data.ptr == &m->listen_fd)
			accept_host(m);
		else if (ev[i].data.ptr == &m->wake_fd)
			(void)!read(m->wake_fd, &n_wakes, sizeof(n_wakes));
		else
			settle_fate(m, ev[i].data.ptr, on_socket(m, ev[i].data.ptr, ev[i].events));
	}
}

void vsock_mux_wake(struct vsock_mux *m)
{
	(void)!write(m->wake_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
}

/* ---- from the guest ---- */

/* A connection of the guest to a port of the host; false: no connection can be made. */
static bool accept_guest(struct vsock_mux *m, const struct vsock_header *h)
{
	autoclose int fd = has_room(m, VSOCK_KEPT) ? host_connect_port(m->path, h->dst_port) : -1;
	struct vsock_conn *c = fd < 0 ? NULL : conn_new(m, fd);

	if (!c)
		return false;
	steal_fd(&fd);
	c->state = VSOCK_OPEN;
	c->local_port = h->dst_port;
	c->peer_port = h->src_port;
	c->guest_alloc = h->buf_alloc;
	c->guest_taken = h->fwd_cnt;
	c->owes_response = true;
	link_conn(m, c);
	settle_fate(m, c, VSOCK_LIVES);
	return true;
}

void vsock_mux_take(struct vsock_mux *m, const struct iovec *iov, unsigned n)
{
	struct vsock_header h;
	struct vsock_conn *c;

	if (iov_to_buf(iov, n, 0, &h, sizeof(h)) < sizeof(h) || h.src_cid != m->guest_cid)
		return; /* nobody to answer */
	bool for_us = h.dst_cid == VSOCK_HOST_CID && h.type == VSOCK_STREAM;
	bool whole = h.op != VSOCK_RW || h.len <= iov_bytes(iov, n) - sizeof(h);
	c = for_us ? find_conn(m, h.dst_port, h.src_port) : NULL;
	if (c)
		settle_fate(m, c, whole ? vsock_conn_take(c, &h, iov, n, sizeof(h)) : VSOCK_RESET);
	else if (h.op != VSOCK_RST && !(for_us && h.op == VSOCK_REQUEST && accept_guest(m, &h)))
		add_reset(m, (struct vsock_reset){ h.dst_cid, h.dst_port, h.src_port, h.type });
}

/* ---- to the guest ---- */

bool vsock_mux_next(struct vsock_mux *m, struct vsock_header *h, const struct iovec *iov, unsigned n)
{
	if (m->n_resets == 0 && m->sender) {
		struct vsock_conn *c = m->sender;
		remove_sender(m, c);
		int r = vsock_conn_next(c, h, iov, n);
		settle_fate(m, c, r < 0 ? VSOCK_RESET : VSOCK_LIVES);
		h->dst_cid = m->guest_cid;
		return r > 0;
	}
	if (m->n_resets == 0)
		return false;
	const struct vsock_reset *r = &m->reset[m->reset_head];
	*h = (struct vsock_header){
		.src_cid = r->cid,
		.dst_cid = m->guest_cid,
		.src_port = r->local_port,
		.dst_port = r->peer_port,
		.type = r->type,
		.op = VSOCK_RST,
	};
	m->reset_head = (m->reset_head + 1) % VSOCK_RESETS_MAX;
	m->n_resets--;
	return true;
}

/* ---- snapshots ---- */

void vsock_mux_each(const struct vsock_mux *m, void (*fn)(void *opaque, uint32_t local_port, uint32_t peer_port),
		    void *opaque)
{
	for (unsigned i = 0; i < VSOCK_HASHES; i++)
		for (const struct vsock_conn *c = m->hash[i]; c; c = c->next)
			if (vsock_conn_is_known(c))
				fn(opaque, c->local_port, c->peer_port);
	for (uint32_t i = 0; i < m->n_resets; i++) {
		const struct vsock_reset *r = &m->reset[(m->reset_head + i) % VSOCK_RESETS_MAX];
		if (r->cid == VSOCK_HOST_CID && r->type == VSOCK_STREAM)
			fn(opaque, r->local_port, r->peer_port);
	}
}

bool vsock_mux_lose(struct vsock_mux *m, uint32_t local_port, uint32_t peer_port)
{
	if (m->n_resets >= VSOCK_RESETS_MAX - VSOCK_CONNS_MAX)
		return false;
	add_reset(m, (struct vsock_reset){ VSOCK_HOST_CID, local_port, peer_port, VSOCK_STREAM });
	return true;
}

/* ---- life ---- */

static int bind_path(struct vsock_mux *m, const char *path, struct err *err)
{
	m->listen_fd = host_bind(path, "Error binding to the host-side Unix socket", &m->file, err);
	if (m->listen_fd < 0)
		return err->num;
	m->bound = true;
	return listen(m->listen_fd, SOMAXCONN) < 0 ? err_sys(err, ERR_INTERNAL, "listen on socket '%s'", path) : 0;
}

static int open_listener(struct vsock_mux *m, const char *path, int given, struct err *err)
{
	if (given == 0)
		return bind_path(m, path, err);
	m->owned = true;
	m->listen_fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	if (m->listen_fd < 0 || fcntl(m->listen_fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return err_sys(err, ERR_INTERNAL, "use descriptor %d", given);
	return 0;
}

int vsock_mux_init(struct vsock_mux *m, uint32_t guest_cid, const char *path, int listen_fd, struct err *err)
{
	m->guest_cid = guest_cid;
	m->path = path;
	if (!path[0])
		return err_set(err, ERR_INVALID, "the path of the vsock socket is empty");
	m->listen_fd = -1;
	m->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->epoll_fd < 0 || m->wake_fd < 0 ||
	    getrandom(&m->next_port, sizeof(m->next_port), GRND_NONBLOCK) != sizeof(m->next_port))
		return err_sys(err, ERR_INTERNAL, "make the vsock device");
	if (open_listener(m, path, listen_fd, err) < 0)
		return err->num;
	m->listens = true;
	if (watch(m, m->listen_fd, &m->listen_fd, EPOLLIN, EPOLL_CTL_ADD) < 0 ||
	    watch(m, m->wake_fd, &m->wake_fd, EPOLLIN, EPOLL_CTL_ADD) < 0)
		return err_sys(err, ERR_INTERNAL, "wait for vsock connections");
	return 0;
}

void vsock_mux_done(struct vsock_mux *m)
{
	vsock_mux_clear(m);
	if (m->bound)
		host_unbind(m->path, &m->file);
	if (m->listen_fd >= 0)
		close(m->listen_fd);
	if (m->wake_fd >= 0)
		close(m->wake_fd);
	if (m->epoll_fd >= 0)
		close(m->epoll_fd);
}
