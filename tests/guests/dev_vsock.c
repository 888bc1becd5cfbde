/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock test: streams to the host's port 2000, which sends back what it gets, and streams from the host to port
 * 1000, where this guest does the same. Every byte and every header is checked, credit and half-closed streams
 * too. A snapshot resets streams: those to the host are begun again, and counted.
 */
#include "devices.h"

#define HOST 2
#define ECHO_PORT 1000 /* ours */
#define HOST_PORT 2000 /* the host's */
#define HEADER 44u
#define PAYLOAD 4096u
#define BUF (64u << 10) /* what a stream may have in flight towards this guest */
#define RX_BUFFERS 32
#define TX_BUFFERS 32
#define CONNS 24
#define PATIENCE_MS 20000

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { NO_RECEIVE = 1, NO_SEND = 2 };

struct packet {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
	uint8_t payload[PAYLOAD];
} __attribute__((packed));

struct conn {
	bool used, echo, open, reset;
	uint8_t host_shut, my_shut;
	uint32_t port, host_port; /* mine, the host's */
	uint32_t sent, got, taken, told, host_alloc, host_taken;
	uint8_t *buf; /* echo: got and not sent yet, a ring; else unused */
	uint32_t total;
};

static struct virtio *vsock;
static struct virtq rx, tx, event;
static uint64_t my_cid;
static struct packet *in, *out;
static struct conn conns[CONNS];
static bool out_busy[TX_BUFFERS];
static uint32_t next_port = 5000;
static uint64_t n_streams, n_bytes, n_lost, n_echoed;

static void give(struct packet *p, bool two)
{
	const struct seg segs[] = { { p, HEADER, true }, { p->payload, PAYLOAD, true } };
	const struct seg one = { p, sizeof(*p), true };
	if (!virtq_add(&rx, two ? segs : &one, two ? 2 : 1, false, p))
		fail("vsock: receive queue full");
}

static void reap(void)
{
	uint32_t len;
	for (struct packet *p; (p = virtq_take(&tx, &len));)
		out_busy[p - out] = false;
}

static struct packet *free_packet(void)
{
	for (;;) {
		for (unsigned i = 0; i < TX_BUFFERS; i++)
			if (!out_busy[i])
				return &out[i];
		virtq_wait(&tx, "vsock send");
		reap();
	}
}

static void send_packet(struct packet *p, uint16_t op, uint32_t port, uint32_t host_port, uint32_t len)
{
	p->src_cid = my_cid;
	p->dst_cid = HOST;
	p->src_port = port;
	p->dst_port = host_port;
	p->len = len;
	p->type = 1;
	p->op = op;
	const struct seg segs[] = { { p, HEADER, false }, { p->payload, len, false } };
	const struct seg one = { p, HEADER + len, false };
	bool two = len > 0 && len % 2;
	reap();
	while (!virtq_add(&tx, two ? segs : &one, two ? 2 : 1, false, p)) {
		virtq_wait(&tx, "vsock send");
		reap();
	}
	out_busy[p - out] = true;
	virtq_kick(&tx);
}

static void say(struct conn *c, uint16_t op, uint32_t flags, struct packet *p, uint32_t len)
{
	p = p ? p : free_packet();
	p->flags = flags;
	p->buf_alloc = BUF;
	p->fwd_cnt = c->told = c->taken;
	send_packet(p, op, c->port, c->host_port, len);
}

static void refuse(const struct packet *h)
{
	struct packet *p = free_packet();
	p->flags = p->buf_alloc = p->fwd_cnt = 0;
	send_packet(p, RST, h->dst_port, h->src_port, 0);
}

static struct conn *conn_new(uint32_t port, uint32_t host_port, bool echo)
{
	for (unsigned i = 0; i < CONNS; i++) {
		struct conn *c = &conns[i];
		if (c->used)
			continue;
		uint8_t *buf = c->buf ? c->buf : ram_alloc(BUF, 64);
		*c = (struct conn){ .used = true, .echo = echo, .port = port, .host_port = host_port, .buf = buf };
		return c;
	}
	return NULL;
}

static uint8_t stream_byte(const struct conn *c, uint32_t at)
{
	return (uint8_t)(mix64(c->port) >> at % 8 * 8) + (uint8_t)(at / 8 * 29);
}

static uint32_t credit(const struct conn *c)
{
	uint32_t flying = c->sent - c->host_taken;
	if (flying > c->host_alloc)
		fail("vsock port %u: the host has room for %u bytes, %u are in flight", c->port, c->host_alloc, flying);
	return c->host_alloc - flying;
}

