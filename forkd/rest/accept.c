// SPDX-License-Identifier: Apache-2.0
/* The accept thread. */
#include "forkd/rest/accept.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/sock.h"
#include "forkd/errors.h"

enum { EVENTS_MAX = 64 };

struct acceptor {
	struct accept_options opt;
	int epoll_fd, stop_fd;
	pthread_t thread;
	atomic_uint n_peers;
	struct peer waiting; /* head of the ring of those that have not spoken */
};

static void close_fds(struct peer *p)
{
	for (uint32_t i = 0; i < p->n_fds; i++)
		if (p->fds[i] >= 0)
			close(p->fds[i]);
	free(p->fds);
	p->fds = NULL;
	p->n_fds = 0;
}

void peer_free(struct peer *p)
{
	if (!p)
		return;
	close_fds(p);
	atomic_fetch_sub(&p->acceptor->n_peers, 1);
	free(p);
}

static void unlink_peer(struct peer *p)
{
	p->prev->next = p->next;
	p->next->prev = p->prev;
}

static void drop(struct peer *p)
{
	unlink_peer(p);
	close(p->fd);
	peer_free(p);
}

/* ---- a new connection ---- */

/* Too many connections: says so and closes. What the client sent is left unread. */
static void turn_away(const struct acceptor *a, int fd)
{
	autostrbuf struct strbuf body = {};
	autostrbuf struct strbuf text = {};
	struct err err = {};

	fail(&err, E_BUSY, "there are %u connections already", a->opt.max_connections);
	error_json(&err, &body);
	strbuf_printf(&text,
		      "HTTP/1.1 %u Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\n"
		      "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		      error_info(&err)->status, body.len);
	strbuf_add(&text, body.text, body.len);
	if (!text.failed && send(fd, text.text, text.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("http: a connection was turned away: %s", body.text);
	shutdown(fd, SHUT_WR);
	close(fd);
}

static void identify(struct peer *p, bool local)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int on = 1;

	if (!local) {
		setsockopt(p->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
		return;
	}
	if (getsockopt(p->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		cred = (struct ucred){ .uid = (uid_t)-1, .gid = (gid_t)-1 };
	p->caller = (struct caller){
		.local = true,
		.trusted = cred.uid == 0 || cred.uid == geteuid(),
		.uid = cred.uid,
		.gid = cred.gid,
		.pid = cred.pid,
	};
}

static void add_peer(struct acceptor *a, const struct accept_listener *from, int fd)
{
	struct peer *p = calloc(1, sizeof(*p));

	if (!p) {
		close(fd);
		return;
	}
	*p = (struct peer){ .fd = fd, .tls = from->tls, .first_ns = monotonic_ns(), .acceptor = a };
	identify(p, from->local);
	p->prev = a->waiting.prev;
	p->next = &a->waiting;
	p->prev->next = p->next->prev = p;
	atomic_fetch_add(&a->n_peers, 1);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP, .data.ptr = p };
	if (epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		drop(p);
}

static void accept_all(struct acceptor *a, const struct accept_listener *from)
{
	for (;;) {
		int fd = accept4(from->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
			log_warn("http: cannot accept a connection: %s", strerror(errno));
			usleep(50000); /* it stays readable: not in a busy loop */
			return;
		}
		if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINVAL || errno == EBADF))
			return;
		if (fd < 0)
			continue; /* that connection is gone already */
		if (atomic_load(&a->n_peers) >= a->opt.max_connections)
			turn_away(a, fd);
		else
			add_peer(a, from, fd);
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
				close(lost[i]);
			return false;
		}
		p->fds = fds;
		memcpy(fds + p->n_fds, CMSG_DATA(c), n * sizeof(int));
		p->n_fds += n;
	}
	return true;
}

/*
 * Looks at the first byte, once: each look gives a further duplicate of the descriptors. The byte stays for the server's recv(),
 * which drops its own. False: no byte will come.
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
		p->lost_fds = !keep_fds(p, &msg) || (msg.msg_flags & MSG_CTRUNC);
		p->had_fds = p->n_fds > 0 || p->lost_fds;
		if (p->lost_fds)
			close_fds(p);
	}
	p->first_ns = monotonic_ns();
	return true;
}

static void on_peer(struct acceptor *a, struct peer *p)
{
	epoll_ctl(a->epoll_fd, EPOLL_CTL_DEL, p->fd, NULL);
	if (!peek(p)) {
		drop(p);
		return;
	}
	unlink_peer(p);
	a->opt.spoken(a->opt.arg, p);
}

/* ---- the thread ---- */

/* Closes those that were silent for too long; how long until the next, in ms. */
static int expire(struct acceptor *a)
{
	const uint64_t idle_ns = (uint64_t)a->opt.idle_s * 1000000000;

	while (a->waiting.next != &a->waiting) {
		uint64_t age = monotonic_ns() - a->waiting.next->first_ns;
		if (age < idle_ns)
			return (int)((idle_ns - age) / 1000000) + 1;
		drop(a->waiting.next);
	}
	return -1;
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
	a->waiting.next = a->waiting.prev = &a->waiting;
	a->epoll_fd = a->stop_fd = -1;
	if (begin(a, err) < 0) {
		acceptor_free(a);
		return err->num;
	}
	*ret = a;
	return 0;
}

void acceptor_stop(struct acceptor *a)
{
	if (eventfd_write(a->stop_fd, 1) < 0)
		return;
	pthread_join(a->thread, NULL);
	while (a->waiting.next != &a->waiting)
		drop(a->waiting.next);
}

void acceptor_free(struct acceptor *a)
{
	if (!a)
		return;
	if (a->epoll_fd >= 0)
		close(a->epoll_fd);
	if (a->stop_fd >= 0)
		close(a->stop_fd);
	free(a);
}
