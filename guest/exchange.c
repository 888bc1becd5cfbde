// SPDX-License-Identifier: Apache-2.0
/* What services call: they look at the request, and write its answer. */
#include <stdarg.h>
#include <string.h>
#include <sys/uio.h>

#include "common/base64.h"
#include "guest/http_internal.h"

/* ---- the request ---- */

/* The next pair of a text "name, NUL, value, NUL …"; false: its end. */
static bool next_pair(const struct strbuf *b, size_t *at, const char **ret_name, const char **ret_value)
{
	if (*at >= b->len)
		return false;
	*ret_name = b->text + *at;
	*at += strlen(*ret_name) + 1;
	if (*at >= b->len)
		return false;
	*ret_value = b->text + *at;
	*at += strlen(*ret_value) + 1;
	return true;
}

static const char *find(const struct strbuf *b, const char *name)
{
	const char *its_name, *value;

	for (size_t at = 0; next_pair(b, &at, &its_name, &value);)
		if (strcmp(its_name, name) == 0)
			return value;
	return NULL;
}

const char *ex_header(const struct exchange *ex, const char *name)
{
	return find(&connection_of(ex)->fields, name);
}

bool ex_header_at(const struct exchange *ex, size_t n, const char **ret_name, const char **ret_value)
{
	size_t at = 0;

	while (next_pair(&connection_of(ex)->fields, &at, ret_name, ret_value))
		if (n-- == 0)
			return true;
	return false;
}

const char *ex_query(const struct exchange *ex, const char *name)
{
	return find(&connection_of(ex)->query, name);
}

int64_t ex_body_length(const struct exchange *ex)
{
	const http_parser *p = &connection_of(ex)->parser;

	if (p->flags & F_CHUNKED)
		return -1;
	const char *length = ex_header(ex, "content-length");
	return length ? strtoll(length, NULL, 10) : 0; /* the parser has checked it */
}

/* "Basic base64(name:password)": the name, on the heap. NULL: it is no such thing. */
static char *basic_name(const char *value)
{
	autofree char *text = strdup(value);

	if (!text || strncasecmp(text, "Basic ", 6) != 0)
		return NULL;
	char *at = text + 6 + strspn(text + 6, " ");
	const ssize_t n = base64_decode(at, at, strcspn(at, " "));
	char *colon = n > 0 ? memchr(at, ':', (size_t)n) : NULL;
	return colon && !memchr(at, '\0', (size_t)(colon - at)) ? strndup(at, (size_t)(colon - at)) : NULL;
}

int ex_user(const struct exchange *ex, struct user *ret_user, struct err *err)
{
	const char *authorization = ex_header(ex, "authorization"), *name = ex_query(ex, "username");
	autofree char *basic = authorization ? basic_name(authorization) : NULL;

	if (authorization && !basic)
		return err_set(err, ERR_INVALID, "the header Authorization is not \"Basic base64(user:)\"");
	if (basic && *basic)
		name = basic;
	return name && *name ? user_find(name, ret_user, err) : user_find_spec(ex->agent->default_user, ret_user, err);
}

void ex_pause_body(struct exchange *ex)
{
	connection_of(ex)->paused = true;
}

void ex_resume_body(struct exchange *ex)
{
	struct connection *c = connection_of(ex);

	c->paused = false;
	connection_kick(c);
}

/* ---- the answer ---- */

void message_json(struct strbuf *b, char *message)
{
	for (int cut = 0; cut < 3 && !utf8_valid(message) && *message; cut++)
		message[strlen(message) - 1] = '\0'; /* it was cut to fit */
	if (!utf8_valid(message))
		for (char *p = message; *p; p++)
			*p = (unsigned char)*p < 0x80 ? *p : '?';
	strbuf_json(b, message, strlen(message));
}

static void send_text(struct connection *c, const struct strbuf *b)
{
	if (b->failed)
		c->broken = true;
	else
		connection_send(c, &(struct iovec){ b->text, b->len }, 1);
}

static void add_head(struct strbuf *b, const struct connection *c, int status, const char *type, const char *headers)
{
	strbuf_printf(b, "HTTP/1.1 %d %s\r\n", status, http_status_str((enum http_status)status));
	if (type)
		strbuf_printf(b, "Content-Type: %s\r\n", type);
	if (headers)
		strbuf_puts(b, headers);
	if (c->last)
		strbuf_puts(b, "Connection: close\r\n");
}