static void got_bytes(struct conn *c, const struct packet *p)
{
	if (!c->open || (c->host_shut & NO_SEND))
		fail("vsock port %u: %u bytes on a stream that is not open", c->port, p->len);
	if (p->len == 0 || c->got + p->len - c->told > BUF)
		fail("vsock port %u: %u bytes, %u in flight", c->port, p->len, c->got - c->told);
	for (uint32_t i = 0; i < p->len; i++) {
		if (c->echo)
			c->buf[(c->got + i) % BUF] = p->payload[i];
		else if (p->payload[i] != stream_byte(c, c->got + i))
			fail("vsock port %u byte %u: expected %x, got %x", c->port, c->got + i,
			     stream_byte(c, c->got + i), p->payload[i]);
	}
	c->got += p->len;
	if (!c->echo)
		c->taken = c->got;
	if (!c->echo && c->got > c->sent)
		fail("vsock port %u: %u bytes sent, %u came back", c->port, c->sent, c->got);
}

static void got_packet(const struct packet *p, uint32_t len)
{
	struct conn *c = NULL;
	if (len < HEADER || len != HEADER + p->len)
		fail("vsock: %u bytes written, header says %u", len, p->len);
	if (p->src_cid != HOST || p->dst_cid != my_cid || p->type != 1 || (p->op != RW && p->len))
		fail("vsock: packet from %lx to %lx, type %u, op %u, %u bytes", p->src_cid, p->dst_cid, p->type, p->op,
		     p->len);
	for (unsigned i = 0; i < CONNS && !c; i++)
		if (conns[i].used && conns[i].port == p->dst_port && conns[i].host_port == p->src_port)
			c = &conns[i];
	if (!c && p->op == REQUEST && p->dst_port == ECHO_PORT)
		c = conn_new(p->dst_port, p->src_port, true);
	if (!c) {
		if (p->op != RST)
			refuse(p);
		return;
	}
	c->host_alloc = p->buf_alloc;
	c->host_taken = p->fwd_cnt;
	switch (p->op) {
	case REQUEST:
		if (!c->echo || c->open)
			fail("vsock port %u: a request for a stream that is there", c->port);
		c->open = true;
		say(c, RESPONSE, 0, NULL, 0);
		break;
	case RESPONSE:
		if (c->echo || c->open)
			fail("vsock port %u: an answer to no request", c->port);
		c->open = true;
		break;
	case RST:
		c->reset = true;
		c->used = !c->echo; /* the others are looked at by who began them */
		break;
	case SHUTDOWN:
		c->host_shut |= (uint8_t)p->flags;
		break;
	case RW:
		got_bytes(c, p);
		break;
	case CREDIT_UPDATE:
		break;
	case CREDIT_REQUEST:
		say(c, CREDIT_UPDATE, 0, NULL, 0);
		break;
	default:
		fail("vsock port %u: operation %u", c->port, p->op);
	}
}

/* What this stream can send now. */
static void go_on(struct conn *c)
{
	uint32_t end = c->echo ? c->got : c->total;
	if (!c->used || !c->open || c->reset)
		return;
	while (c->sent < end && !(c->host_shut & NO_RECEIVE) && credit(c) > 0) {
		uint32_t len = MIN(MIN(end - c->sent, credit(c)), 1 + (c->sent * 7 + 4095) % PAYLOAD);
		struct packet *p = free_packet();
		for (uint32_t i = 0; i < len; i++)
			p->payload[i] = c->echo ? c->buf[(c->sent + i) % BUF] : stream_byte(c, c->sent + i);
		c->sent += len;
		if (c->echo) {
			c->taken = c->sent;
			n_echoed += len;
		}
		say(c, RW, 0, p, len);
	}
	if (c->taken - c->told >= BUF / 2)
		say(c, CREDIT_UPDATE, 0, NULL, 0);
	bool sent_all = c->sent == end && (!c->echo || (c->host_shut & NO_SEND));
	if ((sent_all || (c->host_shut & NO_RECEIVE)) && !(c->my_shut & NO_SEND)) {
		c->my_shut |= NO_SEND;
		say(c, SHUTDOWN, c->my_shut, NULL, 0);
	}
	if ((c->host_shut & NO_SEND) && (c->my_shut & NO_SEND) && !(c->my_shut & NO_RECEIVE)) {
		c->my_shut |= NO_RECEIVE; /* all was read: an orderly end, answered by RST */
		say(c, SHUTDOWN, c->my_shut, NULL, 0);
	}
}

