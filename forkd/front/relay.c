// SPDX-License-Identifier: Apache-2.0
/* Bytes between a client and a server behind a socket, and HTTP's frames around them. */
#include "forkd/front/relay.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "common/log.h"
#include "forkd/errors.h"

enum { FRAME_BYTES = 32 }; /* the most that frames add to one piece of a body */

/* Bytes on their way in one direction. */
struct flow {
	char *bytes; /* RELAY_BYTES */
	size_t begin, end;
	bool chunked; /* frames are put around what comes in */
	bool ended;   /* nothing more comes in */
	bool shut;    /* the end was passed on */
};

struct relay {
	struct relay_options opt;
	struct message response;
	struct strbuf request_head; /* for the server */
	size_t head_sent;
	struct flow up, down;
	unsigned n_interim;
	bool upgrade;   /* the client has asked for another protocol */
	bool raw;       /* and the server has agreed: bytes are passed on as they are */
	bool answering; /* the head of the response is on its way to the client */
	bool deaf;      /* the server takes nothing more */
	bool cut;       /* the response ended before its end: so does the connection, when `down` is sent */
};

/* ---- flows ---- */

static size_t flow_len(const struct flow *f)
{
	return f->end - f->begin;
}

/* Room for bytes that come in, besides frames. */
static size_t flow_room(struct flow *f)
{
	if (f->begin > 0 && f->end > RELAY_BYTES / 2) {
		memmove(f->bytes, f->bytes + f->begin, flow_len(f));
		f->end -= f->begin;
		f->begin = 0;
	}
	size_t room = RELAY_BYTES - f->end;
	return room > FRAME_BYTES ? room - FRAME_BYTES : 0;
}

static void flow_add(struct flow *f, const char *bytes, size_t len)
{
	memcpy(f->bytes + f->end, bytes, len);
	f->end += len;
}

static void flow_add_body(struct flow *f, const char *bytes, size_t len)
{
	if (f->chunked)
		f->end += (size_t)sprintf(f->bytes + f->end, "%zx\r\n", len);
	flow_add(f, bytes, len);
	if (f->chunked)
		flow_add(f, "\r\n", 2);
}

static void flow_end(struct flow *f)
{
	if (f->chunked && !f->ended)
		flow_add(f, "0\r\n\r\n", 5);
	f->ended = true;
}

static void flow_sent(struct flow *f, size_t n)
{
	f->begin += n;
	if (f->begin == f->end)
		f->begin = f->end = 0;
}

/* ---- heads ---- */

/* Fields that are about one connection (RFC 9110, 7.6.1), and those that frame the body. */
static bool is_of_connection(const struct message *m, const char *name)
{
	static const char *const names[] = {
		"Connection",        "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate",  "TE",
		"Transfer-Encoding", "Trailer",    "Upgrade",          "Proxy-Authorization", "Expect",
		"Content-Length",    NULL
	};

	for (const char *const *n = names; *n; n++)
		if (strcasecmp(*n, name) == 0)
			return true;
	return message_listed(message_field(m, "Connection"), name);
}

static bool is_one_of(const char *const *names, const char *name)
{
	for (; names && *names; names++)
		if (strcasecmp(*names, name) == 0)
			return true;
	return false;
}

void relay_copy_fields(const struct message *m, const char *const *dropped, struct strbuf *out)
{
	const char *name, *value;
	size_t pos = 0;

	while (message_next(m, &pos, &name, &value))
		if (!is_of_connection(m, name) && !is_one_of(dropped, name))
			strbuf_printf(out, "%s: %s\r\n", name, value);
}

/* How the body is framed, as the head `m` says it. */
static void add_framing(const struct message *m, struct strbuf *out)
{
	if (message_is_chunked(m))
		strbuf_puts(out, "Transfer-Encoding: chunked\r\n");
	else if (message_length(m) != UINT64_MAX)
		strbuf_printf(out, "Content-Length: %llu\r\n", (unsigned long long)message_length(m));
}

bool relay_upgrade_asked(const struct message *m)
{
	return m->minor == 1 && message_field(m, "Upgrade") && !message_has_body(m) &&
	       message_listed(message_field(m, "Connection"), "upgrade");
}

/* Ends the head that the owner has begun. */
static void end_request_head(const struct conn *c, struct relay *r)
{
	struct strbuf *out = &r->request_head;

	*out = r->opt.head;
	r->opt.head = (struct strbuf){};
	add_framing(&c->request, out);
	if (message_has_body(&c->request) && message_expects_continue(&c->request))
		strbuf_puts(out, "Expect: 100-continue\r\n");
	if (r->upgrade)
		strbuf_printf(out, "Connection: Upgrade\r\nUpgrade: %s\r\n\r\n", message_field(&c->request, "Upgrade"));
	else
		strbuf_puts(out, "Connection: close\r\n\r\n");
}

