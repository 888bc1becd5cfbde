/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test guest that answers on vsock as forkd-agent does: port 983 (the API) and port 984 (the daemon's
 * alone), HTTP/1.1. It prints "agent: ready" when it listens, and a line for each private request. On
 * 983, GET /health is answered 204, GET /head and /files with the request itself, GET /garbage with what is no
 * HTTP, GET /flood without an end, GET /silent not at all, and all else with the request's own body. GET /reboot resets
 * the machine.
 *
 * GET /self says who this guest is by the last identity that it has acknowledged, whether it stands still, and whether
 * it has gone on before an identity came that is not of the same name ("ran"). A file in /kept/ is counted as it comes: its
 * bytes and their Adler-32 are the answer, then and to each GET, when all of it has come. A file /sized/BYTES/SEED, or
 * /chunked/BYTES/SEED, has byte SEED + i % 251 at i.
 *
 * A new identity is acknowledged unless the hostname of the identity says otherwise: "twin" echoes another
 * nonce, "garbage" is no HTTP, "silent" says nothing, "flood" never ends, "step" is an error, "reset" breaks off.
 * One of hostname "stiff" answers each later freeze with an error.
 *
 * process.Process/Start says that process 7 has begun and printed "hi", and that it has exited with 3; a command with
 * "silent" in it does not end, "reset" breaks off, and "twice" is refused. Directories have "dir" in their path, and
 * what has "none" is not there.
 *
 * Through the tunnel of 984, TCP port 80 answers as 983 does, and all others refuse.
 *
 * Options: protocol=1 (what hello says)  deaf=1 (nothing listens on 984)  quiet=1 (only "agent: ready" is printed)
 * touch=N (a new identity writes N pages first)  identity_ms=0  freeze_ms=0  thaw_ms=0 (until they are answered)
 */
#include "virtio.h"

#define HOST 2
#define API_PORT 983
#define PRIVATE_PORT 984
#define HEADER 44u
#define PAYLOAD 4096u
#define BUF (64u << 10) /* what a stream may have in flight towards this guest */
#define BUFFERS 32
#define CONNS 64
#define KEPT 4096u /* of a request: its head, and the beginning of its body */
#define FILES 16u  /* the newest ones in /kept/ */

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct packet {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
	uint8_t payload[PAYLOAD];
} __attribute__((packed));

struct conn {
	bool used, answered, floods, silent, tunnel;
	uint32_t port, host_port, sent, taken, told, host_alloc, host_taken;
	struct request {
		uint32_t got, body_at, body_len; /* body_at 0: the head has not come whole */
		enum { NOT_CHUNKED, SIZE, DATA, BEHIND_DATA, TRAILER, COMPLETE } chunk;
		uint32_t chunk_left, body_got;
		struct adler {
			uint32_t a, b;
		} sum; /* of the body */
	} rq;
	const char *late;            /* option: for how many ms the answer waits; NULL: it does not */
	struct stopwatch time;       /* since the request came */
	uint32_t file_left, file_at; /* a file that is sent */
	uint8_t file_seed;
	bool file_chunked;
	char *kept; /* KEPT + 1 bytes, beside the table: to look for a connection touches few pages */
};

/* Who this guest is. */
static struct {
	char nonce[64], hostname[64], generation[64];
	bool frozen, ran;
} self;

static struct file {
	char name[64];
	uint32_t bytes, sum;
} files[FILES];
static unsigned next_file;

static struct virtio vsock;
static struct virtq rx, tx, event;
static uint64_t my_cid;
static struct packet *in, *out;
static struct conn *conns;
static bool out_busy[BUFFERS], quiet;
static uint8_t *pages; /* of the option "touch" */
static uint64_t n_pages;

#define note(...) (quiet ? (void)0 : print(__VA_ARGS__))

/* ---- packets ---- */

