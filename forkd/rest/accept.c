// SPDX-License-Identifier: Apache-2.0
/* The accept thread. */
#include "forkd/rest/accept.h"

#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/sock.h"
#include "forkd/errors.h"

enum {
	EVENTS_MAX = 64,
	PEER_FDS_MAX = 1024, /* of all connections of a local caller who is not trusted */
};

TAILQ_HEAD(peers, peer);

struct acceptor {
	struct accept_options opt;
	int epoll_fd, stop_fd;
	pthread_t thread;
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

static void free_locked(struct peer *p)
{
	TAILQ_REMOVE(list_of(p), p, link);
	if (!p->given_up)
		p->acceptor->shares[p->share].n--;
	close_fds(p);
	free(p);
}

void peer_free(struct peer *p)
{
	if (!p)
		return;
	struct acceptor *a = p->acceptor;
	pthread_mutex_lock(&a->lock);
	free_locked(p);
	pthread_mutex_unlock(&a->lock);
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

void peer_discard(const struct peer *p)
{
	if (p->caller.local)
		sock_discard(p->fd);
}

static void drop(struct peer *p)
{
	peer_discard(p);
	close(p->fd);
	peer_free(p);
}

/* ---- a new connection ---- */

/* Answers that there are too many connections, and closes. What the client sent is not looked at. */
static void turn_away(const struct peer *p, const struct err *err)
{
	autostrbuf struct strbuf body = {};
	autostrbuf struct strbuf text = {};

	error_json(err, &body);
	strbuf_printf(&text,
		      "HTTP/1.1 %u Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\n"
		      "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		      error_info(err)->status, body.len);
	strbuf_add(&text, body.text, body.len);
	if (!text.failed && send(p->fd, text.text, text.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("http: a connection was turned away: %s", body.text);
	shutdown(p->fd, SHUT_WR);
	peer_discard(p);
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
	p->first_ns = p->at_ns = monotonic_ns();
	if (from->local)
		identify_local(p);
	else
		identify_remote(p, addr);
	pthread_mutex_lock(&a->lock);
	int r = enter_locked(a, p, &err);
	pthread_mutex_unlock(&a->lock);
	if (r < 0) {
		turn_away(p, &err);
		free(p);
		return;
	}
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP, .data.ptr = p };
	if (epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		drop(p);
}

static void accept_all(struct acceptor *a, const struct accept_listener *from)
{
	for (;;) {
		struct sockaddr_storage addr = {};
		socklen_t len = sizeof(addr);
		int fd = accept4(from->fd, (struct sockaddr *)(void *)&addr, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
			log_warn("http: cannot accept a connection: %s", strerror(errno));
			usleep(50000); /* the listener stays readable: this avoids a busy loop */
			return;
		}
		if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINVAL || errno == EBADF))
			return;
		if (fd >= 0) /* < 0: this connection is gone already */
			add_peer(a, from, fd, &addr);
	}
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
 * Looks at the first byte and keeps the descriptors that came with it. The byte stays in the socket
 * for libmicrohttpd's recv(), which drops the descriptors. This function looks only once, because
 * each look gives further duplicates of the descriptors. False: no byte will come.
 */
static bool peek(struct peer *p)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * SOCK_FDS_MAX)];
	} control;
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = p->caller.local ? &control : NULL,
		.msg_controllen = p->caller.local ? sizeof(control) : 0,
	};
	ssize_t n;

	do
		n = recvmsg(p->fd, &msg, MSG_PEEK | MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
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

static void on_peer(struct acceptor *a, struct peer *p)
{
	epoll_ctl(a->epoll_fd, EPOLL_CTL_DEL, p->fd, NULL);
	if (p->given_up || !peek(p)) {
		drop(p);
		return;
	}
	if (p->caller.local)
		peer_proven(p);
	p->spoken = true;
	a->opt.spoken(a->opt.arg, p);
}

/* ---- the thread ---- */

/*
 * Gives up the connections of a share that were unproven for too long. Returns how long it takes
 * until the next one, in ns; UINT64_MAX: there is none.
 */
static uint64_t expire_locked(struct acceptor *a, enum share share, uint64_t now)
{
	const uint64_t allowed_ns = (share == SHARE_REMOTE ? a->opt.token_s : a->opt.idle_s) * 1000000000ULL;
	struct peer *p;

	while ((p = TAILQ_FIRST(&a->shares[share].unproven))) {
		if (now - p->at_ns < allowed_ns)
			return p->at_ns + allowed_ns - now;
		give_up_locked(p);
	}
	return UINT64_MAX;
}

/*
 * Gives up what has expired in all shares. Returns the time until the next connection expires, in
 * ms; -1: none will.
 */
static int expire(struct acceptor *a)
{
	uint64_t now = monotonic_ns(), soonest = UINT64_MAX;

	pthread_mutex_lock(&a->lock);
	for (enum share i = 0; i < N_SHARES; i++) {
		uint64_t next = expire_locked(a, i, now);
		soonest = next < soonest ? next : soonest;
	}
	pthread_mutex_unlock(&a->lock);
	return soonest == UINT64_MAX ? -1 : (int)(soonest / 1000000) + 1;
}

static const struct accept_listener *find_listener(const struct acceptor *a, const void *ptr)
{
	for (unsigned i = 0; i < a->opt.n_listeners; i++)
		if (ptr == &a->opt.listeners[i])
			return &a->opt.listeners[i];
	return NULL;
}

static void *accept_thread(void *arg)
{
	struct acceptor *a = arg;

	log_thread_name("accept");
	for (;;) {
		struct epoll_event events[EVENTS_MAX];
		int n = epoll_wait(a->epoll_fd, events, EVENTS_MAX, expire(a));
		for (int i = 0; i < n; i++) {
			void *ptr = events[i].data.ptr;
			const struct accept_listener *listener = find_listener(a, ptr);
			if (!ptr)
				return NULL; /* stop_fd */
			if (listener)
				accept_all(a, listener);
			else
				on_peer(a, ptr);
		}
	}
}

static int watch(struct acceptor *a, int fd, void *ptr, struct err *err)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = ptr };

	return epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0
		       ? err_sys(err, ERR_INTERNAL, "watch descriptor %d", fd)
		       : 0;
}

