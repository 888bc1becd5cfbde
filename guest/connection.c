// SPDX-License-Identifier: Apache-2.0
/*
 * A connection: reads for the request, writes for the answer, and goes from one request to the next. All
 * changes from one state to another are made in pump(), which runs for events of the socket and after
 * connection_kick(); so a service's call never ends what the service still uses.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/clock.h"
#include "guest/http_internal.h"

/* ---- out ---- */

/* Smaller pieces wait for the end of the round, and go out together. */
enum { SEND_AT_ONCE = 4 << 10 };

static void drop_out(struct connection *c)
{
	free(c->out);
	c->out = NULL;
	c->out_at = c->out_len = c->out_cap = 0;
}

/* Appends to what is not sent yet. */
static void keep(struct connection *c, const char *bytes, size_t len)
{
	if (c->out_at + c->out_len + len > c->out_cap && c->out_at > 0) {
		memmove(c->out, c->out + c->out_at, c->out_len);
		c->out_at = 0;
	}
	if (c->out_len + len > c->out_cap) {
		const size_t need = c->out_len + len, cap = need < 4096 ? 4096 : need + need / 2;
		char *out = realloc(c->out, cap);
		if (!out) {
			c->broken = true;
			return;
		}
		c->out = out;
		c->out_cap = cap;
	}
	memcpy(c->out + c->out_at + c->out_len, bytes, len);
	c->out_len += len;
}

/* The number of bytes sent; 0: the client takes none now. */
static size_t send_some(struct connection *c, struct iovec *iov, int n)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)n };
	ssize_t sent;

	do
		sent = sendmsg(c->watch.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent < 0 && errno == EINTR);
	if (sent >= 0) {
		c->silent_since_ns = monotonic_ns();
		return (size_t)sent;
	}
	if (errno != EAGAIN && errno != EWOULDBLOCK)
		c->broken = true;
	return 0;
}

static void flush(struct connection *c)
{
	if (c->out_len == 0 || c->broken)
		return;
	const size_t sent = send_some(c, &(struct iovec){ c->out + c->out_at, c->out_len }, 1);
	c->out_at += sent;
	c->out_len -= sent;
	if (c->out_len == 0 && c->answer != ANSWER_BEGUN)
		drop_out(c); /* a stream will need it again */
}