static void give(struct packet *p)
{
	const struct seg seg = { p, sizeof(*p), true };

	if (!virtq_add(&rx, &seg, 1, false, p))
		fail("agent: receive queue full");
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
		reap();
		for (unsigned i = 0; i < BUFFERS; i++)
			if (!out_busy[i])
				return &out[i];
		virtq_wait(&tx, "vsock send");
	}
}

static void send_packet(struct packet *p, uint16_t op, uint32_t port, uint32_t host_port, uint32_t len)
{
	const struct seg seg = { p, HEADER + len, false };

	p->src_cid = my_cid;
	p->dst_cid = HOST;
	p->src_port = port;
	p->dst_port = host_port;
	p->len = len;
	p->type = 1;
	p->op = op;
	if (!virtq_add(&tx, &seg, 1, false, p))
		fail("agent: send queue full");
	out_busy[p - out] = true;
	virtq_kick(&tx);
}

static void say(struct conn *c, uint16_t op, uint32_t flags, const void *bytes, uint32_t len)
{
	struct packet *p = free_packet();

	if (len > 0)
		memcpy(p->payload, bytes, len);
	p->flags = flags;
	p->buf_alloc = BUF;
	p->fwd_cnt = c->told = c->taken;
	c->sent += len;
	send_packet(p, op, c->port, c->host_port, len);
}

/* Answers are shorter than what any host gives credit for at the start. */
static void write_text(struct conn *c, const char *text, size_t len)
{
	for (size_t at = 0; at < len; at += PAYLOAD)
		say(c, RW, 0, text + at, (uint32_t)MIN(len - at, (size_t)PAYLOAD));
}

/* ---- requests ---- */

/* What stands behind `what` in the text, or NULL. */
static char *find(char *in_text, const char *what)
{
	for (char *p = in_text; *p; p++) {
		size_t n = 0;
		while (what[n] && p[n] == what[n])
			n++;
		if (!what[n])
			return p + n;
	}
	return NULL;
}

static bool begins(const struct conn *c, const char *with)
{
	return memcmp(c->kept, with, strlen(with)) == 0;
}

/* The text of a string member of the body; "" when there is none. */
static const char *member(struct conn *c, const char *key, char ret[64])
{
	const char *from = find(c->kept, key);
	unsigned n = 0;

	while (from && n < 63 && from[n] && from[n] != '"') {
		ret[n] = from[n];
		n++;
	}
	ret[n] = 0;
	return ret;
}

static size_t add(char *to, size_t at, const char *text)
{
	size_t n = strlen(text);

	memcpy(to + at, text, n + 1);
	return at + n;
}

