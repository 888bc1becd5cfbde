// SPDX-License-Identifier: Apache-2.0
/* The listeners, the shares of connections, and the first byte of each connection. */
#include "forkd/front/accept.h"

#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/sock.h"
#include "forkd/errors.h"

enum { PEER_FDS_MAX = 1024 }; /* of all connections of a local caller who is not trusted */

TAILQ_HEAD(peers, peer);

struct listener {
	struct source source;
	struct acceptor *acceptor;
	struct accept_listener from;
};

struct acceptor {
	struct accept_options opt;
	struct listener listeners[ACCEPT_LISTENERS_MAX];
	atomic_bool stopping;
	pthread_mutex_t lock; /* guards the shares */
	struct {
		struct peers unproven, others;
		unsigned n; /* connections that are given up do not count */
	} shares[N_SHARES];
};

static void close_fds(struct peer *p)
{
	for (uint32_t i = 0; i < p->n_fds; i++)
		sock_close_sent(p->fds[i]);
	free(p->fds);
	p->fds = NULL;
	p->n_fds = 0;
}

/* ---- shares ---- */

static struct peers *list_of(struct peer *p)
{
	return p->unproven ? &p->acceptor->shares[p->share].unproven : &p->acceptor->shares[p->share].others;
}

static void move_locked(struct peer *p, bool unproven)
{
	TAILQ_REMOVE(list_of(p), p, link);
	p->unproven = unproven;
	TAILQ_INSERT_TAIL(list_of(p), p, link);
}

static void discard(const struct peer *p)
{
	if (p->caller.local)
		sock_discard(p->fd);
}

void peer_close(struct peer *p)
{
	struct acceptor *a = p->acceptor;

	discard(p);
	pool_forget(a->opt.pool, &p->source);
	pthread_mutex_lock(&a->lock);
	TAILQ_REMOVE(list_of(p), p, link);
	if (!p->given_up)
		a->shares[p->share].n--;
	pthread_mutex_unlock(&a->lock);
	close(p->fd); /* not before: whoever gives a connection up uses its number */
	close_fds(p);
	free(p);
}

bool peer_gone(const struct peer *p)
{
	struct pollfd poller = { .fd = p->fd, .events = p->caller.local ? 0 : POLLRDHUP };

	return poll(&poller, 1, 0) > 0;
}

void peer_proven(struct peer *p)
{
	pthread_mutex_lock(&p->acceptor->lock);
	if (p->unproven)
		move_locked(p, false);
	pthread_mutex_unlock(&p->acceptor->lock);
}

/* Shuts a connection down. Whoever has the connection sees its end, and closes it. */
static void give_up_locked(struct peer *p)
{
	shutdown(p->fd, SHUT_RDWR);
	move_locked(p, false);
	p->given_up = true;
	p->acceptor->shares[p->share].n--;
}

/* What all connections of one peer have together. */
struct holding {
	unsigned n, n_fds;
	struct peer *oldest_unproven;
};

static void add_holding(const struct peers *list, uint64_t who, struct holding *h)
{
	for (struct peer *p = TAILQ_FIRST(list); p; p = TAILQ_NEXT(p, link)) {
		if (p->given_up || p->who != who)
			continue;
		h->n++;
		h->n_fds += p->had_fds;
		if (p->unproven && !h->oldest_unproven)
			h->oldest_unproven = p;
	}
}

static struct holding holding_locked(const struct acceptor *a, const struct peer *p)
{
	struct holding h = {};

	add_holding(&a->shares[p->share].unproven, p->who, &h);
	add_holding(&a->shares[p->share].others, p->who, &h);
	return h;
}

/*
 * Puts a new connection into its share, perhaps in the place of an unproven connection. E_BUSY:
 * there is no room.
 */
static int enter_locked(struct acceptor *a, struct peer *p, struct err *err)
{
	const unsigned max = a->opt.max_connections, peer_max = max / 2;
	struct peer *victim = NULL;

	if (p->share != SHARE_TRUSTED) {
		const struct holding own = holding_locked(a, p);
		victim = own.n >= peer_max ? own.oldest_unproven : NULL;
		if (own.n >= peer_max && !victim)
			return fail(err, E_BUSY, "you have %u connections already", own.n);
	}
	if (!victim && a->shares[p->share].n >= max) {
		victim = TAILQ_FIRST(&a->shares[p->share].unproven);
		if (!victim)
			return fail(err, E_BUSY, "there are %u connections already", max);
	}
	if (victim)
		give_up_locked(victim);
	a->shares[p->share].n++;
	TAILQ_INSERT_TAIL(list_of(p), p, link);
	return 0;
}