static int begin(struct acceptor *a, struct err *err)
{
	a->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	a->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (a->epoll_fd < 0 || a->stop_fd < 0)
		return err_sys(err, ERR_INTERNAL, "start to accept connections");
	if (watch(a, a->stop_fd, NULL, err) < 0)
		return err->num;
	for (unsigned i = 0; i < a->opt.n_listeners; i++)
		if (watch(a, a->opt.listeners[i].fd, &a->opt.listeners[i], err) < 0)
			return err->num;
	int num = pthread_create(&a->thread, NULL, accept_thread, a);
	return num ? err_num(err, ERR_INTERNAL, num, "start the accept thread") : 0;
}

int acceptor_start(const struct accept_options *opt, struct acceptor **ret, struct err *err)
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
	a->epoll_fd = a->stop_fd = -1;
	if (begin(a, err) < 0) {
		acceptor_free(a);
		return err->num;
	}
	*ret = a;
	return 0;
}

static void drop_unspoken_locked(struct peers *list)
{
	struct peer *p = TAILQ_FIRST(list);

	while (p) {
		struct peer *next = TAILQ_NEXT(p, link);
		if (!p->spoken) {
			peer_discard(p);
			close(p->fd);
			free_locked(p);
		}
		p = next;
	}
}

void acceptor_stop(struct acceptor *a)
{
	if (eventfd_write(a->stop_fd, 1) < 0)
		return;
	pthread_join(a->thread, NULL);
	pthread_mutex_lock(&a->lock);
	for (enum share i = 0; i < N_SHARES; i++) {
		drop_unspoken_locked(&a->shares[i].unproven);
		drop_unspoken_locked(&a->shares[i].others);
	}
	pthread_mutex_unlock(&a->lock);
}

void acceptor_free(struct acceptor *a)
{
	if (!a)
		return;
	if (a->epoll_fd >= 0)
		close(a->epoll_fd);
	if (a->stop_fd >= 0)
		close(a->stop_fd);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