static size_t add_number(char *to, size_t at, uint64_t v)
{
	char digits[24] = "";
	unsigned n = 23;

	do {
		digits[--n] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	digits[23] = 0;
	return add(to, at, digits + n);
}

static void answer(struct conn *c, const char *status, const char *body)
{
	static char text[KEPT + 256];
	size_t at = add(text, 0, "HTTP/1.1 ");

	at = add(text, at, status);
	at = add(text, at, "\r\nContent-Type: application/json\r\nContent-Length: ");
	at = add_number(text, at, strlen(body));
	at = add(text, at, "\r\n\r\n");
	at = add(text, at, body);
	write_text(c, text, at);
}

static bool same(const char *a, const char *b)
{
	return strlen(a) == strlen(b) && memcmp(a, b, strlen(a)) == 0;
}

static void take_identity(struct conn *c, const char *nonce, const char *hostname)
{
	self.ran = !self.frozen && !same(hostname, self.hostname);
	self.frozen = find(c->kept, "\"thaw\":false");
	add(self.nonce, 0, nonce);
	add(self.hostname, 0, hostname);
	member(c, "\"generation\":\"", self.generation);
}

static void answer_identity(struct conn *c)
{
	static char body[128];
	char nonce[64], hostname[64];

	member(c, "\"nonce\":\"", nonce);
	member(c, "\"hostname\":\"", hostname);
	for (uint64_t i = 0; i < n_pages; i++)
		pages[i * PAGE]++;
	note("agent: identity of %s\n", hostname);
	if (find(hostname, "silent")) {
		c->silent = true;
		return;
	}
	if (find(hostname, "reset")) {
		say(c, RST, 0, NULL, 0);
		c->used = false;
		return;
	}
	if (find(hostname, "garbage")) {
		write_text(c, "garbage\r\n\r\n", 11);
		return;
	}
	if (find(hostname, "flood")) {
		write_text(c, "HTTP/1.1 200 OK\r\n\r\n", 19);
		c->floods = true;
		return;
	}
	if (find(hostname, "step")) {
		answer(c, "500 Internal Server Error",
		       "{\"code\":500,\"message\":\"step 'hooks': 10-dns: exit status 1\"}");
		return;
	}
	take_identity(c, nonce, hostname);
	if (find(hostname, "twin"))
		nonce[0] = nonce[0] == '0' ? '1' : '0';
	size_t at = add(body, 0, "{\"nonce\":\"");
	at = add(body, at, nonce);
	add(body, at, "\"}");
	answer(c, "200 OK", body);
}

/* What takes its time. */
static void answer_late(struct conn *c)
{
	if (begins(c, "POST /v1/identity "))
		answer_identity(c);
	else if (begins(c, "POST /v1/freeze ") && same(self.hostname, "stiff"))
		answer(c, "500 Internal Server Error", "{\"code\":500,\"message\":\"a process moves\"}");
	else
		answer(c, "200 OK", "{}");
}

static void wait_ms(struct conn *c, const char *what)
{
	stopwatch_start(&c->time);
	c->late = option_number(what, 0) ? what : NULL;
	if (!c->late)
		answer_late(c);
}

static void answer_private(struct conn *c)
{
	static char hello[96];

	if (begins(c, "GET /v1/hello ")) {
		size_t at = add(hello, 0, "{\"agent\":\"test\",\"protocol\":");
		at = add_number(hello, at, option_number("protocol", 1));
		add(hello, at, "}");
		answer(c, "200 OK", hello);
	} else if (begins(c, "GET /v1/tunnel?port=80 ")) {
		static const char agreed[] =
			"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n";
		write_text(c, agreed, sizeof(agreed) - 1);
		c->answered = false;
		c->tunnel = true;
		memset(&c->rq, 0, sizeof(c->rq));
	} else if (begins(c, "GET /v1/tunnel")) {
		answer(c, "502 Bad Gateway",
		       "{\"code\":502,\"message\":\"port 81 of the guest's loopback: Connection refused\"}");
	} else if (begins(c, "POST /v1/identity ")) {
		wait_ms(c, "identity_ms");
	} else {
		bool freeze = begins(c, "POST /v1/freeze "), thaw = begins(c, "POST /v1/thaw ");
		self.frozen = freeze || (self.frozen && !thaw);
		note("agent: %s\n", freeze ? "freeze" : thaw ? "thaw" : "?");
		wait_ms(c, freeze ? "freeze_ms" : "thaw_ms");
	}
}

static size_t add_frame(char *to, size_t at, char flags, const char *message)
{
	const size_t len = strlen(message);
	const char head[5] = { flags, 0, 0, (char)(len >> 8), (char)len };

	memcpy(to + at, head, sizeof(head));
	return add(to, at + sizeof(head), message);
}

/* The body is one frame: five bytes, then the message. */
static void answer_start(struct conn *c)
{
	static char text[1024];
	char *message = c->kept + c->rq.body_at + 5;
	size_t at = add(text, 0, "HTTP/1.1 200 OK\r\nContent-Type: application/connect+json\r\n\r\n");

	if (find(message, "twice")) {
		at = add_frame(text, at, 2, "{\"error\":{\"code\":\"invalid_argument\",\"message\":\"not twice\"}}");
	} else {
		at = add_frame(text, at, 0, "{\"event\":{\"start\":{\"pid\":7}}}");
		at = add_frame(text, at, 0, "{\"event\":{\"data\":{\"stdout\":\"aGkK\"}}}");
		at = add_frame(text, at, 0, "{\"event\":{\"data\":{\"stderr\":\"/w==\"}}}");
	}
	note("agent: start\n");
	c->silent = find(message, "silent");
	if (!c->silent && !find(message, "twice")) {
		at = add_frame(text, at, 0, "{\"event\":{\"end\":{\"exitCode\":3,\"exited\":true}}}");
		at = add_frame(text, at, 2, "{}");
	}
	if (!find(message, "reset"))
		write_text(c, text, at);
	else
		say(c, RST, 0, NULL, 0);
	c->used = !find(message, "reset");
}

static void answer_files(struct conn *c)
{
	char path[64];

	member(c, "\"path\":\"", path);
	if (find(path, "none"))
		answer(c, "404 Not Found", "{\"code\":\"not_found\",\"message\":\"it is not there\"}");
	else if (begins(c, "POST /filesystem.Filesystem/Stat "))
		answer(c, "200 OK",
		       find(path, "dir") ? "{\"entry\":{\"type\":\"FILE_TYPE_DIRECTORY\"}}"
					 : "{\"entry\":{\"type\":\"FILE_TYPE_FILE\"}}");
	else {
		note("agent: remove %s\n", path);
		answer(c, "200 OK", "{}");
	}
}

/* ---- what the soak asks for ---- */

static size_t add_text(char *to, size_t at, const char *key, const char *text)
{
	at = add(to, at, key);
	at = add(to, at, "\":\"");
	return add(to, add(to, at, text), "\",\"");
}

static void answer_self(struct conn *c)
{
	static char body[320];
	size_t at = add_text(body, 0, "{\"nonce", self.nonce);

	at = add_text(body, at, "hostname", self.hostname);
	at = add_text(body, at, "generation", self.generation);
	at = add(body, at, self.frozen ? "frozen\":true" : "frozen\":false");
	add(body, at, self.ran ? ",\"ran\":true}" : ",\"ran\":false}");
	answer(c, "200 OK", body);
}

/* What stands behind `before` in the request, up to a space. */
static const char *name_of(struct conn *c, const char *before, char ret[64])
{
	const char *from = find(c->kept, before);
	unsigned n = 0;

	for (; from && n < 63 && from[n] > ' '; n++)
		ret[n] = from[n];
	ret[n] = 0;
	return ret;
}

static void answer_kept(struct conn *c, const struct file *f)
{
	char body[64];
	size_t at = add(body, 0, "{\"bytes\":");

	at = add_number(body, at, f->bytes);
	at = add(body, at, ",\"sum\":");
	at = add_number(body, at, f->sum);
	add(body, at, "}");
	answer(c, "200 OK", body);
}

static void put_kept(struct conn *c)
{
	struct file *f = &files[next_file++ % FILES];

	name_of(c, "/kept/", f->name);
	f->bytes = c->rq.body_got;
	f->sum = c->rq.sum.b << 16 | c->rq.sum.a;
	answer_kept(c, f);
}

static void get_kept(struct conn *c)
{
	char name[64];

	name_of(c, "/kept/", name);
	for (unsigned i = 0; i < FILES; i++)
		if (files[i].name[0] && same(files[i].name, name)) {
			answer_kept(c, &files[i]);
			return;
		}
	answer(c, "404 Not Found", "{\"code\":\"not_found\",\"message\":\"it is not there\"}");
}

static uint32_t number_at(const char **at)
{
	uint32_t v = 0;

	for (; **at >= '0' && **at <= '9'; (*at)++)
		v = v * 10 + (uint32_t)(**at - '0');
	return v;
}

/* The head of a file; send_file() sends the rest. */
static void begin_file(struct conn *c)
{
	const char *sized = find(c->kept, "/sized/"), *at = sized ? sized : find(c->kept, "/chunked/");
	char head[128];

	c->file_chunked = !sized;
	c->file_left = number_at(&at);
	at++;
	c->file_seed = (uint8_t)number_at(&at);
	c->file_at = 0;
	size_t n = add(head, 0, "HTTP/1.1 200 OK\r\n");
	n = add(head, n, sized ? "Content-Length: " : "Transfer-Encoding: chunked");
	if (sized)
		n = add_number(head, n, c->file_left);
	write_text(c, head, add(head, n, "\r\n\r\n"));
}

static bool answer_soak(struct conn *c)
{
	if (begins(c, "GET /self "))
		answer_self(c);
	else if (begins(c, "POST /files?path=/kept/"))
		put_kept(c);
	else if (begins(c, "GET /files?path=/kept/"))
		get_kept(c);
	else if (begins(c, "GET /files?path=/sized/") || begins(c, "GET /files?path=/chunked/"))
		begin_file(c);
	else
		return false;
	return true;
}

static void answer_request(struct conn *c)
{
	c->answered = true;
	if (c->port == PRIVATE_PORT && !c->tunnel)
		answer_private(c);
	else if (answer_soak(c))
		return;
	else if (begins(c, "GET /head/") || begins(c, "GET /head?") || begins(c, "GET /head ") ||
		 begins(c, "GET /files?") || begins(c, "POST /files?"))
		answer(c, "200 OK", c->kept);
	else if (begins(c, "POST /process.Process/Start "))
		answer_start(c);
	else if (begins(c, "POST /filesystem.Filesystem/"))
		answer_files(c);
	else if (begins(c, "GET /garbage "))
		write_text(c, "garbage\r\n\r\n", 11);
	else if (begins(c, "GET /silent ")) {
		note("agent: silent\n");
		c->silent = true;
	} else if (begins(c, "GET /reboot ")) {
		outb(0x64, 0xfe);
	} else if (begins(c, "GET /flood ")) {
		write_text(c, "HTTP/1.1 200 OK\r\n\r\n", 19);
		c->floods = true;
	} else if (begins(c, "GET /health ")) {
		static const char text[] = "HTTP/1.1 204 No Content\r\n\r\n";
		write_text(c, text, sizeof(text) - 1);
	} else
		answer(c, "200 OK", c->kept + c->rq.body_at);
}

/* ---- bodies ---- */

static void take_byte(struct request *rq, uint8_t byte)
{
	rq->body_got++;
	rq->sum.a = (rq->sum.a + byte) % 65521;
	rq->sum.b = (rq->sum.b + rq->sum.a) % 65521;
}

static uint32_t hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - (uint32_t)'0';
	return c >= 'a' && c <= 'f' ? c - (uint32_t)'a' + 10 : 16;
}

