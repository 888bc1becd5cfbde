// SPDX-License-Identifier: Apache-2.0
/* What the front sends: answers with one body, and streams. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "forkd/front/conn.h"

int conn_flush(struct conn *c)
{
	if (c->out.failed)
		return -ENOMEM;
	while (c->out_sent < c->out.len) {
		ssize_t n = conn_send(c, c->out.text + c->out_sent, c->out.len - c->out_sent);
		if (n < 0)
			return (int)n;
		c->out_sent += (size_t)n;
	}
	strbuf_done(&c->out);
	c->out_sent = 0;
	return 0;
}

static void add_date(struct strbuf *out)
{
	time_t now = time(NULL);
	struct tm tm;
	char text[48];

	if (gmtime_r(&now, &tm) && strftime(text, sizeof(text), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm) > 0)
		strbuf_puts(out, text);
}

/* The head but for its last, empty line. */
static void add_head(struct conn *c, const struct response *a)
{
	const struct message *m = &c->request;

	c->close |= a->close || front_stopping(c->front) || !m->complete || !message_keeps_alive(m);
	strbuf_printf(&c->out, "HTTP/1.1 %u %s\r\n", a->status, http_status_str((enum http_status)a->status));
	if (!a->dated)
		add_date(&c->out);
	strbuf_add(&c->out, a->fields.text, a->fields.len);
	if (c->close)
		strbuf_puts(&c->out, "Connection: close\r\n");
	else if (m->minor == 0)
		strbuf_puts(&c->out, "Connection: keep-alive\r\n");
	c->answered = true;
}

static bool is_head(const struct conn *c)
{
	return strcmp(c->request.method, "HEAD") == 0;
}

void conn_begin_answer(struct conn *c, struct response *a)
{
	add_head(c, a);
	strbuf_puts(&c->out, "\r\n");
	strbuf_done(&a->fields);
	strbuf_done(&a->body);
}

void conn_answer(struct conn *c, struct response *a)
{
	bool bare = a->status == 204 || a->status == 304;

	add_head(c, a);
	if (!bare)
		strbuf_printf(&c->out, "Content-Length: %zu\r\n", a->body.len);
	strbuf_puts(&c->out, "\r\n");
	if (!bare && !is_head(c))
		strbuf_add(&c->out, a->body.text, a->body.len);
	strbuf_done(&a->fields);
	strbuf_done(&a->body);
	c->state = CONN_WRITE;
	(void)conn_flush(c); /* whatever comes of it, the next step sees it, too */
}

/* ---- streams ---- */

void conn_stream(struct conn *c, struct response *a, const struct stream *stream)
{
	struct front *f = c->front;

	c->raw_stream = c->request.minor == 0;
	a->close |= c->raw_stream;
	add_head(c, a);
	strbuf_puts(&c->out, c->raw_stream ? "\r\n" : "Transfer-Encoding: chunked\r\n\r\n");
	strbuf_done(&a->fields);
	strbuf_done(&a->body);
	if (is_head(c)) {
		stream->done(stream->arg);
		c->state = CONN_WRITE;
		return;
	}
	c->stream = *stream;
	c->state = CONN_STREAM;
	conn_settle(c); /* the front need not wait for its end */
	pthread_mutex_lock(&f->lock);
	TAILQ_INSERT_TAIL(&f->streams, c, link);
	pthread_mutex_unlock(&f->lock);
	atomic_fetch_add(&f->n_streams, 1);
}

void conn_end_stream(struct conn *c)
{
	struct front *f = c->front;

	if (!c->stream.pull)
		return;
	pthread_mutex_lock(&f->lock);
	TAILQ_REMOVE(&f->streams, c, link);
	pthread_mutex_unlock(&f->lock);
	atomic_fetch_sub(&f->n_streams, 1);
	c->stream.done(c->stream.arg);
	c->stream = (struct stream){};
}

/* Adds what is new to `out`. 1: there was something; 0: there was nothing; -1: the stream has ended. */
static int pull(struct conn *c)
{
	autostrbuf struct strbuf text = {};
	bool on = !front_stopping(c->front) && c->stream.pull(c->stream.arg, &text);

	if (text.len > 0 && !c->raw_stream)
		strbuf_printf(&c->out, "%zx\r\n", text.len);
	strbuf_add(&c->out, text.text, text.len);
	if (text.len > 0 && !c->raw_stream)
		strbuf_puts(&c->out, "\r\n");
	if (!on && !c->raw_stream)
		strbuf_puts(&c->out, "0\r\n\r\n");
	c->out.failed |= text.failed;
	return !on ? -1 : text.len > 0;
}

enum step conn_stream_step(struct conn *c)
{
	int r = conn_flush(c);

	if (r == -EAGAIN)
		return conn_wait(c, EPOLLOUT, -1);
	if (r < 0 || peer_gone(c->peer)) {
		c->state = CONN_END;
		return STEP_ON;
	}
	r = pull(c);
	if (r == 0)
		return conn_wait(c, 0, DEADLINE_TICK);
	if (r < 0) {
		conn_end_stream(c);
		c->close |= front_stopping(c->front);
		c->state = CONN_WRITE;
	}
	return STEP_ON;
}
