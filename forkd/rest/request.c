// SPDX-License-Identifier: Apache-2.0
/*
 * A request that comes in: its target, its descriptors, its body, and everything that is refused
 * without the handler.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "common/sock.h"
#include "forkd/errors.h"
#include "forkd/rest/server_private.h"

enum { DISCARD_MAX = 256 * 1024 * 1024 }; /* of an unwanted body; the connection is cut after this */

static struct exchange *exchange_of(const struct request *rq)
{
	return container_of((struct request *)(uintptr_t)rq, struct exchange, rq);
}

/* ---- for handlers ---- */

const char *request_query(const struct request *rq, const char *key, unsigned i)
{
	const struct exchange *ex = exchange_of(rq);

	for (unsigned k = 0; k < ex->n_pairs; k++)
		if (strcmp(ex->pairs[k].key, key) == 0 && i-- == 0)
			return ex->pairs[k].value;
	return NULL;
}

const char *request_header(const struct request *rq, const char *name)
{
	return message_field(conn_request(exchange_of(rq)->conn), name);
}

const char *request_user(const struct request *rq)
{
	const char *field = request_header(rq, "X-Forkd-User");

	return field ? field : request_query(rq, "username", 0);
}

const struct message *request_message(const struct request *rq)
{
	return conn_request(exchange_of(rq)->conn);
}

bool request_gone(const struct request *rq)
{
	return conn_gone(exchange_of(rq)->conn);
}

static bool gone(const void *rq)
{
	return request_gone(rq);
}

struct origin request_origin(const struct request *rq)
{
	return (struct origin){
		.caller = &rq->caller,
		.accepted_ns = rq->accepted_ns,
		.fds = rq->fds,
		.n_fds = rq->n_fds,
		.gone = gone,
		.request = rq,
	};
}

/* ---- the checks that need no look into the body ---- */

static void show_target(struct exchange *ex)
{
	snprintf(ex->shown, sizeof(ex->shown), "%s", ex->target);
	for (char *p = ex->shown; *p; p++)
		*p = *p > ' ' && *p < 0x7f ? *p : '?';
}

/* A connection without the token carries one request. */
static bool check_token(struct exchange *ex)
{
	if (ex->rq.caller.local)
		return true;
	if (!http_token_right(&ex->server->listen, request_header(&ex->rq, "Authorization"))) {
		ex->close = true;
		return false;
	}
	peer_proven(conn_peer(ex->conn));
	return true;
}

static int check_target(struct exchange *ex, char *query, struct err *err)
{
	struct http_server *s = ex->server;
	const char *tail = NULL;
	int bad = 0;

	ex->rq.route =
		url_route(s->routes, s->n_routes, ex->rq.method, ex->target, ex->rq.param, &ex->allow, &bad, &tail);
	if (tail)
		ex->rq.tail = conn_request(ex->conn)->target + (tail - ex->target);
	if (!check_token(ex) && !(ex->rq.route && ex->rq.route->open))
		return fail(err, E_UNAUTHORIZED, "%s %s needs the daemon's token", ex->rq.method, ex->shown);
	if (!ex->rq.route && ex->allow.len > 0)
		return fail(err, E_METHOD, "%s is not allowed for %s", ex->rq.method, ex->shown);
	if (!ex->rq.route)
		return fail(err, E_NOT_FOUND, "there is no %s", ex->shown);
	if (bad < 0)
		return fail(err, E_BAD_NAME, "path %s: a part is too long, has control characters, or is not UTF-8",
			    ex->shown);
	int n = url_query(query, ex->pairs);
	if (n < 0)
		return fail(err, E_INVALID, "the query of %s %s", ex->shown,
			    n == -E2BIG ? "has too many keys"
					: "has control characters, a broken escape, or is not UTF-8");
	ex->n_pairs = (unsigned)n;
	return 0;
}

static int check_fds(const struct exchange *ex, struct err *err)
{
	if (conn_peer(ex->conn)->lost_fds)
		return fail(err, E_BAD_FDS,
			    "descriptors that came with the request were lost: too many, or the daemon is at its "
			    "limit of open files");
	if (ex->rq.n_fds > 0 && !ex->rq.route->takes_fds)
		return fail(err, E_BAD_FDS, "%u descriptors came with %s %s, which takes none", ex->rq.n_fds,
			    ex->rq.method, ex->shown);
	return 0;
}