/* Trailers do not come through the daemon, so the line behind the last chunk ends the body. */
static void take_chunked(struct request *rq, uint8_t byte)
{
	if (rq->chunk == SIZE && hex_digit(byte) < 16)
		rq->chunk_left = rq->chunk_left * 16 + hex_digit(byte);
	else if (rq->chunk == SIZE && byte == '\n')
		rq->chunk = rq->chunk_left ? DATA : TRAILER;
	else if (rq->chunk == DATA) {
		take_byte(rq, byte);
		if (--rq->chunk_left == 0)
			rq->chunk = BEHIND_DATA;
	} else if (byte == '\n')
		rq->chunk = rq->chunk == BEHIND_DATA ? SIZE : COMPLETE;
}

static void take_head(struct conn *c, uint32_t body_at)
{
	const char *length = find(c->kept, "Content-Length: ");

	c->rq.body_at = body_at;
	c->rq.body_len = length ? number_at(&length) : 0;
	c->rq.chunk = find(c->kept, "Transfer-Encoding: chunked") ? SIZE : NOT_CHUNKED;
	c->rq.sum.a = 1;
}

static bool is_whole(const struct request *rq)
{
	return rq->body_at && (rq->chunk ? rq->chunk == COMPLETE : rq->body_got >= rq->body_len);
}

