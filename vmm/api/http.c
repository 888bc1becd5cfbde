// SPDX-License-Identifier: Apache-2.0
/*
 * Connections of the HTTP server. A head is gathered line by line, and http_parser gets whole lines:
 * so limits and messages are ours, and the parser never sees a line cut in two. A body goes straight
 * to the parser.
 */
#include "vmm/api/http.h"

#include <errno.h>
#include <fcntl.h>
#include <http_parser.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "common/log.h"

#define DROPPED "\nAll previous unanswered requests will be dropped.\" }"

struct connection {
	struct source source; /* fd owned; ready NULL: this slot is free */
	struct http_server *server;
	struct http_parser parser;
	char line[HTTP_LINE_MAX]; /* the line being gathered */
	size_t line_len;
	unsigned n_lines; /* of this head, parsed so far */
	bool in_body, complete, field_is_expect, expects_continue;
	char *path; /* of the request line */
	struct strbuf body;
	int *fds;
	uint32_t n_fds;
	struct strbuf out; /* answers not sent yet begin at out_sent */
	size_t out_sent;
	bool blocked;    /* the client does not read the answers: no request is read meanwhile */
	bool refused;    /* `out` ends with the last answer; what the client still sends is thrown away */
	bool stops_loop; /* `out` ends with the answer to vmm.shutdown */
};

struct http_server {
	struct loop *loop;
	struct source source; /* the listening socket */
	int spare_fd;         /* closed for a moment to refuse a client when no descriptor number is left */
	http_handler *handler;
	void *owner;
	struct connection connections[HTTP_CONNECTIONS_MAX];
};

static struct connection *connection_of(struct http_parser *parser)
{
	return container_of(parser, struct connection, parser);
}

static void close_fds(const int *fds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		sock_close_sent(fds[i]);
}

static void drop_fds(struct connection *c)
{
	close_fds(c->fds, c->n_fds);
	free(c->fds);
	c->fds = NULL;
	c->n_fds = 0;
}

static void next_request(struct connection *c)
{
	http_parser_init(&c->parser, HTTP_REQUEST);
	c->line_len = 0;
	c->n_lines = 0;
	c->in_body = c->complete = c->field_is_expect = c->expects_continue = false;
	free(c->path);
	c->path = NULL;
	strbuf_done(&c->body);
	drop_fds(c);
}

static void connection_close(struct connection *c)
{
	struct loop *loop = c->server->loop;
	bool stop = c->stops_loop;

	loop_del(loop, &c->source);
	close(c->source.fd);
	next_request(c);
	strbuf_done(&c->out);
	*c = (struct connection){ .server = c->server };
	if (stop)
		loop_stop(loop, 0);
}

/* ---- errors of the HTTP layer ---- */

/*
 * Refuses the request. What follows the request may be its body, so no more requests are taken from
 * this connection. The connection is read until the client closes it: a client that is still sending
 * would miss the answer otherwise.
 */
