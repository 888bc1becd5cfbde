// SPDX-License-Identifier: Apache-2.0
/*
 * The server: what it does with each request that the front has, start and stop. A request is refused
 * early and answered late: the request's body is read and dropped before the answer, so that the
 * client gets the answer and the connection stays usable.
 */
#include "forkd/rest/server.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "forkd/events.h"
#include "forkd/forkd.h"
#include "forkd/rest/server_private.h"

enum {
	MAX_CONNECTIONS = 1024,
	IDLE_S = 60,
	TOKEN_S = 10,
};

/* ---- what the front calls ---- */

/* The headers have come. A client that asks before it sends is refused at once. */
static void *on_head(void *arg, struct conn *c)
{
	struct exchange *ex = calloc(1, sizeof(*ex));

	if (!ex)
		return NULL;
	ex->server = arg;
	ex->conn = c;
	ex->target = strdup(conn_request(c)->target);
	if (!ex->target) {
		free(ex);
		return NULL;
	}
	exchange_begin(ex);
	if (ex->err.code && exchange_asks_first(ex)) {
		ex->close = true;
		exchange_answer(ex);
	}
	if (!ex->err.code && ex->rq.route->streams)
		conn_begin_now(c);
	return ex;
}

static bool on_body(void *rq, const char *bytes, size_t len)
{
	return exchange_take(rq, bytes, len);
}

static void on_run(void *rq)
{
	exchange_answer(rq);
}

static void on_answered(void *rq, unsigned status)
{
	exchange_account(rq, status);
}

static void on_done(void *rq)
{
	exchange_done(rq);
	free(rq);
}

/* ---- start and stop ---- */

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
	struct front_options fo = {
		.hooks = { .head = on_head,
			   .body = on_body,
			   .run = on_run,
			   .answered = on_answered,
			   .done = on_done,
			   .arg = s },
		.max_connections = opt->max_connections ? opt->max_connections : default_connections(),
		.idle_s = opt->idle_s ? opt->idle_s : IDLE_S,
		.token_s = opt->token_s ? opt->token_s : TOKEN_S,
	};

	if (http_listen_open(opt, &s->listen, err) < 0)
		return err->num;
	fo.tls_cert = s->listen.cert;
	fo.tls_key = s->listen.key;
	if (s->listen.local.fd >= 0)
		fo.listeners[fo.n_listeners++] = (struct accept_listener){ .fd = s->listen.local.fd, .local = true };
	if (s->listen.tcp_fd >= 0)
		fo.listeners[fo.n_listeners++] =
			(struct accept_listener){ .fd = s->listen.tcp_fd, .tls = s->listen.cert };
	return front_start(&fo, &s->front, err);
}

/* Streams of events are not waited for by anybody: each event lets them run. */
static void on_event(void *arg)
{
	front_wake(arg);
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
	s->listen = (struct http_listen){ .local = { .fd = -1, .lock_fd = -1 }, .tcp_fd = -1 };
	if (start_all(s, opt, err) < 0) {
		http_stop(s);
		return err->num;
	}
	if (d && d->events)
		events_set_wake(d->events, on_event, s->front);
	*ret = s;
	return 0;
}

const char *http_where(const struct http_server *server)
{
	return server->listen.where;
}

void http_stop(struct http_server *s)
{
	if (!s)
		return;
	if (s->d && s->d->events)
		events_set_wake(s->d->events, NULL, NULL);
	front_stop(s->front);
	http_listen_done(&s->listen);
	free(s);
}
