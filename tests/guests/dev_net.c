/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net test: numbered frames with known bytes go out and must come back from the host's echo,
 * and the speed figures. Lost frames are sent again, since a snapshot may fall between a frame and
 * its echo; they are counted.
 */
#include "devices.h"

#define PAIRS_MAX MAX_CPUS
#define HEADER 12u /* virtio-net header */
#define FRAME_MAX 1514u
#define RX_BUFFERS 64
#define RX_BYTES 2048u
#define WINDOW 16          /* frames in flight per CPU */
#define ETHER_ECHO 0x88b5  /* the host sends it back, addresses swapped */
#define ETHER_SINK 0x88b6  /* the host drops it */
#define ETHER_BLAST 0x88b7 /* the host sends it back `count` times */
#define RETRY_MS 500
#define RETRIES_MAX 40

#define F_CTRL_GUEST_OFFLOADS (1ul << 2)
#define F_GUEST_OFFLOADS (1ul << 1 | 1ul << 7 | 1ul << 8) /* checksum, TSO of IPv4 and of IPv6 */
#define F_MAC (1ul << 5)
#define F_STATUS (1ul << 16)
#define F_CTRL_VQ (1ul << 17)
#define F_MQ (1ul << 22)

struct frame {
	uint8_t to[6], from[6];
	uint8_t type[2]; /* big endian */
	uint16_t bytes;  /* of the frame, from here our own, little endian */
	uint32_t cpu;
	uint64_t seq;
	uint64_t sum; /* of the payload words' generator */
	uint32_t count, pad;
	uint8_t payload[];
} __attribute__((packed));

struct packet {
	uint8_t header[HEADER];
	uint8_t frame[RX_BYTES - HEADER];
};

/* Option ping=1: this guest and its gateway. */
static const uint8_t own_ip[4] = { 10, 0, 0, 2 }, gateway_ip[4] = { 10, 0, 0, 1 };
#define PING_MS 200

struct arp {
	uint8_t to[6], from[6], type[2]; /* 0806 */
	uint8_t kinds[6];                /* Ethernet and IPv4, and their lengths */
	uint8_t op[2];                   /* 1: request, 2: reply */
	uint8_t sender[6], sender_ip[4], target[6], target_ip[4];
	uint8_t padding[18];
} __attribute__((packed));

struct ping {
	uint8_t to[6], from[6], type[2]; /* 0800 */
	uint8_t ip[20], icmp[8];
	uint64_t seq;
	uint8_t padding[10];
} __attribute__((packed));

struct flight {
	uint64_t seq;
	uint16_t bytes;
	volatile bool back;
};

struct net {
	struct virtio *v;
	struct virtq rx[PAIRS_MAX], tx[PAIRS_MAX], ctrl;
	unsigned n_pairs;
	uint8_t mac[6];
	struct lock rx_lock;
	struct packet *in;  /* [pair][RX_BUFFERS] */
	struct packet *out; /* [cpu][2 * WINDOW] */
	struct flight flight[MAX_CPUS][WINDOW];
	uint64_t next_seq[MAX_CPUS];
	uint64_t n_retries, n_back, n_blast;
	uint8_t gateway[6];
	bool knows_gateway, answered;
	uint64_t ping_seq;
};

static struct net *nets;
static unsigned n_nets;

static uint8_t payload_byte(uint64_t sum, unsigned i)
{
	return (uint8_t)((sum >> (i & 7) * 8) + i / 8 * 29);
}

static void give(struct net *n, unsigned pair, struct packet *p, bool two)
{
	const struct seg segs[] = { { p->header, HEADER, true }, { p->frame, sizeof(p->frame), true } };
	const struct seg one = { p, sizeof(*p), true };
	if (!virtq_add(&n->rx[pair], two ? segs : &one, two ? 2 : 1, false, p))
		fail("net: receive queue full");
}