static bool is_head_request(const struct conn *c)
{
	return strcmp(c->request.method, "HEAD") == 0;
}

/* The head of the response, as the client gets it. */
static void begin_answer(struct conn *c, struct relay *r)
{
	const struct message *m = &r->response;
	bool bare = m->status == 204 || m->status == 304, frames = message_length(m) == UINT64_MAX && !bare;
	struct response a = { .status = m->status, .close = frames && c->request.minor == 0 };

	relay_copy_fields(m, r->opt.dropped, &a.fields);
	strbuf_puts(&a.fields, r->opt.added ? r->opt.added : "");
	if (!frames && !bare)
		add_framing(m, &a.fields);
	r->down.chunked = frames && c->request.minor == 1 && !is_head_request(c);
	if (frames && c->request.minor == 1)
		strbuf_puts(&a.fields, "Transfer-Encoding: chunked\r\n");
	a.dated = message_field(m, "Date") != NULL;
	conn_begin_answer(c, &a);
	r->answering = true;
	if (c->front->hooks.answered)
		c->front->hooks.answered(c->rq, m->status);
}

/* Bytes go both ways from now on. `from` has the protocol's name; `response`: the server's other words, or NULL. */
static void begin_raw(struct conn *c, struct relay *r, const struct message *from, const struct message *response)
{
	const char *upgrade = message_field(from, "Upgrade");

	strbuf_puts(&c->out, "HTTP/1.1 101 Switching Protocols\r\n");
	if (response)
		relay_copy_fields(response, r->opt.dropped, &c->out);
	strbuf_printf(&c->out, "Connection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgrade ? upgrade : "");
	r->raw = r->answering = c->answered = c->close = true;
	r->up.ended = r->deaf; /* there was no body; now there is more than that */
	if (c->front->hooks.answered)
		c->front->hooks.answered(c->rq, 101);
}

/* ---- from the server ---- */

/* The client gets an error instead of a response. The relay ends. */
static void answer_error(struct conn *c, const struct err *err)
{
	struct response a = { .status = error_info(err)->status, .close = true };

	strbuf_puts(&a.fields, "Content-Type: application/json\r\n");
	error_body(err, &a.body);
	if (c->front->hooks.answered)
		c->front->hooks.answered(c->rq, a.status);
	relay_end(c);
	conn_answer(c, &a);
}

/* The server's answer is none. The client gets an error, if nothing was answered yet. */
static void give_up(struct conn *c, struct relay *r, struct err *err)
{
	char line[ERR_MSG_BYTES];

	fail_as(err, E_AGENT, "%s", r->opt.what);
	log_info("http: %s", err_line(err, line, sizeof(line)));
	if (r->answering) { /* the client sees it by the missing end */
		r->cut = r->down.ended = true;
		return;
	}
	answer_error(c, err);
}

static void on_response_body(struct message *m, const char *bytes, size_t len)
{
	struct relay *r = container_of(m, struct relay, response);

	flow_add_body(&r->down, bytes, len);
}

static void begin_response(const struct conn *c, struct relay *r)
{
	message_done(&r->response);
	message_begin(&r->response, HTTP_RESPONSE, RELAY_HEAD_MAX);
	r->response.body = on_response_body;
	r->response.answers_head = is_head_request(c);
}

/* The head of a response has come, perhaps not of the last one. */
static int on_response_head(struct conn *c, struct relay *r, struct err *err)
{
	unsigned status = r->response.status;

	if (status == 101 && r->upgrade) {
		begin_raw(c, r, &r->response, &r->response);
		return 0;
	}
	if (status == 101 || (status < 200 && ++r->n_interim > RELAY_INTERIM_MAX))
		return fail(err, E_INVALID,
			    status == 101 ? "a change of protocol that nobody has asked for"
					  : "too many responses of status 1xx");
	if (status >= 200) {
		begin_answer(c, r);
		return 0;
	}
	if (status == 100 && message_expects_continue(&c->request) && !c->request.complete)
		strbuf_puts(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
	begin_response(c, r);
	return 0;
}

/* Takes bytes of the server, for which `down` has room. */
static int take_response(struct conn *c, struct relay *r, const char *bytes, size_t len, struct err *err)
{
	struct message *m = &r->response;

	while (len > 0 && !r->raw && !m->complete) {
		ssize_t n = m->has_head ? message_body(m, bytes, len, err) : message_head(m, bytes, len, err);
		if (n < 0)
			return err->num;
		bytes += n;
		len -= (size_t)n;
		if (m->has_head && !r->answering && on_response_head(c, r, err) < 0)
			return err->num;
	}
	if (r->raw)
		flow_add(&r->down, bytes, len);
	else if (m->complete)
		flow_end(&r->down); /* what comes behind it is for nobody */
	return 0;
}

static void response_eof(struct conn *c, struct relay *r)
{
	struct err err = {};

	if (r->raw) {
		r->down.ended = true;
	} else if (message_eof(&r->response, &err) == 0) {
		flow_end(&r->down);
	} else {
		give_up(c, r, &err);
	}
}

/* The functions that move bytes return true when something has changed. */

static bool pull_down(struct conn *c, struct relay *r)
{
	char bytes[CONN_READ_BYTES];
	struct err err = {};
	size_t room = flow_room(&r->down);

	if (r->down.ended || room < FRAME_BYTES)
		return false;
	ssize_t n = recv(r->opt.upstream, bytes, room < sizeof(bytes) ? room : sizeof(bytes), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0)
		response_eof(c, r);
	else if (take_response(c, r, bytes, (size_t)n, &err) < 0)
		give_up(c, r, &err);
	return true;
}

static bool push_down(struct conn *c, struct relay *r)
{
	int e = conn_flush(c);

	if (e < 0 && e != -EAGAIN)
		c->state = CONN_END;
	if (e < 0 || flow_len(&r->down) == 0)
		return false;
	ssize_t n = conn_send(c, r->down.bytes + r->down.begin, flow_len(&r->down));
	if (n < 0 && n != -EAGAIN)
		c->state = CONN_END;
	if (n > 0)
		flow_sent(&r->down, (size_t)n);
	return n > 0;
}

/* ---- from the client ---- */

static void on_request_body(struct message *m, const char *bytes, size_t len)
{
	struct conn *c = container_of(m, struct conn, request);

	if (!c->relay->deaf)
		flow_add_body(&c->relay->up, bytes, len);
}

/* Takes bytes of the client, for which `up` has room. Returns how many were taken, or that the request is none. */
static ssize_t take_request(struct conn *c, struct relay *r, const char *bytes, size_t len, struct err *err)
{
	if (r->raw) {
		flow_add(&r->up, bytes, len);
		return (ssize_t)len;
	}
	ssize_t n = message_body(&c->request, bytes, len, err);
	if (n < 0)
		log_debug("http: %s", err->msg);
	if (c->request.complete)
		flow_end(&r->up);
	return n;
}

/* Whether more of the client is wanted now. */
static bool wants_client(const struct conn *c, struct relay *r)
{
	return !r->up.ended && (r->raw || !c->request.complete) && flow_room(&r->up) >= FRAME_BYTES;
}

/* Bytes of the client: those that came before, else what the socket has. */
static ssize_t get_client(struct conn *c, char *bytes, size_t size)
{
	if (c->rest.len == 0)
		return conn_recv(c, bytes, size);
	size_t n = c->rest.len < size ? c->rest.len : size;
	memcpy(bytes, c->rest.text, n);
	memmove(c->rest.text, c->rest.text + n, c->rest.len - n);
	c->rest.len -= n;
	return (ssize_t)n;
}

/* Puts bytes back that belong to what comes next. */
static void unget_client(struct conn *c, const char *bytes, size_t len)
{
	struct strbuf rest = {};

	strbuf_add(&rest, bytes, len);
	strbuf_add(&rest, c->rest.text, c->rest.len);
	strbuf_done(&c->rest);
	c->rest = rest;
}

static bool pull_up(struct conn *c, struct relay *r)
{
	char bytes[CONN_READ_BYTES];
	struct err err = {};

	if (!wants_client(c, r))
		return false;
	size_t room = flow_room(&r->up);
	ssize_t n = get_client(c, bytes, room < sizeof(bytes) ? room : sizeof(bytes));
	if (n == -EAGAIN)
		return false;
	if (n == 0 && r->raw)
		r->up.ended = true;
	ssize_t taken = n > 0 ? take_request(c, r, bytes, (size_t)n, &err) : 0;
	if (taken < 0 && !r->answering)
		answer_error(c, &err); /* the request has no end, so it must not reach the server as a whole one */
	else if (taken < 0 || (n <= 0 && !r->up.ended))
		c->state = CONN_END; /* likewise */
	else if (taken < n)
		unget_client(c, bytes + taken, (size_t)(n - taken));
	return true;
}

/* Sends to the server. A server that takes no more may still answer. */
static ssize_t send_up(struct relay *r, const char *bytes, size_t len)
{
	ssize_t n = send(r->opt.upstream, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		r->deaf = r->up.ended = true;
		r->up.begin = r->up.end = 0;
	}
	return n;
}

static bool push_up(struct relay *r)
{
	struct strbuf *head = &r->request_head;

	if (r->deaf)
		return false;
	if (r->head_sent < head->len) {
		ssize_t n = send_up(r, head->text + r->head_sent, head->len - r->head_sent);
		r->head_sent += n > 0 ? (size_t)n : 0;
		return n > 0;
	}
	if (flow_len(&r->up) > 0) {
		ssize_t n = send_up(r, r->up.bytes + r->up.begin, flow_len(&r->up));
		if (n > 0)
			flow_sent(&r->up, (size_t)n);
		return n > 0;
	}
	if (r->raw && r->up.ended && !r->up.shut) {
		r->up.shut = true;
		shutdown(r->opt.upstream, SHUT_WR);
	}
	return false;
}

/* ---- the whole ---- */

void relay_end(struct conn *c)
{
	struct relay *r = steal_ptr(&c->relay);

	if (!r)
		return;
	pool_drop_second(c->front->pool, &c->peer->source);
	close(r->opt.upstream);
	message_done(&r->response);
	strbuf_done(&r->opt.head);
	strbuf_done(&r->request_head);
	free(r->up.bytes);
	free(r->down.bytes);
	free(r);
}

/* All that came from the server was sent. */
static void end_down(struct conn *c, struct relay *r)
{
	if (r->raw && !r->down.shut) {
		r->down.shut = true;
		if (c->tls)
			tls_end(c->tls);
		shutdown(c->peer->fd, SHUT_WR);
	}
	if (r->cut || (r->raw && r->up.ended && (r->up.shut || r->deaf))) {
		c->state = CONN_END;
	} else if (!r->raw) {
		relay_end(c);
		c->state = CONN_WRITE; /* nothing is left to write: the next request comes */
	}
}

static enum step wait_for_more(struct conn *c, struct relay *r)
{
	struct pool *pool = c->front->pool;
	bool reads = wants_client(c, r), sends = c->out.len > 0 || flow_len(&r->down) > 0;
	bool tells = !r->deaf && (r->head_sent < r->request_head.len || flow_len(&r->up) > 0);
	bool hears = !r->down.ended && flow_room(&r->down) >= FRAME_BYTES;

	/* Nothing is asked about a side that need not move: its end would be reported again and again. */
	if (tells || hears)
		pool_arm(pool, &c->peer->source, 1, (tells ? EPOLLOUT : 0) | (hears ? EPOLLIN : 0));
	if (r->raw && !reads && !sends)
		return STEP_WAIT;
	if (!r->raw && !reads && peer_gone(c->peer)) {
		c->state = CONN_END;
		return STEP_ON;
	}
	if (r->raw) {
		if (reads && conn_has_more(c))
			return STEP_ON;
		pool_arm(pool, &c->peer->source, 0, (reads ? EPOLLIN : 0) | (sends ? EPOLLOUT : 0));
		return STEP_WAIT;
	}
	return conn_wait(c, (reads ? EPOLLIN : 0) | (sends ? EPOLLOUT : 0), -1);
}

enum step relay_step(struct conn *c)
{
	struct relay *r = c->relay;
	bool moved = pull_up(c, r);

	moved |= c->state == CONN_RELAY && push_up(r);
	moved |= c->state == CONN_RELAY && pull_down(c, r);
	moved |= c->state == CONN_RELAY && push_down(c, r);
	if (c->state != CONN_RELAY)
		return STEP_ON;
	if (r->down.ended && flow_len(&r->down) == 0 && c->out.len == 0)
		end_down(c, r);
	if (moved || c->state != CONN_RELAY)
		return STEP_ON;
	return wait_for_more(c, r);
}

void conn_relay(struct conn *c, struct relay_options *opt)
{
	struct relay *r = calloc(1, sizeof(*r));
	struct err err = {};

	if (r) {
		r->up.bytes = malloc(RELAY_BYTES);
		r->down.bytes = malloc(RELAY_BYTES);
	}
	if (!r || !r->up.bytes || !r->down.bytes ||
	    pool_add_second(c->front->pool, &c->peer->source, opt->upstream, &err) < 0) {
		strbuf_done(&opt->head);
		close(opt->upstream);
		if (r) {
			free(r->up.bytes);
			free(r->down.bytes);
		}
		free(r);
		return; /* no answer: the connection is cut */
	}
	r->opt = *opt;
	c->relay = r;
	c->request.body = on_request_body;
	r->up.chunked = message_is_chunked(&c->request);
	r->up.ended = c->request.complete;
	r->upgrade = opt->upgrades && relay_upgrade_asked(&c->request);
	if (opt->tunnel) {
		begin_raw(c, r, &c->request, NULL);
	} else {
		end_request_head(c, r);
		begin_response(c, r);
	}
	c->answered = true;
	c->state = CONN_RELAY;
	conn_settle(c); /* as a stream: the front need not wait for its end */
}
