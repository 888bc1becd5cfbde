// SPDX-License-Identifier: Apache-2.0
/* Listens, accepts, and decides who has to go when there are too many. */
#include "guest/server.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
/* needs what stands above it */
#include <linux/vm_sockets.h>

#include "common/log.h"
#include "guest/http_internal.h"

void server_init(struct server *s, struct agent *agent, const struct route *routes)
{
	http_parser_set_max_header_size(LIMIT_HEAD);
	*s = (struct server){ .agent = agent, .routes = routes, .spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC) };
}

static void refuse(int fd)
{
	static const char full[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
				   "Content-Length: 54\r\nConnection: close\r\n\r\n"
				   "{\"code\":503,\"message\":\"too many connections are open\"}";

	(void)!send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

/* Makes room for one more connection. */
static bool make_room(struct server *s)
{
	struct connection *oldest = NULL;
	uint64_t since, earliest = UINT64_MAX;

	if (s->n_connections < LIMIT_CONNECTIONS)
		return true;
	for (struct connection *c = s->connections; c; c = c->next) {
		if (connection_is_idle(c, &since) && since < earliest) {
			earliest = since;
			oldest = c;
		}
	}
	if (oldest)
		connection_free(oldest);
	return oldest;
}

void server_accept(struct server *s, int fd)
{
	if (make_room(s))
		(void)connection_new(s, fd);
	else
		refuse(fd);
}

static bool is_host(const struct sockaddr_storage *peer)
{
	const struct sockaddr_vm *vm = (const struct sockaddr_vm *)(const void *)peer;

	return vm->svm_family == AF_VSOCK && vm->svm_cid == VMADDR_CID_HOST;
}

/* No descriptor number is left: the client is told so, instead of the loop turning round and round. */
static void refuse_one(struct server *s, int listen_fd)
{
	close(s->spare_fd);
	const int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		refuse(fd);
	s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void on_listener(struct watch *w, uint32_t events)
{
	struct listener *l = container_of(w, struct listener, watch);
	struct sockaddr_storage peer = {};
	socklen_t len = sizeof(peer);

	(void)events;
	const int fd = accept4(w->fd, (struct sockaddr *)(void *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && (errno == EMFILE || errno == ENFILE))
		return refuse_one(l->server, w->fd);
	if (fd < 0)
		return;
	if (l->host_only && !is_host(&peer)) {
		log_guest(LOG_WARN, "a connection that is not the host's was closed");
		close(fd);
		return;
	}
	server_accept(l->server, fd);
}

/* Takes `fd` over. */
static int add_listener(struct server *s, int fd, bool host_only, struct err *err)
{
	autoclose int own = fd;

	if (s->n_listeners == SERVER_LISTENERS)
		return err_set(err, ERR_INTERNAL, "%d listeners are the most", SERVER_LISTENERS);
	struct listener *l = &s->listeners[s->n_listeners];
	*l = (struct listener){
		.watch = { .fd = fd, .ready = on_listener },
		.server = s,
		.host_only = host_only,
	};
	if (loop_add(&s->agent->loop, &l->watch, EPOLLIN, err) < 0)
		return err->num;
	s->n_listeners++;
	steal_fd(&own);
	return 0;
}

int server_listen_vsock(struct server *s, unsigned port, struct err *err)
{
	const struct sockaddr_vm addr = { .svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY };
	autoclose int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || bind(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)) < 0 ||
	    listen(fd, SOMAXCONN) < 0)
		return err_sys(err, ERR_HOST, "listen on vsock port %u", port);
	return add_listener(s, steal_fd(&fd), true, err);
}

int server_listen_unix(struct server *s, const char *path, struct err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat st;

	if (*path == '\0' || strlen(path) >= sizeof(addr.sun_path))
		return err_set(err, ERR_INVALID, "socket path '%s' must have 1 to %zu bytes", path,
			       sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(path);
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || fchmod(fd, 0600) < 0 ||
	    bind(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)) < 0 || listen(fd, SOMAXCONN) < 0)
		return err_sys(err, ERR_INTERNAL, "listen at '%s'", path);
	return add_listener(s, steal_fd(&fd), false, err);
}

void server_done(struct server *s)
{
	while (s->connections)
		connection_free(s->connections);
	for (; s->n_listeners > 0; s->n_listeners--) {
		struct watch *w = &s->listeners[s->n_listeners - 1].watch;
		loop_del(&s->agent->loop, w);
		close(w->fd);
	}
	if (s->agent && s->spare_fd >= 0)
		close(s->spare_fd);
	*s = (struct server){ .spare_fd = -1 };
}
