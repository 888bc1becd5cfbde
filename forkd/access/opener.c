// SPDX-License-Identifier: Apache-2.0
/* open.sock: opens directories and connects sockets for VM processes. */
#include "forkd/access/opener.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/ctl.h"
#include "common/log.h"
#include "forkd/access/as_caller.h"
#include "forkd/access/policy.h"
#include "forkd/errors.h"
#include "forkd/registry/registry.h"

enum { CONNECTIONS_MAX = 64, FIRST = 2, SEND_TIMEOUT_S = 1 };

struct opener {
	struct forkd *d;
	pthread_t thread;
	struct pollfd fds[FIRST + CONNECTIONS_MAX]; /* wake-up, listener, connections */
	unsigned n;
};

/*
 * Checks that the process at the other end is that of clone `id` (else E_FORBIDDEN), and finds the
 * clone's owner. *ret_vsock, unless ret_vsock is NULL, gets a copy of the path of the clone's vsock
 * socket, if the clone has one.
 */
static int find_owner(struct forkd *d, int fd, const char *id, struct caller *ret, char **ret_vsock, struct err *err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return err_sys(err, ERR_INTERNAL, "ask who is there");
	struct clone *c = registry_find(d->registry, id);
	bool same = c && c->record.pid == (uint32_t)peer.pid && clone_state(d->registry, c) != CLONE_EXITED;
	if (same)
		*ret = caller_from_owner(c->record.uid, c->record.gid);
	if (same && ret_vsock && c->record.vsock_socket)
		*ret_vsock = strdup(c->record.vsock_socket);
	clone_unref(d->registry, c);
	return same ? 0 : fail(err, E_FORBIDDEN, "process %d is not that of a clone '%.64s'", peer.pid, id);
}

/* ---- a guest's connection to a vsock port of the host ---- */

struct socket_beside {
	const char *dir, *name;
};

/*
 * Runs in a child of as_caller(), so chdir() does not change the daemon's working directory. A link
 * that replaces the socket after the check leads nowhere that the owner may not go.
 */