void ex_answer(struct exchange *ex, int status, const char *type, const char *bytes, size_t len)
{
	struct connection *c = connection_of(ex);
	autostrbuf struct strbuf head = {};

	if (!c->head_done)
		c->last = true;
	add_head(&head, c, status, type, NULL);
	if (type)
		strbuf_printf(&head, "Content-Length: %zu\r\n", len);
	strbuf_puts(&head, "\r\n");
	if (type && !c->no_body)
		strbuf_add(&head, bytes, len);
	send_text(c, &head);
	c->owed = -1;
	c->chunked = false;
	ex_end(ex);
}

void ex_fail(struct exchange *ex, int status, const char *fmt, ...)
{
	autostrbuf struct strbuf body = {};
	char message[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	strbuf_printf(&body, "{\"code\":%d,\"message\":", status);
	message_json(&body, message);
	strbuf_putc(&body, '}');
	if (body.failed)
		return ex_abort(ex);
	ex_answer(ex, status, "application/json", body.text, body.len);
}

void ex_begin(struct exchange *ex, int status, const char *type, const char *headers, int64_t length)
{
	struct connection *c = connection_of(ex);
	autostrbuf struct strbuf head = {};

	c->chunked = length < 0 && c->parser.http_minor > 0;
	c->owed = length;
	if (length < 0 && !c->chunked)
		c->last = true; /* HTTP/1.0: the answer's end is the connection's */
	add_head(&head, c, status, type, headers);
	if (c->chunked)
		strbuf_puts(&head, "Transfer-Encoding: chunked\r\n");
	else if (length >= 0)
		strbuf_printf(&head, "Content-Length: %lld\r\n", (long long)length);
	strbuf_puts(&head, "\r\n");
	c->answer = ANSWER_BEGUN;
	send_text(c, &head);
}

void ex_write2(struct exchange *ex, const void *first, size_t first_len, const void *bytes, size_t len)
{
	struct connection *c = connection_of(ex);
	const size_t all = first_len + len;
	char size[24], end[2] = "\r\n";
	struct iovec iov[4] = {
		{ size, 0 },
		{ (void *)(uintptr_t)first, first_len },
		{ (void *)(uintptr_t)bytes, len },
		{ end, sizeof(end) },
	};

	if (all == 0 || c->no_body)
		return;
	if (c->owed >= 0 && (uint64_t)c->owed < all)
		return ex_abort(ex); /* a service's mistake; the client must not take it for the next answer */
	if (c->owed >= 0)
		c->owed -= (int64_t)all;
	iov[0].iov_len = (size_t)snprintf(size, sizeof(size), "%zx\r\n", all);
	connection_send(c, c->chunked ? iov : iov + 1, c->chunked ? 4 : 2);
}

void ex_write(struct exchange *ex, const void *bytes, size_t len)
{
	ex_write2(ex, NULL, 0, bytes, len);
}

size_t ex_room(const struct exchange *ex)
{
	struct connection *c = connection_of(ex);

	if (c->out_len < LIMIT_OUT)
		return LIMIT_OUT - c->out_len;
	c->wants_drain = true;
	return 0;
}

void ex_yield(struct exchange *ex)
{
	connection_of(ex)->wants_drain = true;
	connection_kick(connection_of(ex));
}

void ex_end(struct exchange *ex)
{
	struct connection *c = connection_of(ex);

	if (c->chunked && !c->no_body)
		connection_send(c, &(struct iovec){ (void *)(uintptr_t) "0\r\n\r\n", 5 }, 1);
	if (c->owed > 0 && !c->no_body)
		c->broken = true;
	c->answer = ANSWER_ENDED;
	c->paused = false;
	connection_kick(c);
}

void ex_abort(struct exchange *ex)
{
	struct connection *c = connection_of(ex);

	c->broken = true;
	c->answer = ANSWER_ENDED;
	connection_kick(c);
}

int ex_take_over(struct exchange *ex, char **ret_bytes, size_t *ret_len)
{
	struct connection *c = connection_of(ex);
	const int fd = c->watch.fd;

	connection_flush(c);
	loop_del(&c->server->agent->loop, &c->watch);
	c->watch.fd = -1;
	c->taken = true;
	*ret_bytes = NULL;
	*ret_len = c->leftover.len;
	if (c->leftover.len > 0)
		*ret_bytes = steal_ptr(&c->leftover.text);
	c->leftover = (struct strbuf){};
	ex_abort(ex);
	return fd;
}
