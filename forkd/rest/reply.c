// SPDX-License-Identifier: Apache-2.0
/*
 * The answer to a request: the handler's or an error's, as one body or as a stream. The one log
 * line about a request is written here.
 */
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/errors.h"
#include "forkd/metrics.h"
#include "forkd/rest/server_private.h"

enum { STREAM_BLOCK = 16 * 1024 };

/* An answer that has no end yet. */
struct stream {
	struct http_server *server;
	struct reply reply; /* for the stream's functions */
	int fd;
	struct strbuf out;
	size_t sent;
	bool ended;
};

static ssize_t stream_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct stream *st = cls;

	(void)pos;
	if (st->sent == st->out.len) {
		st->sent = st->out.len = 0;
		if (st->ended || atomic_load(&st->server->stopping) || http_hung_up(st->fd))
			return MHD_CONTENT_READER_END_OF_STREAM;
		st->ended = !st->reply.stream(st->reply.stream_arg, &st->out);
		if (st->out.failed)
			return MHD_CONTENT_READER_END_WITH_ERROR;
	}
	size_t n = st->out.len - st->sent;
	if (n == 0)
		return st->ended ? MHD_CONTENT_READER_END_OF_STREAM : 0;
	n = n < max ? n : max;
	memcpy(buf, st->out.text + st->sent, n);
	st->sent += n;
	return (ssize_t)n;
}

static void stream_free(void *cls)
{
	struct stream *st = cls;

	if (st->reply.stream_done)
		st->reply.stream_done(st->reply.stream_arg);
	strbuf_done(&st->out);
	free(st);
}

void exchange_not_running(struct exchange *ex)
{
	struct http_server *s = ex->server;

	if (!ex->running)
		return;
	ex->running = false;
	pthread_mutex_lock(&s->lock);
	if (--s->n_running == 0)
		pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->lock);
}

/* Makes the response, which takes the reply's body or stream over. NULL: out of memory. */
static struct MHD_Response *make_response(struct exchange *ex, struct reply *reply)
{
	if (reply->stream) {
		struct stream *st = calloc(1, sizeof(*st));
		if (!st)
			return NULL;
		*st = (struct stream){ .server = ex->server, .reply = *reply, .fd = ex->peer->fd };
		reply->stream_done = NULL; /* belongs to the stream now, and is called when the response is freed */
		exchange_not_running(ex);
		struct MHD_Response *response =
			MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, stream_read, st, stream_free);
		if (!response)
			stream_free(st);
		return response;
	}
	size_t len = reply->body.len;
	if (len == 0)
		return MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
	return MHD_create_response_from_buffer(len, steal_ptr(&reply->body.text), MHD_RESPMEM_MUST_FREE);
}

static void add_headers(const struct exchange *ex, const struct reply *reply, struct MHD_Response *response)
{
	const char *type = reply->content_type ? reply->content_type : "application/json";

	if (reply->body.len > 0 || reply->content_type)
		MHD_add_response_header(response, "Content-Type", type);
	if (reply->stream)
		MHD_add_response_header(response, "Cache-Control", "no-store");
	if (reply->status == 405)
		MHD_add_response_header(response, "Allow", ex->allow.text);
	if (reply->status == 401)
		MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
	if (reply->status == 429)
		MHD_add_response_header(response, "Retry-After", "1");
	if (ex->close || atomic_load(&ex->server->stopping))
		MHD_add_response_header(response, "Connection", "close");
}

static void account(const struct exchange *ex, const struct reply *reply)
{
	uint64_t us = (monotonic_ns() - ex->rq.accepted_ns) / 1000;
	char line[ERR_MSG_BYTES];

	if (ex->server->metrics)
		metrics_request(ex->server->metrics, ex->rq.route, reply->status, us);
	if (reply->status >= 400) {
		err_line(&ex->err, line, sizeof(line));
		for (char *p = line; *p; p++) /* the line may have bytes of a client */
			*p = (unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p;
		log_warn("%s %s: %u %s: %s", ex->rq.method, ex->shown, reply->status, error_info(&ex->err)->code, line);
	} else
		log_debug("%s %s: %u after %llu us", ex->rq.method, ex->shown, reply->status, (unsigned long long)us);
}

static void reply_done(struct reply *reply)
{
	if (reply->stream && reply->stream_done)
		reply->stream_done(reply->stream_arg);
	strbuf_done(&reply->body);
}

static void reply_error(struct reply *reply, const struct err *err)
{
	reply_done(reply);
	*reply = (struct reply){ .status = error_info(err)->status };
	error_json(err, &reply->body);
}

static enum MHD_Result answer(struct exchange *ex, struct reply *reply)
{
	if (ex->err.code)
		reply_error(reply, &ex->err);
	if (!ex->err.code && reply->body.failed) {
		fail(&ex->err, E_INTERNAL, "no memory for the answer");
		reply_error(reply, &ex->err);
	}
	account(ex, reply);
	struct MHD_Response *response = make_response(ex, reply);
	if (!response)
		return MHD_NO;
	add_headers(ex, reply, response);
	enum MHD_Result r = MHD_queue_response(ex->rq.connection, reply->status, response);
	MHD_destroy_response(response);
	return r;
}

enum MHD_Result exchange_answer(struct exchange *ex)
{
	__attribute__((cleanup(reply_done))) struct reply reply = { .status = 200 };
	struct request *rq = &ex->rq;

	if (!ex->err.code && exchange_parse(ex, &ex->err) == 0) {
		/* No timeout: while the handler works, the client has nothing to say. */
		MHD_set_connection_option(rq->connection, MHD_CONNECTION_OPTION_TIMEOUT, 0U);
		int r = rq->route->run(ex->server->d, rq, &reply, &ex->err);
		if (r >= 0)
			ex->err.code = ERR_NONE; /* an error that the handler has overcome */
		else if (!ex->err.code)
			fail(&ex->err, E_INTERNAL, "%s %s failed without a reason", rq->method, rq->path);
		MHD_set_connection_option(rq->connection, MHD_CONNECTION_OPTION_TIMEOUT, ex->server->idle_s);
	}
	return answer(ex, &reply);
}