static int connect_beside(const void *arg)
{
	const struct socket_beside *s = arg;
	struct err err = {};
	struct stat st;

	if (strlen(s->name) > SOCK_PATH_MAX)
		return -ENAMETOOLONG;
	if (chdir(s->dir) < 0 || lstat(s->name, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return sock_connect(fd, s->name, &err) < 0 ? err.num : fd;
}

static int connect_to(const struct caller *owner, const char *vsock, uint32_t port, int *ret_fd, struct err *err)
{
	const char *slash = vsock ? strrchr(vsock, '/') : NULL;
	char dir[SOCK_PATH_MAX + 2], name[sizeof(dir) + 16]; /* a bound socket's path is no longer */

	if (!slash)
		return fail(err, E_INVALID, "this clone has no vsock socket");
	if (strlen(vsock) >= sizeof(dir))
		return fail(err, E_INVALID, "vsock socket '%s': its path is too long", vsock);
	snprintf(dir, sizeof(dir), "%.*s", (int)(slash - vsock + 1), vsock);
	snprintf(name, sizeof(name), "%s_%u", slash + 1, port);
	const struct socket_beside what = { dir, name };
	/* A clone that was made with the token has no owner on this host: its sockets are the daemon's. */
	int fd = as_caller(owner->local ? owner->uid : geteuid(), owner->local ? owner->gid : getegid(), connect_beside,
			   &what);
	if (fd < 0)
		return err_num(err, ERR_INVALID, -fd, "connect to '%s_%u' as user %u", vsock, port, owner->uid);
	*ret_fd = fd;
	return 0;
}

static int connect_port(struct forkd *d, int fd, const struct json_node *root, int *ret_fd, struct err *err)
{
	autofree char *vsock = NULL;
	struct ctl_connect rq;
	struct caller owner;

	fields_init(ctl_connect_fields, &rq);
	if (fields_load(ctl_connect_fields, &rq, root, "connect", err) < 0)
		return err->num;
	int r = find_owner(d, fd, rq.id, &owner, &vsock, err);
	if (r >= 0)
		r = connect_to(&owner, vsock, rq.port, ret_fd, err);
	fields_free(ctl_connect_fields, &rq);
	return r;
}

/* What run_request() answers with: a descriptor, and for a directory its files' owner. */
struct answer {
	int fd;
	bool is_dir;
	struct ctl_dir dir;
};

static int run_request(struct forkd *d, int fd, const struct ctl_packet *p, struct answer *ret, struct err *err)
{
	const struct json_node *root = &p->json.nodes[0], *op = json_get(root, "op");
	struct ctl_open_dir rq;
	struct caller owner;

	if (!op || op->type != JSON_STRING)
		return fail(err, E_INVALID, "a request has an 'op'");
	if (strcmp(op->str, "connect") == 0)
		return connect_port(d, fd, root, &ret->fd, err);
	if (strcmp(op->str, "open_dir") != 0)
		return fail(err, E_INVALID, "this socket knows 'open_dir' and 'connect', not '%.32s'", op->str);
	fields_init(ctl_open_dir_fields, &rq);
	if (fields_load(ctl_open_dir_fields, &rq, root, "open_dir", err) < 0)
		return err->num;
	int r = find_owner(d, fd, rq.id, &owner, NULL, err);
	if (r >= 0)
		r = policy_open_dir(d->policy, &owner, rq.path, &ret->fd, err);
	ret->is_dir = r >= 0;
	if (r >= 0 && !owner.trusted)
		ret->dir = (struct ctl_dir){ owner.uid, owner.gid };
	fields_free(ctl_open_dir_fields, &rq);
	return r;
}

/* Serves one request. False: the connection is over. */
static bool serve_connection(struct forkd *d, int fd)
{
	autoctl struct ctl_packet p = {};
	autostrbuf struct strbuf out = {};
	struct answer answer = { -1, false, { UINT32_MAX, UINT32_MAX } };
	struct err err = {};

	int r = ctl_recv(fd, &p, &err);
	if (r == -EAGAIN)
		return true;
	if (r <= 0)
		return false;
	if (run_request(d, fd, &p, &answer, &err) < 0)
		ctl_reply_error(&out, &err);
	else
		ctl_reply(&out, answer.is_dir ? ctl_dir_fields : NULL, &answer.dir);
	autoclose int opened = answer.fd;
	return ctl_send(fd, &out, &opened, opened >= 0 ? 1 : 0, &err) >= 0;
}

static void greet(struct opener *o)
{
	const struct timeval patience = { .tv_sec = SEND_TIMEOUT_S };
	int fd = accept4(o->fds[1].fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0) {
		close(fd);
		return;
	}
	if (o->n == ARRAY_LEN(o->fds)) { /* the first, mostly the oldest, goes: so nobody can keep others out */
		close(o->fds[FIRST].fd);
		memmove(&o->fds[FIRST], &o->fds[FIRST + 1], (CONNECTIONS_MAX - 1) * sizeof(o->fds[0]));
		o->n--;
	}
	o->fds[o->n++] = (struct pollfd){ .fd = fd, .events = POLLIN };
}

static void *opener_main(void *arg)
{
	struct opener *o = arg;

	log_thread_name("opener");
	while (!o->d->stopping) {
		if (poll(o->fds, o->n, -1) < 0)
			continue;
		for (unsigned i = o->n; i-- > FIRST;) {
			if (!o->fds[i].revents || serve_connection(o->d, o->fds[i].fd))
				continue;
			close(o->fds[i].fd);
			o->fds[i] = o->fds[--o->n];
		}
		if (o->fds[1].revents)
			greet(o);
	}
	return NULL;
}

static int listen_at(const char *path, int *ret_fd, struct err *err)
{
	unlink(path); /* this daemon has the runtime directory's lock: no other daemon listens here */
	autoclose int fd = sock_bind(path, SOCK_SEQPACKET, 0600, NULL);
	if (fd == -ENAMETOOLONG)
		return err_set(err, ERR_INVALID, "the socket path '%s' is too long", path);
	if (fd < 0)
		return err_num(err, ERR_INTERNAL, -fd, "listen at '%s'", path);
	if (listen(fd, SOMAXCONN) < 0)
		return err_sys(err, ERR_INTERNAL, "listen at '%s'", path);
	*ret_fd = steal_fd(&fd);
	return 0;
}

static void opener_free(struct opener *o)
{
	for (unsigned i = 0; i < o->n; i++)
		if (o->fds[i].fd >= 0)
			close(o->fds[i].fd);
	free(o);
}

int opener_start(struct forkd *d, struct opener **ret, struct err *err)
{
	struct opener *o = calloc(1, sizeof(*o));

	if (!o)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start the open service");
	o->d = d;
	o->n = FIRST;
	o->fds[0] = (struct pollfd){ .fd = eventfd(0, EFD_CLOEXEC), .events = POLLIN };
	o->fds[1] = (struct pollfd){ .fd = -1, .events = POLLIN };
	int r = o->fds[0].fd < 0 ? err_sys(err, ERR_INTERNAL, "start the open service")
				 : listen_at(d->open_socket, &o->fds[1].fd, err);
	int num = r < 0 ? 0 : pthread_create(&o->thread, NULL, opener_main, o);
	if (num != 0)
		r = err_num(err, ERR_INTERNAL, num, "start the open service");
	if (r < 0)
		opener_free(o);
	else
		*ret = o;
	return r;
}

void opener_stop(struct opener *o)
{
	const uint64_t one = 1;

	if (!o)
		return;
	o->d->stopping = true;
	if (write(o->fds[0].fd, &one, sizeof(one)) < 0)
		log_warn("wake the open service: %s", strerror(errno));
	pthread_join(o->thread, NULL);
	opener_free(o);
}