/* The request was answered: the next one may come. */
static void answered(struct conn *c)
{
	memset(&c->rq, 0, sizeof(c->rq));
	c->answered = false;
}

static void got_bytes(struct conn *c, const struct packet *p)
{
	struct request *rq = &c->rq;
	const uint32_t before = rq->got;

	for (uint32_t i = 0; i < p->len && before + i < KEPT; i++)
		c->kept[before + i] = (char)p->payload[i];
	rq->got += p->len;
	c->taken += p->len;
	c->kept[MIN(rq->got, KEPT)] = 0;
	const char *body = rq->body_at ? NULL : find(c->kept, "\r\n\r\n");
	if (body)
		take_head(c, (uint32_t)(body - c->kept));
	for (uint32_t i = body ? rq->body_at - before : 0; rq->body_at && i < p->len; i++)
		if (rq->chunk)
			take_chunked(rq, p->payload[i]);
		else
			take_byte(rq, p->payload[i]);
	if (is_whole(rq) && !c->answered) {
		answer_request(c);
		if (c->used && !c->floods && !c->silent && !c->late && c->file_left == 0)
			answered(c);
	}
	if (c->used && c->taken - c->told >= BUF / 2)
		say(c, CREDIT_UPDATE, 0, NULL, 0);
}

/* ---- streams ---- */

