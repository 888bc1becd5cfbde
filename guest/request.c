// SPDX-License-Identifier: Apache-2.0
/*
 * Reads requests: http_parser's callbacks collect the head, find the route and hand the body on. What is
 * refused here is answered in the route's style, or plainly while no route is known.
 */
#include <ctype.h>
#include <string.h>

#include "guest/connect.h"
#include "guest/http_internal.h"

static struct connection *parsed(http_parser *parser)
{
	return container_of(parser, struct connection, parser);
}

static int on_url(http_parser *parser, const char *at, size_t len)
{
	strbuf_add(&parsed(parser)->url, at, len);
	return 0;
}

static int on_field(http_parser *parser, const char *at, size_t len)
{
	struct connection *c = parsed(parser);

	if (c->head_done)
		return 0; /* a trailer */
	if (c->in_value)
		strbuf_putc(&c->fields, '\0');
	c->in_value = false;
	for (size_t i = 0; i < len; i++)
		strbuf_putc(&c->fields, (char)tolower((unsigned char)at[i]));
	return 0;
}

static int on_value(http_parser *parser, const char *at, size_t len)
{
	struct connection *c = parsed(parser);

	if (c->head_done)
		return 0;
	if (!c->in_value)
		strbuf_putc(&c->fields, '\0');
	c->in_value = true;
	strbuf_add(&c->fields, at, len);
	return 0;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Adds a part of the query, decoded (application/x-www-form-urlencoded), and a NUL. false: it is none. */
static bool add_decoded(struct strbuf *to, const char *at, size_t len)
{
	const size_t start = to->len;

	for (size_t i = 0; i < len; i++) {
		char c = at[i] == '+' ? ' ' : at[i];
		if (c == '%') {
			const int high = i + 2 < len ? hex(at[i + 1]) : -1, low = i + 2 < len ? hex(at[i + 2]) : -1;
			if (high < 0 || low < 0)
				return false;
			c = (char)(high << 4 | low);
			i += 2;
		}
		if (c == '\0')
			return false;
		strbuf_putc(to, c);
	}
	strbuf_putc(to, '\0');
	return !to->failed && utf8_valid(to->text + start);
}

/* Cuts the URL at its '?' and fills c->query. */
static bool read_query(struct connection *c)
{
	char *at = strchr(c->url.text, '?');

	if (!at)
		return true;
	*at++ = '\0';
	at[strcspn(at, "#")] = '\0';
	for (char *pair; (pair = strsep(&at, "&"));) {
		const size_t len = strlen(pair), name = strcspn(pair, "=");
		if (len == 0)
			continue;
		if (!add_decoded(&c->query, pair, name))
			return false;
		if (!add_decoded(&c->query, pair + name + (name < len), len - name - (name < len)))
			return false;
	}
	return true;
}

/* The connection's route. NULL: an answer was given instead. */
static const struct route *find_route(struct connection *c)
{
	const char *method = http_method_str((enum http_method)c->parser.method), *path = c->url.text;
	const struct route *other = NULL;

	for (const struct route *r = c->server->routes; r->method; r++) {
		if (strcmp(r->path, path) != 0)
			continue;
		if (strcmp(r->method, method) == 0)
			return r;
		other = r;
	}
	if (other)
		ex_fail(&c->ex, 405, "%s is not for %s", path, method);
	else
		ex_fail(&c->ex, 404, "%.256s is not here", utf8_valid(path) ? path : "this path");
	return NULL;
}

static bool expects_continue(struct connection *c)
{
	const char *expect = ex_header(&c->ex, "expect");

	return expect && strcasecmp(expect, "100-continue") == 0;
}

static size_t body_max(const struct route *r)
{
	return r->body_max ? r->body_max : LIMIT_BODY;
}

static void refuse_size(struct connection *c)
{
	const struct route *r = c->ex.route;

	c->last = true;
	if (r->style == STYLE_PLAIN)
		ex_fail(&c->ex, 413, "the body has more than %zu bytes", body_max(r));
	else
		connect_fail(&c->ex, CONNECT_RESOURCE_EXHAUSTED, "the body has more than %zu bytes", body_max(r));
}

/* The client may try again. */
static void refuse_more(struct connection *c)
{
	static const char why[] = "%d bytes of requests are held, which is the most";

	c->last = true;
	if (c->ex.route->style == STYLE_PLAIN)
		ex_fail(&c->ex, 503, why, LIMIT_HELD);
	else
		connect_fail(&c->ex, CONNECT_RESOURCE_EXHAUSTED, why, LIMIT_HELD);
}

static void begin_head(struct connection *c)
{
	const int64_t length = ex_body_length(&c->ex);

	if (c->parser.method == HTTP_CONNECT)
		c->last = true;
	if (c->url.failed || c->fields.failed)
		return ex_fail(&c->ex, 500, "no memory for the request's head");
	if (ex_header(&c->ex, "transfer-encoding") && !(c->parser.flags & F_CHUNKED)) {
		c->last = true; /* where the body ends is not known */
		return ex_fail(&c->ex, 400, "the last transfer coding of the body is not chunked");
	}
	if (!read_query(c))
		return ex_fail(&c->ex, 400, "the query is not percent-encoded UTF-8 without NUL");
	c->ex.route = find_route(c);
	if (!c->ex.route)
		return;
	if (c->ex.route->body == BODY_WHOLE && length > 0 && (uint64_t)length > body_max(c->ex.route))
		return refuse_size(c);
	if (c->ex.route->body == BODY_STREAM) {
		c->begun = true;
		c->ex.route->begin(&c->ex);
	}
}

static int on_headers_complete(http_parser *parser)
{
	struct connection *c = parsed(parser);

	strbuf_putc(&c->fields, '\0');
	strbuf_putc(&c->url, '\0');
	c->head_done = true;
	c->no_body = parser->method == HTTP_HEAD;
	c->last = !http_should_keep_alive(parser);
	parser->upgrade = 0; /* a route that changes the protocol takes the connection over */
	begin_head(c);
	if (!expects_continue(c))
		return 0;
	if (c->answer != ANSWER_NONE) {
		c->last = true; /* the client may send the body or not */
	} else if (ex_body_length(&c->ex) != 0) {
		static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
		connection_send(c, &(struct iovec){ (void *)(uintptr_t)go_on, sizeof(go_on) - 1 }, 1);
	}
	return 0;
}

static int on_body(http_parser *parser, const char *at, size_t len)
{
	struct connection *c = parsed(parser);
	const struct route *r = c->ex.route;

	if (c->answer == ANSWER_ENDED || !r)
		return 0;
	if (r->body == BODY_STREAM && c->ex.on_body) {
		c->ex.on_body(&c->ex, at, len);
	} else if (r->body == BODY_WHOLE) {
		if (c->body.len + len > body_max(r))
			refuse_size(c);
		else if (!budget_take(&c->ex.agent->held, &c->held, len))
			refuse_more(c);
		else
			strbuf_add(&c->body, at, len);
	}
	return 0;
}

static int on_message_complete(http_parser *parser)
{
	parsed(parser)->complete = true;
	http_parser_pause(parser, 1);
	return 0;
}

static const http_parser_settings callbacks = {
	.on_url = on_url,
	.on_header_field = on_field,
	.on_header_value = on_value,
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_message_complete,
};

void request_end(struct connection *c)
{
	struct exchange *ex = &c->ex;

	if (HTTP_PARSER_ERRNO(&c->parser) == HPE_PAUSED)
		http_parser_pause(&c->parser, 0);
	if (c->answer == ANSWER_ENDED || !ex->route)
		return;
	if (ex->route->body == BODY_STREAM) {
		if (ex->on_body_end)
			ex->on_body_end(ex);
		return;
	}
	if (ex->route->body == BODY_WHOLE) {
		strbuf_putc(&c->body, '\0');
		if (c->body.failed)
			return ex_fail(ex, 500, "no memory for the request's body");
		ex->body = c->body.text;
		ex->body_len = c->body.len - 1;
	}
	c->begun = true;
	ex->route->begin(ex);
}

/* The bytes are no request: nothing after them can be trusted. */
static void refuse(struct connection *c)
{
	const enum http_errno e = HTTP_PARSER_ERRNO(&c->parser);

	c->last = c->complete = true;
	if (c->answer == ANSWER_ENDED)
		return;
	if (c->begun || c->answer == ANSWER_BEGUN) {
		c->broken = true; /* in the middle of the body: the service hears that the client is gone */
	} else if (e == HPE_HEADER_OVERFLOW) {
		ex_fail(&c->ex, 431, "the head has more than %d bytes", LIMIT_HEAD);
	} else {
		ex_fail(&c->ex, 400, "not an HTTP/1.1 request: %s", http_errno_description(e));
	}
}

size_t request_feed(struct connection *c, const char *bytes, size_t len)
{
	const size_t n = http_parser_execute(&c->parser, &callbacks, bytes, len);
	const enum http_errno e = HTTP_PARSER_ERRNO(&c->parser);

	if (c->complete || e == HPE_OK)
		return n;
	refuse(c);
	return len;
}

void request_reset(struct connection *c)
{
	http_parser_init(&c->parser, HTTP_REQUEST);
	c->head_done = c->complete = c->begun = c->paused = c->in_value = false;
	strbuf_done(&c->url);
	strbuf_done(&c->fields);
	strbuf_done(&c->query);
	strbuf_done(&c->body);
	budget_give(&c->server->agent->held, &c->held);
	c->ex = (struct exchange){ .agent = c->server->agent };
	c->answer = ANSWER_NONE;
	c->chunked = c->no_body = c->wants_drain = false;
	c->owed = -1;
}