static int check_body(const struct exchange *ex, struct err *err)
{
	const struct message *m = conn_request(ex->conn);
	const char *type = message_field(m, "Content-Type");

	if (!message_has_body(m) || ex->rq.route->streams)
		return 0;
	if (!message_is_chunked(m) && message_length(m) > HTTP_BODY_MAX)
		return fail(err, E_TOO_LARGE, "a body of %llu bytes; %d are allowed",
			    (unsigned long long)message_length(m), HTTP_BODY_MAX);
	size_t len = type ? strcspn(type, "; \t") : 0;
	static const char json[] = "application/json";
	if (type && (len != strlen(json) || strncasecmp(type, json, len) != 0))
		return fail(err, E_MEDIA_TYPE, "Content-Type '%s'; the body must be application/json", type);
	return 0;
}

void exchange_begin(struct exchange *ex)
{
	struct request *rq = &ex->rq;
	struct peer *peer = conn_peer(ex->conn);

	rq->accepted_ns = conn_begun_ns(ex->conn);
	rq->method = conn_request(ex->conn)->method;
	rq->path = ex->target;
	rq->caller = peer->caller;
	rq->fds = steal_ptr(&peer->fds);
	rq->n_fds = peer->n_fds;
	peer->n_fds = 0;
	ex->close = peer->had_fds || peer->lost_fds;
	char *query = strchr(ex->target, '?');
	if (query)
		*query++ = '\0';
	show_target(ex);
	if (check_target(ex, query, &ex->err) == 0 && check_fds(ex, &ex->err) == 0)
		check_body(ex, &ex->err);
	if (url_decode(ex->target, strlen(ex->target), false) < 0)
		rq->path = "";
}

/* ---- the body ---- */

static void drop_text(struct exchange *ex)
{
	free(ex->rq.text);
	ex->rq.text = NULL;
	ex->rq.text_len = ex->text_cap = 0;
}

static int keep(struct exchange *ex, const char *data, size_t len, struct err *err)
{
	struct request *rq = &ex->rq;

	if (rq->text_len + len > HTTP_BODY_MAX)
		return fail(err, E_TOO_LARGE, "a body of more than %d bytes", HTTP_BODY_MAX);
	if (rq->text_len + len >= ex->text_cap) {
		size_t cap = (rq->text_len + len) * 2 + 1024;
		char *text = realloc(rq->text, cap);
		if (!text)
			return fail(err, E_INTERNAL, "no memory for a body of %zu bytes", rq->text_len + len);
		rq->text = text;
		ex->text_cap = cap;
	}
	memcpy(rq->text + rq->text_len, data, len);
	rq->text_len += len;
	rq->text[rq->text_len] = '\0';
	return 0;
}

bool exchange_take(struct exchange *ex, const char *data, size_t len)
{
	if (!ex->err.code && keep(ex, data, len, &ex->err) == 0)
		return true;
	drop_text(ex);
	ex->discarded += len;
	return ex->discarded <= DISCARD_MAX;
}

int exchange_parse(struct exchange *ex, struct err *err)
{
	struct request *rq = &ex->rq;

	if (rq->text_len == 0)
		return 0;
	if (json_parse(&rq->json, rq->text, rq->text_len, err) < 0)
		return fail_as(err, E_BAD_JSON, "body");
	if (rq->json.nodes[0].type != JSON_OBJECT)
		return fail(err, E_BAD_JSON, "body: must be an object, is %s", json_type_name(rq->json.nodes));
	rq->body = rq->json.nodes;
	return 0;
}

bool exchange_asks_first(const struct exchange *ex)
{
	return message_expects_continue(conn_request(ex->conn)) &&
	       (strcmp(ex->rq.method, "POST") == 0 || strcmp(ex->rq.method, "PUT") == 0);
}

void exchange_done(struct exchange *ex)
{
	for (uint32_t i = 0; i < ex->rq.n_fds; i++)
		sock_close_sent(ex->rq.fds[i]);
	free(ex->rq.fds);
	json_done(&ex->rq.json);
	drop_text(ex);
	strbuf_done(&ex->allow);
	free(ex->target);
}