static struct conn *conn_of(const struct packet *p)
{
	for (unsigned i = 0; i < CONNS; i++)
		if (conns[i].used && conns[i].port == p->dst_port && conns[i].host_port == p->src_port)
			return &conns[i];
	return NULL;
}

static struct conn *conn_new(const struct packet *p)
{
	bool listens = p->dst_port == API_PORT || (p->dst_port == PRIVATE_PORT && option_number("deaf", 0) == 0);

	for (unsigned i = 0; i < CONNS && listens; i++) {
		struct conn *c = &conns[i];
		if (c->used)
			continue;
		*c = (struct conn){ .used = true, .kept = c->kept };
		c->port = p->dst_port;
		c->host_port = p->src_port;
		return c;
	}
	return NULL;
}

static void refuse(const struct packet *h)
{
	struct packet *p = free_packet();

	p->flags = p->buf_alloc = p->fwd_cnt = 0;
	send_packet(p, RST, h->dst_port, h->src_port, 0);
}

static void got_packet(const struct packet *p)
{
	struct conn *c = conn_of(p);

	if (!c && p->op == REQUEST && (c = conn_new(p)))
		say(c, RESPONSE, 0, NULL, 0);
	if (!c) {
		if (p->op != RST)
			refuse(p);
		return;
	}
	c->host_alloc = p->buf_alloc;
	c->host_taken = p->fwd_cnt;
	if (p->op == RW)
		got_bytes(c, p);
	else if (p->op == CREDIT_REQUEST)
		say(c, CREDIT_UPDATE, 0, NULL, 0);
	else if (p->op == RST)
		c->used = false;
	else if (p->op == SHUTDOWN && (p->flags & 3) == 3) {
		if (c->silent)
			note("agent: closed\n");
		say(c, RST, 0, NULL, 0);
		c->used = false;
	}
}

static void flood(struct conn *c)
{
	static char junk[PAYLOAD];

	memset(junk, 'x', sizeof(junk));
	while (c->used && c->floods && c->host_alloc - (c->sent - c->host_taken) >= PAYLOAD)
		say(c, RW, 0, junk, PAYLOAD);
}

