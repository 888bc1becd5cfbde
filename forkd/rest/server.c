// SPDX-License-Identifier: Apache-2.0
/*
 * The server: its connections, the functions that libmicrohttpd calls in each connection's thread,
 * start and stop. A request is refused early and answered late: the request's body is read and
 * dropped before the answer, so that the client gets the answer and the connection stays usable.
 */
#include "forkd/rest/server.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/rest/server_private.h"

enum {
	STACK_BYTES = 256 * 1024,
	CONNECTION_BYTES = 64 * 1024, /* request line and headers */
	STOP_WAIT_S = 10,
	MAX_CONNECTIONS = 1024,
	IDLE_S = 60,
	TOKEN_S = 10,
};

/* ---- what libmicrohttpd calls ---- */

/* Called by libmicrohttpd when the headers have come, for each part of the body, and at the end. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
				  const char *version, const char *data, size_t *len, void **slot)
{
	struct exchange *ex = *slot;

	(void)cls;
	(void)url;
	(void)version;
	if (!ex)
		return MHD_NO;
	if (!ex->begun) {
		exchange_begin(ex, connection, method);
		if (!ex->err.code || !exchange_asks_first(ex))
			return MHD_YES;
		ex->close = true;
		return exchange_answer(ex);
	}
	if (*len > 0) {
		bool more = exchange_take(ex, data, *len);
		*len = 0;
		return more ? MHD_YES : MHD_NO;
	}
	return exchange_answer(ex);
}

/* Called by libmicrohttpd when the request line has come. */
static void *on_target(void *cls, const char *target, struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct exchange *ex = info && info->socket_context ? calloc(1, sizeof(*ex)) : NULL;

	if (!ex)
		return NULL;
	ex->server = cls;
	ex->peer = info->socket_context;
	ex->target = strdup(target);
	if (!ex->target) {
		free(ex);
		return NULL;
	}
	ex->rq.accepted_ns = ex->peer->first_ns ? ex->peer->first_ns : monotonic_ns();
	ex->peer->first_ns = 0; /* the connection's next request has its own time */
	return ex;
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **slot,
			 enum MHD_RequestTerminationCode code)
{
	struct exchange *ex = *slot;

	(void)cls;
	(void)connection;
	(void)code;
	if (!ex)
		return;
	*slot = NULL;
	exchange_not_running(ex);
	exchange_done(ex);
	free(ex);
}

/* ---- connections ---- */

static struct peer **peer_slot(struct http_server *s, int fd)
{
	if ((unsigned)fd >= s->n_peers) {
		unsigned n = (unsigned)fd * 2 + 64;
		struct peer **peers = reallocarray(s->peers, n, sizeof(struct peer *));
		if (!peers)
			return NULL;
		memset(peers + s->n_peers, 0, (n - s->n_peers) * sizeof(struct peer *));
		s->peers = peers;
		s->n_peers = n;
	}
	return &s->peers[fd];
}

/*
 * Hands a connection over to libmicrohttpd, which makes a thread for the connection. Runs in the
 * accept thread.
 */
static void on_spoken(void *arg, struct peer *peer)
{
	struct http_server *s = arg;
	const struct sockaddr addr = { .sa_family = AF_UNSPEC };
	int fd = peer->fd;

	pthread_mutex_lock(&s->lock);
	struct peer **slot = peer_slot(s, fd);
	if (slot) {
		peer_free(*slot); /* left from a connection that libmicrohttpd gave up for lack of memory */
		*slot = peer;
	}
	pthread_mutex_unlock(&s->lock);
	if (!slot) {
		peer_discard(peer);
		close(fd);
		peer_free(peer);
	} else if (MHD_add_connection(peer->tls ? s->tls : s->plain, fd, &addr, sizeof(addr)) != MHD_YES) {
		pthread_mutex_lock(&s->lock);
		s->peers[fd] = NULL;
		pthread_mutex_unlock(&s->lock);
		peer_free(peer);
	}
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **socket_context,
			  enum MHD_ConnectionNotificationCode code)
{
	struct http_server *s = cls;

	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		const union MHD_ConnectionInfo *info =
			MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
		pthread_mutex_lock(&s->lock);
		*socket_context = s->peers[info->connect_fd];
		pthread_mutex_unlock(&s->lock);
		return;
	}
	struct peer *peer = *socket_context;
	if (!peer)
		return;
	*socket_context = NULL;
	pthread_mutex_lock(&s->lock);
	if (s->peers[peer->fd] == peer)
		s->peers[peer->fd] = NULL;
	pthread_mutex_unlock(&s->lock);
	peer_discard(peer); /* libmicrohttpd closes the socket next, in the thread that all connections share */
	peer_free(peer);
}

/* ---- start and stop ---- */

static void on_mhd_log(void *cls, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);
static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
	struct http_server *s = cls;
	char text[sizeof(s->mhd_says)];

	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		return;
	text[strcspn(text, "\n")] = '\0';
	if (!atomic_load(&s->serving))
		memcpy(s->mhd_says, text, sizeof(text));
	/* On unix sockets libmicrohttpd tries TCP's options, and complains. */
	if (strncmp(text, "Setting TCP_", 12) != 0 && strncmp(text, "Failed to push", 14) != 0)
		log_debug("http: %s", text);
}