void connection_send(struct connection *c, const struct iovec *iov, int n)
{
	struct iovec parts[4];
	size_t sent = 0, all = 0;

	if (c->broken)
		return connection_kick(c);
	memcpy(parts, iov, (size_t)n * sizeof(*iov));
	for (int i = 0; i < n; i++)
		all += iov[i].iov_len;
	if (all >= SEND_AT_ONCE)
		flush(c);
	if (all >= SEND_AT_ONCE && c->out_len == 0)
		sent = send_some(c, parts, n);
	for (int i = 0; i < n; i++) {
		const size_t skip = sent < iov[i].iov_len ? sent : iov[i].iov_len;
		sent -= skip;
		if (skip < iov[i].iov_len)
			keep(c, (const char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
	}
	if (c->broken || c->out_len > 0)
		connection_kick(c);
}

void connection_flush(struct connection *c)
{
	flush(c);
	if (c->out_len > 0)
		shutdown(c->watch.fd, SHUT_RDWR);
}

/* ---- in ---- */

static bool wants_bytes(const struct connection *c)
{
	if (c->half_closed || c->broken)
		return false;
	if (c->lingering)
		return true;
	return !c->complete && !c->paused && c->leftover.len == 0 && c->out_len < LIMIT_OUT;
}

/* Feeds what was read, and keeps what belongs to later requests. */
static void take(struct connection *c, const char *bytes, size_t len)
{
	const size_t n = request_feed(c, bytes, len);

	if (n < len)
		strbuf_add(&c->leftover, bytes + n, len - n);
	if (c->leftover.failed)
		c->broken = true;
	if (c->complete && !c->broken)
		request_end(c);
}

static void read_some(struct connection *c)
{
	static char buf[LIMIT_LEFTOVER];
	ssize_t n;

	do
		n = recv(c->watch.fd, buf, sizeof(buf), MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return;
	if (n < 0) {
		c->broken = true;
	} else if (n == 0) {
		c->half_closed = true;
	} else {
		c->silent_since_ns = monotonic_ns();
		if (!c->lingering)
			take(c, buf, (size_t)n);
	}
}

/* ---- from one state to the next ---- */

static void watch_for(struct connection *c)
{
	const uint32_t events = (wants_bytes(c) ? EPOLLIN : 0) | (c->hup_seen ? 0 : EPOLLRDHUP) |
				(c->out_len > 0 ? EPOLLOUT : 0);

	if (events != c->events)
		loop_set(&c->server->agent->loop, &c->watch, events);
	c->events = events;
}

static void linger_ended(struct timer *t)
{
	connection_free(container_of(t, struct connection, linger));
}

/* Everything is sent: the client gets the time to read it, also when it is still sending. */
static void linger(struct connection *c)
{
	c->lingering = true;
	shutdown(c->watch.fd, SHUT_WR);
	loop_timer_set(&c->server->agent->loop, &c->linger, monotonic_ns() + LIMIT_LINGER_S * UINT64_C(1000000000));
}

/* Is there nothing more to come from this connection, or to be said? */
static bool is_over(struct connection *c)
{
	if (c->broken || c->taken)
		return true;
	if (c->lingering)
		return c->half_closed;
	if (c->hup_seen && c->ex.ends_with_client)
		return true;
	if (!c->half_closed)
		return false;
	return !c->complete && c->out_len == 0;
}

static void next_request(struct connection *c)
{
	autostrbuf struct strbuf leftover = c->leftover;

	if (c->out_len == 0)
		drop_out(c);
	request_reset(c);
	c->leftover = (struct strbuf){};
	if (leftover.len > 0)
		take(c, leftover.text, leftover.len);
}

static void drain(struct connection *c)
{
	if (!c->wants_drain || c->out_len > 0)
		return;
	c->wants_drain = false;
	if (c->answer == ANSWER_BEGUN && c->ex.on_drain)
		c->ex.on_drain(&c->ex);
}

static void pump(struct connection *c)
{
	flush(c);
	drain(c);
	while (!is_over(c) && !c->lingering && c->answer == ANSWER_ENDED) {
		if (c->last && c->out_len == 0)
			linger(c);
		if (c->last || !c->complete || c->out_len >= LIMIT_OUT)
			break;
		next_request(c);
	}
	if (is_over(c))
		return connection_free(c);
	watch_for(c);
}

static void on_kick(struct timer *t)
{
	pump(container_of(t, struct connection, kick));
}

void connection_kick(struct connection *c)
{
	loop_timer_set(&c->server->agent->loop, &c->kick, 0);
}

static void on_ready(struct watch *w, uint32_t events)
{
	struct connection *c = container_of(w, struct connection, watch);

	if (wants_bytes(c) && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		read_some(c);
	else if (events & (EPOLLHUP | EPOLLERR))
		c->broken = true;
	if (events & EPOLLRDHUP)
		c->hup_seen = true;
	pump(c);
}

/* ---- begin and end ---- */

struct connection *connection_new(struct server *s, int fd)
{
	struct connection *c = calloc(1, sizeof(*c));
	struct err err = {};

	if (!c) {
		close(fd);
		return NULL;
	}
	*c = (struct connection){
		.watch = { .fd = fd, .ready = on_ready },
		.events = EPOLLIN | EPOLLRDHUP,
		.server = s,
		.kick.fire = on_kick,
		.linger.fire = linger_ended,
		.silent_since_ns = monotonic_ns(),
	};
	request_reset(c);
	if (loop_add(&s->agent->loop, &c->watch, c->events, &err) < 0) {
		close(fd);
		free(c);
		return NULL;
	}
	c->next = s->connections;
	c->link = &s->connections;
	if (c->next)
		c->next->link = &c->next;
	s->connections = c;
	s->n_connections++;
	return c;
}

void connection_free(struct connection *c)
{
	if (c->begun && c->answer != ANSWER_ENDED && c->ex.on_gone) {
		c->answer = ANSWER_ENDED;
		c->ex.on_gone(&c->ex);
	}
	flush(c);
	loop_del(&c->server->agent->loop, &c->watch);
	loop_timer_cancel(&c->kick);
	loop_timer_cancel(&c->linger);
	if (c->watch.fd >= 0)
		close(c->watch.fd);
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	c->server->n_connections--;
	request_reset(c);
	strbuf_done(&c->leftover);
	drop_out(c);
	free(c);
}

bool connection_is_idle(const struct connection *c, uint64_t *ret_since_ns)
{
	const bool between = !c->head_done && c->url.len == 0 && c->out_len == 0;
	const bool waits = c->lingering || c->out_len > 0 || !c->complete;

	*ret_since_ns = c->silent_since_ns;
	return between || c->lingering ||
	       (waits && monotonic_ns() - c->silent_since_ns >= LIMIT_SILENCE_S * UINT64_C(1000000000));
}
