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

static void add_fields(const struct exchange *ex, const struct reply *reply, struct strbuf *out)
{
	const char *type = reply->content_type ? reply->content_type : "application/json";

	if (reply->body.len > 0 || reply->content_type)
		strbuf_printf(out, "Content-Type: %s\r\n", type);
	if (reply->stream)
		strbuf_puts(out, "Cache-Control: no-store\r\n");
	if (reply->status == 405)
		strbuf_printf(out, "Allow: %s\r\n", ex->allow.text);
	if (reply->status == 401)
		strbuf_puts(out, "WWW-Authenticate: Bearer\r\n");
	if (reply->status == 426)
		strbuf_puts(out, "Connection: Upgrade\r\nUpgrade: tcp\r\n");
	if (reply->status == 429)
		strbuf_puts(out, "Retry-After: 1\r\n");
}

void exchange_account(const struct exchange *ex, unsigned status)
{
	uint64_t us = (monotonic_ns() - ex->rq.accepted_ns) / 1000;
	char line[ERR_MSG_BYTES];

	if (ex->server->metrics)
		metrics_request(ex->server->metrics, ex->rq.route, status, us);
	if (status >= 400 && ex->err.code) {
		err_line(&ex->err, line, sizeof(line));
		for (char *p = line; *p; p++) /* the line may have bytes of a client */
			*p = (unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p;
		log_warn("%s %s: %u %s: %s", ex->rq.method, ex->shown, status, error_info(&ex->err)->code, line);
	} else
		log_debug("%s %s: %u after %llu us", ex->rq.method, ex->shown, status, (unsigned long long)us);
}

static void reply_done(struct reply *reply)
{
	if (reply->stream && reply->stream_done)
		reply->stream_done(reply->stream_arg);
	strbuf_done(&reply->body);
	strbuf_done(&reply->relay.head);
}

static void reply_error(struct reply *reply, const struct err *err)
{
	reply_done(reply);
	*reply = (struct reply){ .status = error_info(err)->status };
	error_body(err, &reply->body);
}

static void answer(struct exchange *ex, struct reply *reply)
{
	struct response a = { .close = ex->close };

	if (ex->err.code)
		reply_error(reply, &ex->err);
	if (!ex->err.code && reply->body.failed) {
		fail(&ex->err, E_INTERNAL, "no memory for the answer");
		reply_error(reply, &ex->err);
	}
	if (reply->relays && !ex->err.code) {
		conn_relay(ex->conn, &reply->relay);
		reply->relay = (struct relay_options){};
		return;
	}
	exchange_account(ex, reply->status);
	a.status = reply->status;
	add_fields(ex, reply, &a.fields);
	if (reply->stream) {
		const struct stream stream = { reply->stream, reply->stream_done, reply->stream_arg };
		reply->stream = NULL; /* belongs to the front now */
		conn_stream(ex->conn, &a, &stream);
		return;
	}
	a.body = reply->body;
	reply->body = (struct strbuf){};
	conn_answer(ex->conn, &a);
}

void exchange_answer(struct exchange *ex)
{
	__attribute__((cleanup(reply_done))) struct reply reply = { .status = 200 };
	struct request *rq = &ex->rq;

	if (!ex->err.code && exchange_parse(ex, &ex->err) == 0) {
		int r = rq->route->run(ex->server->d, rq, &reply, &ex->err);
		if (r >= 0)
			ex->err.code = ERR_NONE; /* an error that the handler has overcome */
		else if (!ex->err.code)
			fail(&ex->err, E_INTERNAL, "%s %s failed without a reason", rq->method, rq->path);
	}
	answer(ex, &reply);
}