static size_t add_chunk_size(char *to, uint32_t n)
{
	size_t at = 0;

	for (int shift = 12; shift >= 0; shift -= 4)
		to[at++] = "0123456789abcdef"[n >> shift & 15];
	return add(to, at, "\r\n");
}

static void send_file(struct conn *c)
{
	uint8_t piece[PAYLOAD];

	while (c->used && c->file_left && c->host_alloc - (c->sent - c->host_taken) >= PAYLOAD) {
		const uint32_t n = MIN(c->file_left, PAYLOAD - 64);
		size_t at = 0;
		if (c->file_chunked)
			at = add_chunk_size((char *)piece, n);
		for (uint32_t i = 0; i < n; i++)
			piece[at++] = (uint8_t)(c->file_seed + c->file_at++ % 251);
		c->file_left -= n;
		if (c->file_chunked)
			at = add((char *)piece, at, c->file_left ? "\r\n" : "\r\n0\r\n\r\n");
		say(c, RW, 0, piece, (uint32_t)at);
		if (c->file_left == 0)
			answered(c);
	}
}

/* Answers whose time has come. False: there are others. */
static bool late_answers(void)
{
	bool waiting = false;

	for (unsigned i = 0; i < CONNS; i++) {
		struct conn *c = &conns[i];
		if (!c->used || !c->late)
			continue;
		if (stopwatch_ms(&c->time) < option_number(c->late, 0)) {
			waiting = true;
			continue;
		}
		c->late = NULL;
		answer_late(c);
		if (c->used && !c->floods && !c->silent)
			answered(c);
	}
	return !waiting;
}

static void serve(void)
{
	uint32_t len;

	for (struct packet *p; (p = virtq_take(&rx, &len));) {
		got_packet(p);
		give(p);
	}
	virtq_kick(&rx);
	while (virtq_take(&event, &len))
		;
	for (unsigned i = 0; i < CONNS; i++) {
		flood(&conns[i]);
		send_file(&conns[i]);
	}
	uint64_t seen = irq_count[rx.vector];
	if (late_answers() && rx.used[1] == rx.last_used)
		cpu_wait(&irq_count[rx.vector], seen);
}

static bool open_vsock(void)
{
	struct virtio found[32];
	unsigned n = virtio_scan(found, ARRAY_LEN(found));

	for (unsigned i = 0; i < n; i++)
		if (found[i].type == VIRTIO_VSOCK) {
			vsock = found[i];
			virtio_begin(&vsock, 0);
			my_cid = virtio_config(&vsock, 0, 8);
			virtq_init(&rx, &vsock, 0, BUFFERS, vector_alloc(), 0);
			virtq_init(&tx, &vsock, 1, BUFFERS, vector_alloc(), 0);
			virtq_init(&event, &vsock, 2, BUFFERS, 0, 0);
			virtio_go(&vsock);
			return true;
		}
	return false;
}

void guest_main(void)
{
	static uint32_t events[4];

	in = ram_alloc(BUFFERS * sizeof(*in), 64);
	out = ram_alloc(BUFFERS * sizeof(*out), 64);
	conns = ram_alloc(CONNS * sizeof(*conns), 64);
	for (unsigned i = 0; i < CONNS; i++)
		conns[i].kept = ram_alloc(KEPT + 1, 64);
	quiet = option_number("quiet", 0);
	n_pages = option_number("touch", 0);
	pages = ram_alloc(n_pages * PAGE, PAGE);
	if (!open_vsock())
		fail("agent: there is no vsock device");
	for (unsigned i = 0; i < BUFFERS; i++)
		give(&in[i]);
	virtq_kick(&rx);
	for (unsigned i = 0; i < ARRAY_LEN(events); i++) {
		const struct seg seg = { &events[i], sizeof(events[i]), true };
		virtq_add(&event, &seg, 1, false, &events[i]);
	}
	virtq_kick(&event);
	print("agent: ready\n");
	for (;;)
		serve();
}
