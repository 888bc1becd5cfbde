// SPDX-License-Identifier: Apache-2.0
/* A connection: its bytes, the request that comes in, and the moment at which the request runs. */
#include "forkd/front/relay.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/sock.h"
#include "forkd/errors.h"

enum { STEPS_ALONE = 64 }; /* after so many steps in a row another thread must be there for the others */

/* ---- bytes ---- */

/* Descriptors that come behind the first byte are not wanted. */
static ssize_t recv_local(int fd, char *buf, size_t size)
{
	int fds[SOCK_FDS_MAX];
	uint32_t n_fds;
	struct err err = {};

	ssize_t n = sock_recv(fd, buf, size, fds, &n_fds, &err);
	for (uint32_t i = 0; i < n_fds; i++)
		sock_close_sent(fds[i]);
	return n;
}

ssize_t conn_recv(struct conn *c, char *buf, size_t size)
{
	ssize_t n;

	if (c->tls)
		return tls_recv(c->tls, buf, size);
	if (c->peer->caller.local)
		return recv_local(c->peer->fd, buf, size);
	do
		n = recv(c->peer->fd, buf, size, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t conn_send(struct conn *c, const char *bytes, size_t len)
{
	ssize_t n;

	if (c->tls)
		return tls_send(c->tls, bytes, len);
	do
		n = send(c->peer->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

bool conn_has_more(const struct conn *c)
{
	return c->rest.len > 0 || (c->tls && c->state != CONN_HANDSHAKE && tls_has_more(c->tls));
}

enum step conn_wait(struct conn *c, uint32_t events, int deadline)
{
	if ((events & EPOLLIN) && conn_has_more(c))
		return STEP_ON;
	if (!(events & EPOLLIN) && !c->peer->caller.local)
		events |= EPOLLRDHUP; /* as peer_gone() */
	if (deadline >= 0)
		pool_deadline(c->front->pool, &c->peer->source, (unsigned)deadline);
	pool_arm(c->front->pool, &c->peer->source, 0, events);
	return STEP_WAIT;
}

/* ---- for the owner ---- */

const struct message *conn_request(const struct conn *c)
{
	return &c->request;
}

struct peer *conn_peer(const struct conn *c)
{
	return c->peer;
}

uint64_t conn_begun_ns(const struct conn *c)
{
	return c->begun_ns;
}

bool conn_gone(const struct conn *c)
{
	return front_stopping(c->front) || peer_gone(c->peer);
}

void conn_begin_now(struct conn *c)
{
	c->begin_now = true;
}

/* ---- the request ---- */

static void on_body(struct message *m, const char *bytes, size_t len)
{
	struct conn *c = container_of(m, struct conn, request);

	if (!c->cut && !c->front->hooks.body(c->rq, bytes, len))
		c->cut = true;
}

static void next_request(struct conn *c)
{
	message_done(&c->request);
	message_begin(&c->request, HTTP_REQUEST, FRONT_HEAD_MAX);
	c->request.body = on_body;
	c->begun_ns = 0;
	c->answered = c->begin_now = false;
	c->state = CONN_READ;
}

static void end_request(struct conn *c)
{
	if (c->rq)
		c->front->hooks.done(steal_ptr(&c->rq));
}

void conn_settle(struct conn *c)
{
	struct front *f = c->front;

	if (!c->counted)
		return;
	c->counted = false;
	pthread_mutex_lock(&f->lock);
	if (--f->n_running == 0)
		pthread_cond_broadcast(&f->idle);
	pthread_mutex_unlock(&f->lock);
}

/* What comes is no request, or one that nobody can run. */
static void refuse(struct conn *c, const struct err *err)
{
	struct response a = { .status = error_info(err)->status, .close = true };

	strbuf_puts(&a.fields, "Content-Type: application/json\r\n");
	error_body(err, &a.body);
	log_debug("http: refused: %s", a.body.text);
	conn_answer(c, &a);
}

/* Lets a client that asked send its body. */
static void send_continue(struct conn *c)
{
	strbuf_puts(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
	if (conn_flush(c) != 0)
		c->cut = true;
}

static void on_head(struct conn *c, bool more_came)
{
	const struct message *m = &c->request;

	c->rq = c->front->hooks.head(c->front->hooks.arg, c);
	if (!c->rq)
		c->cut = true;
	else if (c->begin_now && !c->answered)
		c->state = CONN_RUN;
	else if (!c->answered && !m->complete && !more_came && message_expects_continue(m))
		send_continue(c);
}

/* Takes bytes of the client; what belongs to the next request stays in c->rest. */
static void take(struct conn *c, const char *bytes, size_t len)
{
	struct message *m = &c->request;
	struct err err = {};

	if (!c->begun_ns)
		c->begun_ns = monotonic_ns();
	while (len > 0 && c->state == CONN_READ && !c->cut) {
		ssize_t n = m->has_head ? message_body(m, bytes, len, &err) : message_head(m, bytes, len, &err);
		if (n < 0) {
			refuse(c, &err);
			return;
		}
		bytes += n;
		len -= (size_t)n;
		if (m->has_head && !c->rq && !c->cut)
			on_head(c, len > 0);
		if (c->state == CONN_READ && m->complete)
			c->state = CONN_RUN;
	}
	strbuf_add(&c->rest, bytes, len);
	if (c->cut || c->rest.failed)
		c->state = CONN_END;
}

static enum step read_step(struct conn *c)
{
	autostrbuf struct strbuf rest = c->rest;
	char bytes[CONN_READ_BYTES];

	c->rest = (struct strbuf){};
	if (rest.len > 0) {
		take(c, rest.text, rest.len);
		return STEP_ON;
	}
	ssize_t n = conn_recv(c, bytes, sizeof(bytes));
	if (n == -EAGAIN)
		return conn_wait(c, EPOLLIN, DEADLINE_IDLE);
	if (n > 0)
		take(c, bytes, (size_t)n);
	else
		c->state = CONN_END;
	return STEP_ON;
}

static enum step run_step(struct conn *c)
{
	struct front *f = c->front;
	struct err err = {};

	if (front_stopping(f)) {
		c->state = CONN_END;
		return STEP_ON;
	}
	if (!pool_another(f->pool)) {
		fail(&err, E_BUSY, "no thread can be made for the request");
		refuse(c, &err);
		return STEP_ON;
	}
	pthread_mutex_lock(&f->lock);
	f->n_running++;
	pthread_mutex_unlock(&f->lock);
	c->counted = true;
	f->hooks.run(c->rq);
	if (!c->answered)
		c->state = CONN_END;
	if (c->state != CONN_RELAY) /* whose request goes on */
		end_request(c);
	return STEP_ON;
}

/* ---- what was answered is sent ---- */

static void on_sent(struct conn *c)
{
	conn_settle(c);
	end_request(c);
	if (!c->close) {
		next_request(c);
		return;
	}
	if (c->tls)
		tls_end(c->tls);
	/* A client that is still sending would miss the answer, if the connection ended at once. */
	bool linger = !c->peer->caller.local || !c->request.complete;
	if (linger)
		shutdown(c->peer->fd, SHUT_WR);
	c->begun_ns = monotonic_ns();
	c->state = linger ? CONN_LINGER : CONN_END;
}

static enum step write_step(struct conn *c)
{
	int r = conn_flush(c);

	if (r == -EAGAIN)
		return conn_wait(c, EPOLLOUT, DEADLINE_IDLE);
	if (r == 0)
		on_sent(c);
	else
		c->state = CONN_END;
	return STEP_ON;
}

static enum step linger_step(struct conn *c)
{
	const uint64_t max_ns = 30ULL * 1000000000;
	char bytes[CONN_READ_BYTES];

	strbuf_done(&c->rest);
	ssize_t n = c->tls ? recv(c->peer->fd, bytes, sizeof(bytes), MSG_DONTWAIT) : conn_recv(c, bytes, sizeof(bytes));
	if (n == -EAGAIN || (n < 0 && c->tls && errno == EAGAIN)) {
		pool_deadline(c->front->pool, &c->peer->source, DEADLINE_LINGER);
		pool_arm(c->front->pool, &c->peer->source, 0, EPOLLIN);
		return STEP_WAIT;
	}
	if (n <= 0 || monotonic_ns() - c->begun_ns > max_ns)
		c->state = CONN_END;
	return STEP_ON;
}

/* ---- the source ---- */

static enum step handshake_step(struct conn *c)
{
	int r = tls_handshake(c->tls);

	if (r == -EAGAIN)
		return conn_wait(c, tls_wants_write(c->tls) ? EPOLLOUT : EPOLLIN, DEADLINE_IDLE);
	c->state = r == 0 ? CONN_READ : CONN_END;
	return STEP_ON;
}

static enum step (*const steps[])(struct conn *c) = {
	[CONN_HANDSHAKE] = handshake_step, [CONN_READ] = read_step,          [CONN_RUN] = run_step,
	[CONN_WRITE] = write_step,         [CONN_STREAM] = conn_stream_step, [CONN_RELAY] = relay_step,
	[CONN_LINGER] = linger_step,
};

static void conn_free(struct conn *c)
{
	end_request(c);
	conn_settle(c);
	conn_end_stream(c);
	relay_end(c);
	tls_free(c->tls);
	message_done(&c->request);
	strbuf_done(&c->rest);
	strbuf_done(&c->out);
	peer_close(c->peer);
	free(c);
}

static bool conn_ready(struct source *s, unsigned why)
{
	struct conn *c = container_of(s, struct peer, source)->user;

	if ((why & POOL_STOP) || (why == POOL_TIMEOUT && c->state != CONN_STREAM))
		c->state = CONN_END;
	for (unsigned i = 1; c->state != CONN_END; i++) {
		if (steps[c->state](c) == STEP_WAIT)
			return true;
		if (i % STEPS_ALONE == 0)
			(void)pool_another(c->front->pool);
	}
	conn_free(c);
	return false;
}

bool conn_start(struct front *f, struct peer *peer)
{
	struct conn *c = calloc(1, sizeof(*c));
	struct err err = {};

	if (!c) {
		peer_close(peer);
		return false;
	}
	c->front = f;
	c->peer = peer;
	peer->user = c;
	peer->source.ready = conn_ready;
	next_request(c);
	c->begun_ns = peer->first_ns;
	if (peer->caller.local)
		strbuf_add(&c->rest, &peer->first, 1);
	if (peer->tls && tls_new(f->tls, peer->fd, &c->tls, &err) < 0)
		c->state = CONN_END;
	else if (peer->tls)
		c->state = CONN_HANDSHAKE;
	return conn_ready(&peer->source, POOL_EVENT);
}