/* ---- deadlines ---- */

static uint64_t allowed_ns(const struct acceptor *a, enum share share)
{
	return (share == SHARE_REMOTE ? a->opt.token_s : a->opt.idle_s) * 1000000000ULL;
}

uint64_t acceptor_expire(struct acceptor *a, uint64_t now)
{
	uint64_t next = UINT64_MAX;

	pthread_mutex_lock(&a->lock);
	for (enum share i = 0; i < N_SHARES; i++) {
		struct peer *p;
		while ((p = TAILQ_FIRST(&a->shares[i].unproven)) && p->at_ns + allowed_ns(a, i) <= now)
			give_up_locked(p);
		if (p && p->at_ns + allowed_ns(a, i) < next)
			next = p->at_ns + allowed_ns(a, i);
	}
	pthread_mutex_unlock(&a->lock);
	return next;
}

/* ---- a new connection ---- */

/* Answers that there are too many connections, and closes. What the client sent is not looked at. */
static void turn_away(const struct peer *p, const struct err *err)
{
	autostrbuf struct strbuf body = {};
	autostrbuf struct strbuf text = {};

	error_body(err, &body);
	strbuf_printf(&text,
		      "HTTP/1.1 %u Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\n"
		      "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		      error_info(err)->status, body.len);
	strbuf_add(&text, body.text, body.len);
	if (!text.failed && send(p->fd, text.text, text.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("http: a connection was turned away: %s", body.text);
	shutdown(p->fd, SHUT_WR);
	discard(p);
	close(p->fd);
}

/*
 * The number by which a remote peer is counted: an IPv4 address, also when an IPv6 socket shows it;
 * or the network of an IPv6 address, because a host may have any number of addresses in its
 * network.
 */
static uint64_t address_number(const struct sockaddr_storage *addr)
{
	const struct sockaddr_in6 *in6 = (const void *)addr;
	const struct sockaddr_in *in = (const void *)addr;
	uint64_t network;
	uint32_t v4;

	if (addr->ss_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
		memcpy(&network, &in6->sin6_addr, sizeof(network));
		return be64toh(network);
	}
	if (addr->ss_family == AF_INET6)
		memcpy(&v4, &in6->sin6_addr.s6_addr[12], sizeof(v4));
	else
		v4 = in->sin_addr.s_addr;
	return 0xffffULL << 32 | ntohl(v4);
}

static void identify_remote(struct peer *p, const struct sockaddr_storage *addr)
{
	int on = 1;

	setsockopt(p->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	p->share = SHARE_REMOTE;
	p->who = address_number(addr);
}

static void identify_local(struct peer *p)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(p->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		cred = (struct ucred){ .uid = (uid_t)-1, .gid = (gid_t)-1 };
	p->caller = (struct caller){
		.local = true,
		.trusted = cred.uid == 0 || cred.uid == geteuid(),
		.uid = cred.uid,
		.gid = cred.gid,
		.pid = cred.pid,
	};
	p->share = p->caller.trusted ? SHARE_TRUSTED : SHARE_LOCAL;
	p->who = cred.uid;
}

static bool on_first_byte(struct source *s, unsigned why);

static void add_peer(struct acceptor *a, const struct accept_listener *from, int fd,
		     const struct sockaddr_storage *addr)
{
	struct peer *p = calloc(1, sizeof(*p));
	struct err err = {};

	if (!p) {
		close(fd);
		return;
	}
	*p = (struct peer){ .fd = fd, .tls = from->tls, .acceptor = a, .unproven = true };
	p->source.ready = on_first_byte;
	p->first_ns = p->at_ns = monotonic_ns();
	if (from->local)
		identify_local(p);
	else
		identify_remote(p, addr);
	if (pool_add(a->opt.pool, &p->source, fd, &err) < 0) {
		close(fd);
		free(p);
		return;
	}
	pthread_mutex_lock(&a->lock);
	int r = enter_locked(a, p, &err);
	pthread_mutex_unlock(&a->lock);
	if (r < 0) {
		pool_forget(a->opt.pool, &p->source);
		turn_away(p, &err);
		free(p);
		return;
	}
	pool_wake_at(a->opt.pool, p->at_ns + allowed_ns(a, p->share));
	pool_begin(a->opt.pool, &p->source, EPOLLIN | EPOLLRDHUP);
}

/* Waits a moment, when the daemon has too many files open: the listener stays readable. */
static void wait_for_files(struct acceptor *a)
{
	log_warn("http: cannot accept a connection: %s", strerror(errno));
	if (pool_another(a->opt.pool))
		usleep(50000);
}

static void accept_all(struct acceptor *a, const struct accept_listener *from)
{
	while (!atomic_load(&a->stopping)) {
		struct sockaddr_storage addr = {};
		socklen_t len = sizeof(addr);
		int fd = accept4(from->fd, (struct sockaddr *)(void *)&addr, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
			wait_for_files(a);
			return;
		}
		if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINVAL || errno == EBADF))
			return;
		if (fd >= 0) /* < 0: this connection is gone already */
			add_peer(a, from, fd, &addr);
	}
}

static bool on_listener(struct source *s, unsigned why)
{
	struct listener *l = container_of(s, struct listener, source);

	if (why & POOL_STOP) {
		pool_forget(l->acceptor->opt.pool, s);
		return false;
	}
	accept_all(l->acceptor, &l->from);
	if (!atomic_load(&l->acceptor->stopping))
		pool_arm(l->acceptor->opt.pool, s, 0, EPOLLIN);
	return true;
}

/* ---- the first byte ---- */

static bool keep_fds(struct peer *p, const struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		uint32_t n = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		int *fds = reallocarray(p->fds, p->n_fds + n, sizeof(int));
		if (!fds) {
			const int *lost = (const int *)(const void *)CMSG_DATA(c);
			for (uint32_t i = 0; i < n; i++)
				sock_close_sent(lost[i]);
			return false;
		}
		p->fds = fds;
		memcpy(fds + p->n_fds, CMSG_DATA(c), n * sizeof(int));
		p->n_fds += n;
	}
	return true;
}

/*
 * Whether a caller's connections have too many descriptors together. Descriptors that a caller
 * sends stay open until the request ends.
 */
static bool too_many_fds(struct peer *p)
{
	if (p->share == SHARE_TRUSTED)
		return false;
	pthread_mutex_lock(&p->acceptor->lock);
	const struct holding own = holding_locked(p->acceptor, p);
	pthread_mutex_unlock(&p->acceptor->lock);
	return own.n_fds + p->n_fds > PEER_FDS_MAX;
}

/*
 * Takes the first byte with the descriptors that came with it; on TCP, where none can come, the byte
 * stays in the socket. False: no byte will come.
 */
static bool take_first(struct peer *p)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * SOCK_FDS_MAX)];
	} control;
	struct iovec iov = { .iov_base = &p->first, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = p->caller.local ? &control : NULL,
		.msg_controllen = p->caller.local ? sizeof(control) : 0,
	};
	ssize_t n;

	do
		n = recvmsg(p->fd, &msg, (p->caller.local ? 0 : MSG_PEEK) | MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return false;
	if (p->caller.local) {
		p->lost_fds = !keep_fds(p, &msg) || (msg.msg_flags & MSG_CTRUNC) || too_many_fds(p);
		p->had_fds = p->n_fds;
		if (p->lost_fds)
			close_fds(p);
	}
	p->first_ns = monotonic_ns();
	return true;
}