static int start_daemon(struct http_server *s, bool tls, unsigned max_connections, struct MHD_Daemon **ret,
			struct err *err)
{
	const struct MHD_OptionItem tls_options[] = {
		{ MHD_OPTION_HTTPS_MEM_CERT, 0, s->listen.cert },
		{ MHD_OPTION_HTTPS_MEM_KEY, 0, s->listen.key },
		{ MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t) "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2" },
		{ MHD_OPTION_END, 0, NULL },
	};
	const struct MHD_OptionItem none[] = { { MHD_OPTION_END, 0, NULL } };
	unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_NO_LISTEN_SOCKET |
			 MHD_USE_ITC | MHD_USE_POLL | MHD_USE_ERROR_LOG | (tls ? MHD_USE_TLS : 0);

	*ret = MHD_start_daemon(
		flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, s, MHD_OPTION_ARRAY,
		tls ? tls_options : none, MHD_OPTION_URI_LOG_CALLBACK, on_target, s, MHD_OPTION_NOTIFY_COMPLETED,
		on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_LIMIT,
		N_SHARES * max_connections + 16, MHD_OPTION_CONNECTION_TIMEOUT, s->idle_s, MHD_OPTION_THREAD_STACK_SIZE,
		(size_t)STACK_BYTES, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_END);
	if (!*ret)
		return err_set(err, tls ? ERR_INVALID : ERR_INTERNAL, "start the %s server: %s", tls ? "HTTPS" : "HTTP",
			       s->mhd_says[0] ? s->mhd_says : "libmicrohttpd gives no reason");
	return 0;
}

/*
 * The default size of a share. All shares together take less than half of the descriptors that the
 * daemon may have open.
 */
static unsigned default_connections(void)
{
	struct rlimit files = { .rlim_cur = RLIM_INFINITY };

	getrlimit(RLIMIT_NOFILE, &files);
	return files.rlim_cur / 8 < MAX_CONNECTIONS ? (unsigned)files.rlim_cur / 8 : MAX_CONNECTIONS;
}

static int start_all(struct http_server *s, const struct http_options *opt, struct err *err)
{
	struct accept_options ao = {
		.max_connections = opt->max_connections ? opt->max_connections : default_connections(),
		.idle_s = s->idle_s,
		.token_s = opt->token_s ? opt->token_s : TOKEN_S,
		.spoken = on_spoken,
		.arg = s,
	};

	if (http_listen_open(opt, &s->listen, err) < 0)
		return err->num;
	if (start_daemon(s, false, ao.max_connections, &s->plain, err) < 0)
		return err->num;
	if (s->listen.cert && start_daemon(s, true, ao.max_connections, &s->tls, err) < 0)
		return err->num;
	if (s->listen.local.fd >= 0)
		ao.listeners[ao.n_listeners++] = (struct accept_listener){ .fd = s->listen.local.fd, .local = true };
	if (s->listen.tcp_fd >= 0)
		ao.listeners[ao.n_listeners++] = (struct accept_listener){ .fd = s->listen.tcp_fd, .tls = s->tls };
	atomic_store(&s->serving, true);
	return acceptor_start(&ao, &s->acceptor, err);
}

int http_start(struct forkd *d, const struct http_options *opt, struct http_server **ret, struct err *err)
{
	struct http_server *s = calloc(1, sizeof(*s));

	if (!s)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start the REST server");
	s->d = d;
	s->routes = opt->routes;
	s->n_routes = opt->n_routes;
	s->metrics = opt->metrics;
	s->idle_s = opt->idle_s ? opt->idle_s : IDLE_S;
	s->listen = (struct http_listen){ .local = { .fd = -1, .lock_fd = -1 }, .tcp_fd = -1 };
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->idle, NULL);
	if (start_all(s, opt, err) < 0) {
		http_stop(s);
		return err->num;
	}
	*ret = s;
	return 0;
}

const char *http_where(const struct http_server *server)
{
	return server->listen.where;
}

static void wait_for_handlers(struct http_server *s)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STOP_WAIT_S;
	pthread_mutex_lock(&s->lock);
	while (s->n_running > 0)
		if (pthread_cond_timedwait(&s->idle, &s->lock, &until) != 0)
			break;
	pthread_mutex_unlock(&s->lock);
}

void http_stop(struct http_server *s)
{
	if (!s)
		return;
	atomic_store(&s->stopping, true);
	if (s->acceptor)
		acceptor_stop(s->acceptor);
	wait_for_handlers(s);
	if (s->plain)
		MHD_stop_daemon(s->plain);
	if (s->tls)
		MHD_stop_daemon(s->tls);
	http_listen_done(&s->listen);
	for (unsigned i = 0; i < s->n_peers; i++)
		peer_free(s->peers[i]);
	free(s->peers);
	acceptor_free(s->acceptor);
	pthread_cond_destroy(&s->idle);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