static bool take_all(void)
{
	uint32_t len;
	bool any = false;
	for (struct packet *p; (p = virtq_take(&rx, &len)); any = true) {
		got_packet(p, len);
		give(p, len % 2);
	}
	if (any)
		virtq_kick(&rx);
	if (virtq_take(&event, &len))
		fail("vsock: an event came");
	return any;
}

void vsock_serve(void)
{
	if (!vsock || !take_all())
		return;
	for (unsigned i = 0; i < CONNS; i++)
		go_on(&conns[i]);
}

static void idle(void)
{
	if (!rx.vector) {
		relax();
		return;
	}
	uint64_t seen = irq_count[rx.vector];
	if (rx.used[1] == rx.last_used)
		cpu_wait(&irq_count[rx.vector], seen);
}

static struct conn *begin(uint32_t total)
{
	struct conn *c = conn_new(next_port++, HOST_PORT, false);
	if (!c)
		fail("vsock: too many streams");
	c->total = total;
	say(c, REQUEST, 0, NULL, 0);
	return c;
}

/* Over: all came back, or it was lost. Never before the host has answered the end. */
static bool finish(struct conn *c)
{
	if (!c->reset)
		return false;
	c->used = false;
	if (c->my_shut == (NO_RECEIVE | NO_SEND) && c->got == c->total) {
		n_streams++;
		n_bytes += c->got;
		return true;
	}
	return false;
}

void vsock_round(unsigned cpu, uint64_t *random)
{
	struct conn *c[CONNS / 2] = {};
	uint64_t n = MIN(option_number("streams", 0), (uint64_t)ARRAY_LEN(c)), left = n;
	uint64_t bytes = option_number("vsock_bytes", 200000);
	struct stopwatch w;
	if (cpu != 0 || !vsock)
		return;
	vsock_serve();
	for (unsigned i = 0; i < n; i++)
		c[i] = begin(1 + (uint32_t)(random64(random) % bytes));
	stopwatch_start(&w);
	while (left > 0) {
		if (take_all())
			stopwatch_start(&w);
		else
			idle();
		for (unsigned i = 0; i < CONNS; i++)
			go_on(&conns[i]);
		for (unsigned i = 0; i < n; i++) {
			if (!c[i] || !c[i]->reset)
				continue;
			uint32_t total = c[i]->total;
			bool done = finish(c[i]);
			n_lost += !done;
			c[i] = done ? NULL : begin(total);
			left -= done;
		}
		if (stopwatch_ms(&w) > PATIENCE_MS)
			for (unsigned i = 0; i < n; i++)
				if (c[i])
					fail("vsock port %u: nothing comes; open %u, sent %u, got %u of %u, shut %u %u, credit %u",
					     c[i]->port, c[i]->open, c[i]->sent, c[i]->got, c[i]->total, c[i]->my_shut,
					     c[i]->host_shut, credit(c[i]));
	}
	if (n > 0)
		print("vsock: %lu streams, %lu bytes, %lu lost, %lu bytes echoed\n", n_streams, n_bytes, n_lost,
		      n_echoed);
}

/* Its connections are gone with it. */
void vsock_close(void)
{
	virtio_reset(vsock);
	for (unsigned i = 0; i < CONNS; i++)
		conns[i].used = false;
	vsock = NULL;
}

void vsock_open(struct virtio *v)
{
	vsock = v;
	in = in ?: ram_alloc(RX_BUFFERS * sizeof(*in), 64);
	out = out ?: ram_alloc(TX_BUFFERS * sizeof(*out), 64);
	memset(out_busy, 0, sizeof(out_busy));
	virtio_begin(v, F_EVENT_IDX | F_INDIRECT);
	my_cid = virtio_config(v, 0, 8);
	if (my_cid <= HOST || my_cid >> 32)
		fail("vsock: cid %lx", my_cid);
	virtq_init(&rx, v, 0, QUEUE_MAX, plan_vector(), 0);
	virtq_init(&tx, v, 1, QUEUE_MAX, plan_vector(), 0);
	virtq_init(&event, v, 2, QUEUE_MAX, 0, 0);
	virtio_go(v);
	for (unsigned i = 0; i < RX_BUFFERS; i++)
		give(&in[i], i % 2);
	virtq_kick(&rx);
	static uint32_t events[4];
	for (unsigned i = 0; i < ARRAY_LEN(events); i++) {
		const struct seg seg = { &events[i], sizeof(events[i]), true };
		virtq_add(&event, &seg, 1, false, &events[i]);
	}
	virtq_kick(&event);
	print("vsock: cid %lu, queues of %u, features %lx\n", my_cid, rx.size, v->features);
}