static bool on_first_byte(struct source *s, unsigned why)
{
	struct peer *p = container_of(s, struct peer, source);

	if ((why & POOL_STOP) || !take_first(p)) {
		peer_close(p);
		return false;
	}
	if (p->caller.local)
		peer_proven(p);
	return p->acceptor->opt.spoken(p->acceptor->opt.arg, p);
}

/* ---- start and stop ---- */

int acceptor_new(const struct accept_options *opt, struct acceptor **ret, struct err *err)
{
	struct acceptor *a = calloc(1, sizeof(*a));

	if (!a)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start to accept connections");
	a->opt = *opt;
	pthread_mutex_init(&a->lock, NULL);
	for (enum share i = 0; i < N_SHARES; i++) {
		TAILQ_INIT(&a->shares[i].unproven);
		TAILQ_INIT(&a->shares[i].others);
	}
	*ret = a;
	return 0;
}

int acceptor_start(struct acceptor *a, struct err *err)
{
	for (unsigned i = 0; i < a->opt.n_listeners; i++) {
		struct listener *l = &a->listeners[i];
		*l = (struct listener){ .source.ready = on_listener, .acceptor = a, .from = a->opt.listeners[i] };
		if (pool_add(a->opt.pool, &l->source, l->from.fd, err) < 0)
			return err->num;
		pool_begin(a->opt.pool, &l->source, EPOLLIN);
	}
	return 0;
}

void acceptor_stop(struct acceptor *a)
{
	atomic_store(&a->stopping, true);
}

void acceptor_free(struct acceptor *a)
{
	if (!a)
		return;
	pthread_mutex_destroy(&a->lock);
	free(a);
}