static void frame_make(struct net *n, struct packet *p, uint16_t type, unsigned cpu, uint64_t seq, uint16_t bytes)
{
	struct frame *f = (struct frame *)p->frame;
	memset(p, 0, HEADER + sizeof(*f));
	memset(f->to, 0xff, 6);
	memcpy(f->from, n->mac, 6);
	f->type[0] = (uint8_t)(type >> 8);
	f->type[1] = (uint8_t)type;
	f->bytes = bytes;
	f->cpu = cpu;
	f->seq = seq;
	f->sum = mix64(seq << 8 ^ cpu);
	for (unsigned i = 0; i < bytes - sizeof(*f); i++)
		f->payload[i] = payload_byte(f->sum, i);
}

static void send(struct net *n, unsigned cpu, struct packet *p, uint16_t bytes, unsigned cut);
static void drain_tx(struct virtq *q);

/* A packet that nothing is in flight with. */
static void *fresh(struct net *n, const uint8_t to[6], uint8_t type)
{
	struct packet *p = &n->out[0];
	drain_tx(&n->tx[0]);
	memset(p, 0, sizeof(*p));
	memcpy(p->frame, to, 6);
	memcpy(p->frame + 6, n->mac, 6);
	p->frame[12] = 0x08;
	p->frame[13] = type;
	return p->frame;
}

static void send_arp(struct net *n, const uint8_t to[6], uint8_t op, const uint8_t target_ip[4])
{
	static const uint8_t ethernet_ipv4[6] = { 0, 1, 8, 0, 6, 4 };
	struct arp *a = fresh(n, to, 0x06);
	memcpy(a->kinds, ethernet_ipv4, 6);
	a->op[1] = op;
	memcpy(a->sender, n->mac, 6);
	memcpy(a->sender_ip, own_ip, 4);
	memcpy(a->target, to, 6);
	memcpy(a->target_ip, target_ip, 4);
	send(n, 0, &n->out[0], sizeof(*a), 0);
	virtq_kick(&n->tx[0]);
}