static int refuse_request(struct connection *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

static int refuse_request(struct connection *c, const char *fmt, ...)
{
	char why[HTTP_LINE_MAX + 128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	for (char *p = why; *p; p++) /* the message may quote the client */
		if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\')
			*p = '?';
	log_warn("api: request refused: %.200s", why);
	strbuf_printf(&c->out,
		      "HTTP/1.1 400 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
		      "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n{ \"error\": \"%s" DROPPED,
		      strlen("{ \"error\": \"" DROPPED) + strlen(why), why);
	next_request(c);
	c->refused = true;
	return -EPROTO;
}

/* ---- the parser's callbacks; a non-zero result stops the parser ---- */

static int on_url(struct http_parser *parser, const char *at, size_t len)
{
	struct connection *c = connection_of(parser);
	static const char scheme[] = "http://";

	if (len >= sizeof(scheme) - 1 && strncasecmp(at, scheme, sizeof(scheme) - 1) == 0) {
		const char *host = at + sizeof(scheme) - 1, *end = at + len;
		const char *slash = memchr(host, '/', (size_t)(end - host));
		at = slash ? slash : end;
		len = (size_t)(end - at);
	}
	c->path = strndup(at, len);
	return c->path ? 0 : -1;
}

static int on_header_field(struct http_parser *parser, const char *at, size_t len)
{
	connection_of(parser)->field_is_expect = len == 6 && strncasecmp(at, "Expect", len) == 0;
	return 0;
}

static int on_header_value(struct http_parser *parser, const char *at, size_t len)
{
	struct connection *c = connection_of(parser);

	if (c->field_is_expect && len == 12 && memcmp(at, "100-continue", len) == 0)
		c->expects_continue = true;
	return 0;
}

static int on_headers_complete(struct http_parser *parser)
{
	connection_of(parser)->in_body = true;
	return 0;
}

static int on_body(struct http_parser *parser, const char *at, size_t len)
{
	strbuf_add(&connection_of(parser)->body, at, len);
	return 0;
}

static int on_message_complete(struct http_parser *parser)
{
	connection_of(parser)->complete = true;
	http_parser_pause(parser, 1);
	return 0;
}

static const struct http_parser_settings callbacks = {
	.on_url = on_url,
	.on_header_field = on_header_field,
	.on_header_value = on_header_value,
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_message_complete,
};

/* ---- one request ---- */

static void answer_request(struct connection *c)
{
	struct http_server *s = c->server;
	struct http_request request = {
		.method = http_method_str((enum http_method)c->parser.method),
		.path = c->path,
		.body = c->body.text,
		.body_len = c->body.len,
		.fds = c->fds,
		.n_fds = c->n_fds,
	};
	struct http_response response = {};

	s->handler(s->owner, &request, &response);
	strbuf_printf(&c->out, "HTTP/1.1 %d \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n",
		      response.status);
	if (response.status != 204)
		strbuf_printf(&c->out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", response.body.len);
	strbuf_puts(&c->out, "\r\n");
	if (response.status != 204 && response.body.text)
		strbuf_add(&c->out, response.body.text, response.body.len);
	c->stops_loop |= response.stops_loop;
	c->out.failed |= response.body.failed;
	strbuf_done(&response.body);
	next_request(c);
}

/* The parser alone would take `GET  /x`, `GET /x` without a version, and any byte in a URI. */
static int parse_request_line(struct connection *c)
{
	size_t len = c->line_len;
	unsigned spaces = 0;
	bool is_ascii = true, no_uri = false;

	for (size_t i = 0; i < len; i++) {
		spaces += c->line[i] == ' ';
		is_ascii &= c->line[i] != 0 && (unsigned char)c->line[i] < 0x80;
		no_uri |= i > 0 && c->line[i] == ' ' && c->line[i - 1] == ' ';
	}
	if (spaces < 2 || c->line[len - 2] != '\r')
		return refuse_request(c, "Invalid request.");
	if (no_uri)
		return refuse_request(c, "Invalid URI: Empty URI not allowed.");
	if (!is_ascii)
		return refuse_request(c, "Invalid URI: Cannot parse URI as UTF-8.");
	http_parser_execute(&c->parser, &callbacks, c->line, len);
	unsigned method = c->parser.method;
	enum http_errno e = HTTP_PARSER_ERRNO(&c->parser);
	if (e == HPE_CB_url)
		return refuse_request(c, "Out of memory.");
	if (e == HPE_INVALID_METHOD ||
	    (method != HTTP_GET && method != HTTP_PUT && method != HTTP_PATCH && method != HTTP_DELETE))
		return refuse_request(c, "Invalid HTTP Method: Unsupported HTTP method.");
	if (e == HPE_INVALID_VERSION || e == HPE_INVALID_CONSTANT || (e == HPE_OK && c->parser.http_major != 1) ||
	    c->parser.http_minor > 1)
		return refuse_request(c, "Invalid HTTP Version: Unsupported HTTP version.");
	if (e != HPE_OK)
		return refuse_request(c, "Invalid URI: Cannot parse URI as UTF-8.");
	return 0;
}

/* The parser refused the header in c->line, CR LF included. */
static int refuse_header(struct connection *c, enum http_errno e)
{
	const char *colon = memchr(c->line, ':', c->line_len);

	if (e == HPE_INVALID_CONTENT_LENGTH && colon) {
		const char *value = colon + 1 + strspn(colon + 1, " \t");
		int len = (int)(c->line + c->line_len - 2 - value);
		return refuse_request(c, "Invalid header. Reason: Invalid value. Key:Content-Length; Value: %.*s",
				      len > 0 ? len : 0, value);
	}
	if (e == HPE_INVALID_HEADER_TOKEN)
		return refuse_request(c, "Invalid header. Reason: Header is incorrectly formatted. Key: %.*s",
				      (int)c->line_len - 2, c->line);
	return refuse_request(c, "Invalid request.");
}

static int parse_header_line(struct connection *c)
{
	if (memchr(c->line, '\0', c->line_len) || c->line_len < 2 || c->line[c->line_len - 2] != '\r')
		return refuse_request(c, "Invalid request.");
	if (c->line[0] == ' ' || c->line[0] == '\t')
		return refuse_header(c, HPE_INVALID_HEADER_TOKEN);
	http_parser_execute(&c->parser, &callbacks, c->line, c->line_len);
	enum http_errno e = HTTP_PARSER_ERRNO(&c->parser);
	if (e != HPE_OK && e != HPE_PAUSED)
		return refuse_header(c, e);
	return 0;
}

/* The empty line was parsed: may the body come? */
static int check_head(struct connection *c)
{
	const struct http_parser *p = &c->parser;

	if (p->uses_transfer_encoding)
		return refuse_request(c, "Invalid request.");
	if (c->complete)
		return 0;
	if (p->content_length > UINT32_MAX) /* in Cloud Hypervisor, Content-Length is a number of 32 bits */
		return refuse_request(c, "Invalid header. Reason: Invalid value. Key:Content-Length; Value: %llu",
				      (unsigned long long)p->content_length);
	if (p->content_length > HTTP_BODY_MAX)
		return refuse_request(
			c, "Request payload with size %llu is larger than the limit of %d allowed by server.",
			(unsigned long long)p->content_length, HTTP_BODY_MAX);
	if (c->expects_continue)
		strbuf_printf(&c->out, "HTTP/1.%u 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n",
			      p->http_minor);
	return 0;
}

static int parse_line(struct connection *c)
{
	int r = c->n_lines == 0 ? parse_request_line(c) : parse_header_line(c);

	if (r < 0)
		return r;
	c->n_lines++;
	c->line_len = 0;
	return c->in_body ? check_head(c) : 0;
}

/* Takes the bytes of the line being gathered. Returns the number of bytes taken, or -EPROTO. */
static ssize_t take_head(struct connection *c, const char *bytes, size_t len)
{
	size_t room = sizeof(c->line) - c->line_len;
	const char *lf = memchr(bytes, '\n', len < room ? len : room);
	size_t n = lf ? (size_t)(lf - bytes) + 1 : len < room ? len : room;

	memcpy(c->line + c->line_len, bytes, n);
	c->line_len += n;
	if (lf)
		return parse_line(c) < 0 ? -EPROTO : (ssize_t)n;
	if (c->line_len < sizeof(c->line))
		return (ssize_t)n;
	if (c->n_lines == 0)
		return refuse_request(c, "Invalid request.");
	return refuse_request(c, "Invalid header. Reason: Invalid content length. Header: %.*s", (int)c->line_len,
			      c->line);
}

static ssize_t take_body(struct connection *c, const char *bytes, size_t len)
{
	size_t n = http_parser_execute(&c->parser, &callbacks, bytes, len);
	enum http_errno e = HTTP_PARSER_ERRNO(&c->parser);

	if ((e != HPE_OK && e != HPE_PAUSED) || c->body.failed)
		return refuse_request(c, "%s", c->body.failed ? "Out of memory." : "Invalid request.");
	return (ssize_t)n;
}

/* Parses and answers all requests in `bytes`. After an error the rest of `bytes` is dropped. */
static void take_bytes(struct connection *c, const char *bytes, size_t len)
{
	while (len > 0 && !c->refused && !c->stops_loop) {
		ssize_t n = c->in_body ? take_body(c, bytes, len) : take_head(c, bytes, len);
		if (n < 0)
			return;
		bytes += n;
		len -= (size_t)n;
		if (c->complete)
			answer_request(c);
	}
}

/* ---- sockets ---- */

static void wait_for(struct connection *c, bool blocked)
{
	if (c->blocked != blocked)
		loop_mod(c->server->loop, &c->source, blocked ? EPOLLOUT : EPOLLIN);
	c->blocked = blocked;
}

/*
 * Sends what can be sent now. A client that asks for vmm.shutdown before it has read earlier answers
 * may lose those answers.
 */
static void flush_answers(struct connection *c)
{
	struct err err = {};
	ssize_t n = 0;

	while (n >= 0 && !c->out.failed && c->out_sent < c->out.len) {
		n = sock_send(c->source.fd, c->out.text + c->out_sent, c->out.len - c->out_sent, NULL, 0, &err);
		c->out_sent += n > 0 ? (size_t)n : 0;
	}
	if (n == -EAGAIN && !c->stops_loop) {
		wait_for(c, true);
		return;
	}
	if (n < 0 || c->out.failed || c->stops_loop) {
		connection_close(c);
		return;
	}
	if (c->refused)
		shutdown(c->source.fd, SHUT_WR);
	strbuf_done(&c->out);
	c->out_sent = 0;
	wait_for(c, false);
}

static int keep_fds(struct connection *c, const int *fds, uint32_t n)
{
	if (n == 0)
		return 0;
	int *all = c->n_fds + n <= HTTP_FDS_MAX ? realloc(c->fds, (c->n_fds + n) * sizeof(*all)) : NULL;
	if (!all) {
		close_fds(fds, n);
		return -EMFILE;
	}
	memcpy(all + c->n_fds, fds, n * sizeof(*all));
	c->fds = all;
	c->n_fds += n;
	return 0;
}

static void on_readable(struct connection *c)
{
	char bytes[16384];
	int fds[SOCK_FDS_MAX];
	uint32_t n_fds;
	struct err err = {};
	char line[256];

	ssize_t n = sock_recv(c->source.fd, bytes, sizeof(bytes), fds, &n_fds, &err);
	if (n == -EAGAIN)
		return;
	if (n < 0)
		log_warn("api: %s", err_line(&err, line, sizeof(line)));
	if (n == 0 || (n < 0 && err.num != -EMFILE)) {
		connection_close(c);
		return;
	}
	if (c->refused)
		close_fds(fds, n_fds);
	else if (n < 0)
		refuse_request(c, "Descriptors were lost.");
	else if (keep_fds(c, fds, n_fds) < 0)
		refuse_request(c, "Too many descriptors.");
	else
		take_bytes(c, bytes, (size_t)n);
	if (c->out.len > 0 || c->out.failed)
		flush_answers(c);
}

static void connection_ready(struct source *source, uint32_t events)
{
	struct connection *c = container_of(source, struct connection, source);

	if (c->out.len > 0)
		flush_answers(c);
	else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		on_readable(c);
}

static void send_busy(int fd)
{
	static const char text[] = "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\n"
				   "Content-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }";
	struct err err = {};

	if (sock_send(fd, text, sizeof(text) - 1, NULL, 0, &err) < 0)
		log_debug("api: a client above the limit went away");
}

/*
 * Refuses a client when no descriptor number is left. A client that stayed in the queue would keep the
 * loop turning for ever.
 */
static void refuse_one(struct http_server *s)
{
	log_error("api: a client is refused: too many open files");
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	int fd = accept4(s->source.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		send_busy(fd);
		close(fd);
	}
	s->spare_fd = fcntl(s->source.fd, F_DUPFD_CLOEXEC, 0);
}

static void listener_ready(struct source *source, uint32_t events)
{
	struct http_server *s = container_of(source, struct http_server, source);
	struct connection *c = s->connections, *end = c + HTTP_CONNECTIONS_MAX;
	struct err err = {};
	char line[256];

	(void)events;
	autoclose int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE)
			refuse_one(s);
		return;
	}
	while (c < end && c->source.ready)
		c++;
	if (c == end) {
		send_busy(fd);
		return;
	}
	*c = (struct connection){ .server = s, .source = { .fd = fd, .ready = connection_ready } };
	http_parser_init(&c->parser, HTTP_REQUEST);
	if (loop_add(s->loop, &c->source, EPOLLIN, &err) < 0) {
		log_error("api: %s", err_line(&err, line, sizeof(line)));
		*c = (struct connection){ .server = s };
		return;
	}
	steal_fd(&fd);
}

struct http_server *http_server_new(struct loop *loop, int listen_fd, http_handler *handler, void *owner,
				    struct err *err)
{
	struct http_server *s = calloc(1, sizeof(*s));

	if (!s) {
		err_num(err, ERR_INTERNAL, ENOMEM, "start the API server");
		return NULL;
	}
	s->loop = loop;
	s->handler = handler;
	s->owner = owner;
	s->source = (struct source){ .fd = listen_fd, .ready = listener_ready };
	s->spare_fd = fcntl(listen_fd, F_DUPFD_CLOEXEC, 0);
	http_parser_set_max_header_size(HTTP_HEAD_MAX);
	if (loop_add(loop, &s->source, EPOLLIN, err) < 0) {
		s->source.ready = NULL;
		http_server_free(s);
		return NULL;
	}
	return s;
}

void http_server_free(struct http_server *s)
{
	if (!s)
		return;
	for (struct connection *c = s->connections; c < s->connections + HTTP_CONNECTIONS_MAX; c++) {
		if (c->source.ready)
			connection_close(c);
	}
	loop_del(s->loop, &s->source);
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	free(s);
}