/* The internet checksum of `bytes` (even) at `data`, where it is 0 yet. */
static void checksum(const uint8_t *data, unsigned bytes, uint8_t *to)
{
	uint32_t sum = 0;
	for (unsigned i = 0; i < bytes; i += 2)
		sum += (uint32_t)data[i] << 8 | data[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	to[0] = (uint8_t)(~sum >> 8);
	to[1] = (uint8_t)~sum;
}

static void send_ping(struct net *n)
{
	static const uint8_t header[20] = { 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 1 };
	struct ping *p = fresh(n, n->gateway, 0x00);
	memcpy(p->ip, header, sizeof(header));
	memcpy(p->ip + 12, own_ip, 4);
	memcpy(p->ip + 16, gateway_ip, 4);
	checksum(p->ip, sizeof(p->ip), p->ip + 10);
	p->icmp[0] = 8; /* echo request */
	p->seq = n->ping_seq;
	checksum(p->icmp, 26, p->icmp + 2);
	send(n, 0, &n->out[0], sizeof(*p), 0);
	virtq_kick(&n->tx[0]);
}

/* Answers who asks for us, and believes whoever says that the gateway is he, asked or not. */
static void arp_check(struct net *n, const struct arp *a)
{
	if (memcmp(a->sender_ip, gateway_ip, 4) == 0) {
		memcpy(n->gateway, a->sender, 6);
		n->knows_gateway = true;
	}
	if (a->op[1] == 1 && memcmp(a->target_ip, own_ip, 4) == 0)
		send_arp(n, a->sender, 2, a->sender_ip);
}

static void ping_check(struct net *n, const uint8_t *frame, uint32_t len)
{
	const struct ping *p = (const struct ping *)frame;
	if (len >= HEADER + 42 && frame[12] == 0x08 && frame[13] == 0x06)
		arp_check(n, (const struct arp *)frame);
	if (len >= HEADER + 50 && frame[12] == 0x08 && frame[13] == 0x00 && p->ip[9] == 1 && p->icmp[0] == 0 &&
	    p->seq == n->ping_seq)
		n->answered = true;
}

/* One frame that came in: ours is checked byte for byte, any other ignored. */
static void frame_check(struct net *n, const struct packet *p, uint32_t len)
{
	const struct frame *f = (const struct frame *)p->frame;
	if (option_number("ping", 0))
		ping_check(n, p->frame, len);
	if (len < HEADER + sizeof(*f) || f->type[0] != ETHER_ECHO >> 8)
		return;
	if (f->type[1] == (ETHER_BLAST & 0xff))
		n->n_blast++;
	if (f->type[1] != (ETHER_ECHO & 0xff))
		return;
	if (f->cpu >= MAX_CPUS || f->bytes < sizeof(*f) || f->bytes > FRAME_MAX)
		fail("net: echo names cpu %u, %u bytes", f->cpu, f->bytes);
	if (len < HEADER + f->bytes)
		fail("net frame %lu: expected %u bytes, got %u", f->seq, f->bytes, len - HEADER);
	if (memcmp(f->to, n->mac, 6) != 0)
		fail("net frame %lu: not addressed to this guest", f->seq);
	if (f->sum != mix64(f->seq << 8 ^ f->cpu))
		fail("net frame %lu: expected sum %lx, got %lx", f->seq, mix64(f->seq << 8 ^ f->cpu), f->sum);
	for (unsigned i = 0; i < f->bytes - sizeof(*f); i++)
		if (f->payload[i] != payload_byte(f->sum, i))
			fail("net frame %lu byte %u: expected %x, got %x", f->seq, i, payload_byte(f->sum, i),
			     f->payload[i]);
	struct flight *fl = &n->flight[f->cpu][f->seq % WINDOW];
	if (f->seq > fl->seq)
		fail("net: frame %lu came before it was sent", f->seq);
	if (f->seq == fl->seq && f->bytes != fl->bytes)
		fail("net frame %lu: expected %u bytes, got %u", f->seq, fl->bytes, f->bytes);
	if (f->seq == fl->seq)
		fl->back = true;
	n->n_back++;
}

static void poll_rx(struct net *n)
{
	lock_take(&n->rx_lock);
	for (unsigned pair = 0; pair < n->n_pairs; pair++) {
		uint32_t len;
		bool any = false;
		for (struct packet *p; (p = virtq_take(&n->rx[pair], &len)); any = true) {
			frame_check(n, p, len);
			give(n, pair, p, len & 1);
		}
		if (any)
			virtq_kick(&n->rx[pair]);
	}
	lock_drop(&n->rx_lock);
}

static void send(struct net *n, unsigned cpu, struct packet *p, uint16_t bytes, unsigned cut)
{
	struct virtq *q = &n->tx[cpu % n->n_pairs];
	const struct seg segs[] = {
		{ p->header, HEADER, false },
		{ p->frame, cut, false },
		{ p->frame + cut, bytes - cut, false },
	};
	const struct seg one = { p, HEADER + bytes, false };
	uint32_t len;
	while (virtq_take(q, &len))
		;
	while (!virtq_add(q, cut ? segs : &one, cut ? 3 : 1, false, p)) {
		virtq_wait(q, "net send");
		while (virtq_take(q, &len))
			;
	}
}

static void send_flight(struct net *n, unsigned cpu, unsigned slot, unsigned copy, unsigned cut)
{
	const struct flight *fl = &n->flight[cpu][slot];
	struct packet *p = &n->out[(cpu * 2 + copy % 2) * WINDOW + slot];
	frame_make(n, p, ETHER_ECHO, cpu, fl->seq, fl->bytes);
	send(n, cpu, p, fl->bytes, cut);
}

static void drain_tx(struct virtq *q)
{
	uint32_t len;
	while (q->n_free < q->size) {
		virtq_wait(q, "net send");
		while (virtq_take(q, &len))
			;
	}
}

/* Sleeps on the first receive queue where that is possible, else spins. */
static void idle(struct net *n, unsigned cpu)
{
	struct virtq *q = &n->rx[0];
	if (cpu != 0 || !q->vector || n->n_pairs > 1) {
		relax();
		return;
	}
	uint64_t seen = irq_count[q->vector];
	if (q->event_idx)
		q->avail[2 + q->size] = q->last_used;
	barrier();
	if (q->used[1] == q->last_used)
		cpu_wait(&irq_count[q->vector], seen);
}

/*
 * One ping of the gateway, which is looked for by ARP once and known by its MAC for good: as by a guest that had no reason to look again.
 */
static void ping_round(struct net *n)
{
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	n->ping_seq++;
	n->answered = false;
	while (!n->answered) {
		if (n->knows_gateway)
			send_ping(n);
		else
			send_arp(n, all, 1, gateway_ip);
		struct stopwatch w;
		stopwatch_start(&w);
		bool knew = n->knows_gateway;
		while (!n->answered && n->knows_gateway == knew && stopwatch_ms(&w) < PING_MS) {
			poll_rx(n);
			relax();
		}
	}
}

void net_round(struct net *n, unsigned cpu, uint64_t *random)
{
	if (cpu >= n->n_pairs)
		return;
	if (option_number("ping", 0)) {
		ping_round(n);
		return;
	}
	for (unsigned batch = 0; batch < plan.batches; batch++) {
		unsigned count = 1 + (unsigned)(random64(random) % WINDOW);
		lock_take(&n->rx_lock);
		for (unsigned i = 0; i < WINDOW; i++) {
			struct flight *fl = &n->flight[cpu][i];
			fl->back = true;
		}
		uint64_t first = n->next_seq[cpu];
		for (unsigned i = 0; i < count; i++) {
			uint64_t seq = first + i;
			n->flight[cpu][seq % WINDOW] = (struct flight){
				.seq = seq,
				.bytes = (uint16_t)(60 + random64(random) % (FRAME_MAX - 60 + 1)),
			};
		}
		n->next_seq[cpu] = first + count;
		lock_drop(&n->rx_lock);
		for (unsigned i = 0; i < count; i++)
			send_flight(n, cpu, (unsigned)((first + i) % WINDOW), 0,
				    i & 1 ? 14 + (unsigned)(first % 40) : 0);
		virtq_kick(&n->tx[cpu % n->n_pairs]);
		struct stopwatch w;
		stopwatch_start(&w);
		for (unsigned tries = 0;;) {
			poll_rx(n);
			unsigned missing = 0;
			for (unsigned i = 0; i < WINDOW; i++)
				missing += !n->flight[cpu][i].back;
			if (!missing)
				break;
			if (stopwatch_ms(&w) < RETRY_MS) {
				idle(n, cpu);
				continue;
			}
			if (++tries > RETRIES_MAX)
				fail("net: %u of %u frames from %lu never came back", missing, count, first);
			stopwatch_start(&w);
			drain_tx(&n->tx[cpu % n->n_pairs]);
			for (unsigned i = 0; i < WINDOW; i++)
				if (!n->flight[cpu][i].back)
					send_flight(n, cpu, i, tries, 0);
			n->n_retries += missing;
			virtq_kick(&n->tx[cpu % n->n_pairs]);
		}
		drain_tx(&n->tx[cpu % n->n_pairs]);
	}
	if (cpu == 0 && n->n_retries)
		print("net: %lu frames sent again so far\n", n->n_retries);
}

/* Control command with a value of so many bytes; returns the device's answer, 0 OK or 1 error. */
static uint8_t control(struct net *n, uint8_t class, uint8_t command, uint64_t value, uint32_t bytes)
{
	static struct {
		uint8_t class, command;
		uint64_t value;
		volatile uint8_t ack;
	} c;
	c.class = class;
	c.command = command;
	c.value = value;
	c.ack = 0xff;
	const struct seg segs[] = {
		{ &c.class, 2, false },
		{ &c.value, bytes, false },
		{ (void *)&c.ack, 1, true },
	};
	uint32_t len;
	virtq_add(&n->ctrl, segs, 3, false, &c);
	virtq_kick(&n->ctrl);
	virtq_wait(&n->ctrl, "net control");
	virtq_take(&n->ctrl, &len);
	return c.ack;
}

struct net *net_open(struct virtio *v)
{
	if (!nets)
		nets = ram_alloc(sizeof(*nets) * DEVS_MAX, 64);
	struct net *n = nets;
	while (n < nets + n_nets && n->v)
		n++;
	if (n == nets + DEVS_MAX)
		fail("net: more than %u", DEVS_MAX);
	n_nets = MAX(n_nets, (unsigned)(n - nets) + 1);
	n->v = v;
	bool offloads = option("offloads") != NULL; /* offloads=N: all are negotiated, then those of N are left on */
	virtio_begin(v, F_MAC | F_STATUS | F_CTRL_VQ | F_MQ | F_EVENT_IDX |
				(offloads ? F_CTRL_GUEST_OFFLOADS | F_GUEST_OFFLOADS : 0));
	for (unsigned i = 0; i < 6; i++)
		n->mac[i] = (uint8_t)virtio_config(v, i, 1);
	unsigned max_pairs = v->features & F_MQ ? (unsigned)virtio_config(v, 8, 2) : 1;
	n->n_pairs = MIN(MIN(max_pairs, PAIRS_MAX), plan.n_cpus);
	for (unsigned i = 0; i < max_pairs; i++) { /* all are enabled, n_pairs of them used */
		static struct virtq unused;
		unused = (struct virtq){ 0 };
		unsigned cpu = i % plan.n_cpus;
		bool mine = i < n->n_pairs;
		virtq_init(mine ? &n->rx[i] : &unused, v, (uint16_t)(2 * i), QUEUE_MAX, mine ? plan_vector() : 0, 0);
		unused = (struct virtq){ 0 };
		virtq_init(mine ? &n->tx[i] : &unused, v, (uint16_t)(2 * i + 1), QUEUE_MAX, mine ? plan_vector() : 0,
			   cpu);
	}
	if (v->features & F_CTRL_VQ)
		virtq_init(&n->ctrl, v, (uint16_t)(2 * max_pairs), 64, plan_vector(), 0);
	virtio_go(v);
	n->in = n->in ?: ram_alloc(sizeof(*n->in) * PAIRS_MAX * RX_BUFFERS, PAGE);
	n->out = n->out ?: ram_alloc(sizeof(*n->out) * MAX_CPUS * 2 * WINDOW, PAGE);
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		n->next_seq[cpu] = WINDOW;
	for (unsigned pair = 0; pair < n->n_pairs; pair++) {
		for (unsigned i = 0; i < RX_BUFFERS; i++)
			give(n, pair, &n->in[pair * RX_BUFFERS + i], i & 1);
		virtq_kick(&n->rx[pair]);
	}
	print("net: mac %02x:%02x:%02x:%02x:%02x:%02x, %u of %u pairs of %u, features %lx\n", n->mac[0], n->mac[1],
	      n->mac[2], n->mac[3], n->mac[4], n->mac[5], n->n_pairs, max_pairs, n->rx[0].size, v->features);
	if (v->features & F_CTRL_VQ && v->features & F_MQ) {
		uint8_t ack = control(n, 4, 0, n->n_pairs, 2);
		if (ack != 0)
			fail("net: set %u queue pairs: expected 0, got %u", n->n_pairs, ack);
		ack = control(n, 4, 0, 0, 2);
		if (ack != 1)
			fail("net: set 0 queue pairs: expected 1, got %u", ack);
	}
	if (offloads && control(n, 5, 0, option_number("offloads", 0), 8) != 0)
		fail("net: the device refuses to switch offloads off");
	return n;
}

void net_close(struct net *n)
{
	virtio_reset(n->v);
	n->v = NULL;
}

static void speed_latency(struct net *n, uint16_t bytes, uint32_t *sample, unsigned max)
{
	uint64_t stop = rdtsc() + ns_to_cycles(option_number("secs", 1) * 1000000000);
	uint64_t count = 0, lost = 0;
	while (rdtsc() < stop) {
		uint64_t seq = n->next_seq[0]++;
		unsigned slot = (unsigned)(seq % WINDOW);
		n->flight[0][slot] = (struct flight){ .seq = seq, .bytes = bytes };
		uint64_t start = rdtsc();
		send_flight(n, 0, slot, 0, 0);
		virtq_kick(&n->tx[0]);
		struct stopwatch w;
		stopwatch_start(&w);
		while (!n->flight[0][slot].back && stopwatch_ms(&w) < RETRY_MS) {
			poll_rx(n);
			if (!n->flight[0][slot].back)
				idle(n, 0);
		}
		if (n->flight[0][slot].back)
			sample[count++ % max] = (uint32_t)cycles_to_ns(rdtsc() - start);
		else
			lost++;
	}
	print("speed net ping-pong %u bytes: %lu round trips, %lu lost, p50 %u ns\n", bytes, count, lost,
	      median(sample, (unsigned)MIN(count, (uint64_t)max)));
}

static void speed_out(struct net *n, uint16_t bytes)
{
	uint64_t start = rdtsc(), stop = start + ns_to_cycles(option_number("secs", 1) * 1000000000), count = 0;
	for (unsigned i = 0; i < WINDOW; i++)
		frame_make(n, &n->out[i], ETHER_SINK, 0, i, bytes);
	while (rdtsc() < stop) {
		for (unsigned i = 0; i < WINDOW; i++)
			send(n, 0, &n->out[i], bytes, 0);
		virtq_kick(&n->tx[0]);
		count += WINDOW;
	}
	drain_tx(&n->tx[0]);
	uint64_t us = cycles_to_ns(rdtsc() - start) / 1000;
	print("speed net out %u bytes: %lu frames/s, %lu Mbit/s\n", bytes, count * 1000000 / us,
	      count * bytes * 8 / us);
}

static void speed_in(struct net *n, uint16_t bytes)
{
	uint64_t start = rdtsc(), stop = start + ns_to_cycles(option_number("secs", 1) * 1000000000);
	n->n_blast = 0;
	struct packet *p = &n->out[0];
	frame_make(n, p, ETHER_BLAST, 0, 0, bytes);
	((struct frame *)p->frame)->count = 256;
	while (rdtsc() < stop) {
		uint64_t before = n->n_blast;
		send(n, 0, p, bytes, 0);
		virtq_kick(&n->tx[0]);
		struct stopwatch w;
		stopwatch_start(&w);
		while (n->n_blast < before + 256 && stopwatch_ms(&w) < 20) {
			poll_rx(n);
			idle(n, 0);
		}
		drain_tx(&n->tx[0]);
	}
	uint64_t us = cycles_to_ns(rdtsc() - start) / 1000;
	print("speed net in %u bytes: %lu frames/s, %lu Mbit/s\n", bytes, n->n_blast * 1000000 / us,
	      n->n_blast * bytes * 8 / us);
}

void net_speed(struct net *n)
{
	unsigned max = 65536;
	uint32_t *sample = ram_alloc(max * sizeof(*sample), 64);
	uint16_t bytes = (uint16_t)MIN(MAX(option_number("frame", 64), 60ul), (unsigned long)FRAME_MAX);
	speed_latency(n, bytes, sample, max);
	speed_out(n, bytes);
	speed_in(n, bytes);
}
