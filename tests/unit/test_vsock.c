// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/virtio_vsock, vsock_mux, vsock_conn: hostile packets, credit, half-closed streams, limits and saved state. This
 * file is both the guest's driver and the programs on the host.
 */
#include "tests/unit/rounds.h"

#include <errno.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/agent_ports.h"
#include "vmm/core/host_open.h"
#include "vmm/machine/devices.h"
#include "vmm/virtio/kinds.h"
#include "vmm/virtio/vsock_mux.h"

enum { RAM_BYTES = 4 << 20, SIZE = 256, RX = 0, TX = 1, CID = 5, NO_INTERRUPT = 1, NEXT = 1, WRITE = 2 };
enum { RINGS = 0x4000, DESC = 0, AVAIL = 0x1000, USED = 0x2000, IN = 0x20000, IN_BYTES = 4096 + VSOCK_HEADER_BYTES };
enum { OUT = 0x200000, OUT_BYTES = 0x1000, GUEST_PORT = 700, HOST_PORT = 80, ROOM = 1 << 20 };

static struct vm vm;
static struct device_env env = { .mem = &vm.mem, .kvm = &vm.kvm, .mmio = &vm.mmio, .pci = &vm.pci };
static struct virtio_dev *vdev;
static char dir[] = "/tmp/forkd-test-vsock-XXXXXX", path[64];
static uint16_t given[2], seen[2]; /* avail and used indices of RX and TX */

/* ---- the driver ---- */

static void *ram(uint64_t gpa, size_t len)
{
	void *p = gmem_ptr(&vm.mem, gpa, len);

	assert_non_null(p);
	return p;
}

static uint16_t used_idx(unsigned queue)
{
	return *(uint16_t *)ram(RINGS * (queue + 1) + USED + 2, 2);
}

static void put_desc(unsigned queue, unsigned i, uint64_t addr, uint32_t len, uint16_t flags)
{
	const struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} d = { addr, len, flags, (uint16_t)(i + 1) };

	memcpy(ram(RINGS * (queue + 1) + DESC + 16 * i, sizeof(d)), &d, sizeof(d));
}

static void put_avail(unsigned queue, uint16_t head)
{
	uint16_t *avail = ram(RINGS * (queue + 1) + AVAIL, 6 + 2 * SIZE);

	avail[2 + given[queue] % SIZE] = head;
	avail[1] = ++given[queue];
}

static void notify(unsigned queue)
{
	pthread_mutex_lock(&vdev->lock);
	virtio_notify(vdev, queue);
	pthread_mutex_unlock(&vdev->lock);
	run_rounds(2);
}

/* Buffers for n packets, the header in a segment of its own in every second. */
static void give_buffers(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		unsigned at = given[RX] % (SIZE / 2);
		put_desc(RX, 2 * at, IN + at * IN_BYTES, at % 2 ? VSOCK_HEADER_BYTES : IN_BYTES,
			 WRITE | (at % 2 ? NEXT : 0));
		put_desc(RX, 2 * at + 1, IN + at * IN_BYTES + VSOCK_HEADER_BYTES, IN_BYTES - VSOCK_HEADER_BYTES, WRITE);
		put_avail(RX, (uint16_t)(2 * at));
	}
	notify(RX);
}

/* The next packet for the guest, and its buffer given again; NULL: none. */
static const struct vsock_header *next_packet(void)
{
	run_rounds(2);
	if (used_idx(RX) == seen[RX])
		return NULL;
	const uint32_t *used = ram(RINGS * (RX + 1) + USED + 4 + 8 * (seen[RX]++ % SIZE), 8);
	const struct vsock_header *h = ram(IN + used[0] / 2 * IN_BYTES, IN_BYTES);
	assert_int_equal(used[1], VSOCK_HEADER_BYTES + h->len);
	assert_true(h->dst_cid == CID && h->len <= 4096);
	return h;
}

static const struct vsock_header *expect(uint16_t op)
{
	const struct vsock_header *h = next_packet();

	if (!h || h->op != op)
		fail_msg("expected operation %u, got %d", op, h ? h->op : -1);
	return h;
}

/* Raw bytes as one packet, in one segment or in two. */
static void send_raw(const void *data, size_t len, size_t cut)
{
	unsigned at = given[TX] % (SIZE / 2);
	uint64_t gpa = OUT + at * OUT_BYTES;

	memcpy(ram(gpa, OUT_BYTES), data, len < OUT_BYTES ? len : OUT_BYTES);
	put_desc(TX, 2 * at, gpa, (uint32_t)(cut ? cut : len), cut ? NEXT : 0);
	put_desc(TX, 2 * at + 1, gpa + cut, (uint32_t)(len - cut), 0);
	put_avail(TX, (uint16_t)(2 * at));
	notify(TX);
	seen[TX] = used_idx(TX);
}

static struct vsock_header header(uint16_t op, uint32_t port, uint32_t guest_port)
{
	return (struct vsock_header){
		.src_cid = CID,
		.dst_cid = VSOCK_HOST_CID,
		.src_port = guest_port,
		.dst_port = port,
		.type = VSOCK_STREAM,
		.op = op,
		.buf_alloc = ROOM,
	};
}

static void say(uint16_t op, uint32_t port, uint32_t guest_port, uint32_t flags)
{
	struct vsock_header h = header(op, port, guest_port);

	h.flags = flags;
	send_raw(&h, sizeof(h), 0);
}

static void send_bytes(uint32_t port, uint32_t guest_port, const void *data, uint32_t len)
{
	uint8_t packet[OUT_BYTES];
	struct vsock_header h = header(VSOCK_RW, port, guest_port);

	assert_true(len <= sizeof(packet) - sizeof(h));
	h.len = len;
	memcpy(packet, &h, sizeof(h));
	memcpy(packet + sizeof(h), data, len);
	send_raw(packet, sizeof(h) + len, len % 2 ? sizeof(h) - 3 : 0);
}

/* ---- the host ---- */

static struct sockaddr_un address(const char *suffix)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s%s", path, suffix);
	return addr;
}

static int listen_host(void)
{
	const struct sockaddr_un addr = address("_80");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	unlink(addr.sun_path);
	assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 2000), 0);
	return fd;
}

static int dial(const char *greeting)
{
	const struct sockaddr_un addr = address("");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	if (greeting)
		assert_int_equal(send(fd, greeting, strlen(greeting), 0), (ssize_t)strlen(greeting));
	run_rounds(2);
	return fd;
}

static bool at_end(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno == ECONNRESET);
}

/* ---- life ---- */

static int open_device(const char *socket, int listen_fd, struct err *err)
{
	char id[] = "_vsock0";
	struct vsock_config cfg = { .id = id, .cid = CID, .socket = (char *)(uintptr_t)socket, .listen_fd = listen_fd };

	vm = (struct vm){ .loop = &loop };
	env.loop = &loop;
	gmem_layout(&vm.mem, RAM_BYTES, RAM_BYTES, 1ULL << 32);
	assert_int_equal(gmem_map_anon(&vm.mem, false, false, err), 0);
	assert_int_equal(loop_init(&loop, err), 0);
	return virtio_vsock_new(&env, &cfg, &vdev, err);
}

static void start_driver(void)
{
	memset(ram(RINGS, 4 * RINGS), 0, 4 * RINGS);
	memset(given, 0, sizeof(given));
	memset(seen, 0, sizeof(seen));
	vdev->acked_features = 1ULL << VIRTIO_F_VERSION_1;
	for (unsigned i = 0; i < vdev->n_queues; i++) {
		struct vring_state *s = &vdev->queue[i].s;
		s->ready = true;
		s->desc_table = RINGS * (i + 1) + DESC;
		s->avail_ring = RINGS * (i + 1) + AVAIL;
		s->used_ring = RINGS * (i + 1) + USED;
		*(uint16_t *)ram(s->avail_ring, 2) = NO_INTERRUPT;
	}
	virtio_activate(vdev);
	assert_true(vdev->active);
}

static void open_vsock(unsigned buffers)
{
	struct err err = {};

	unlink(path); /* of a test that failed */
	if (open_device(path, 0, &err) < 0)
		fail_msg("%s", err.msg);
	start_driver();
	if (buffers)
		give_buffers(buffers);
}

static void close_memory(void)
{
	loop_done(&loop);
	gmem_unmap(&vm.mem);
}

static void close_vsock(void)
{
	vdev->ops->free(vdev);
	close_memory();
	assert_int_not_equal(access(path, F_OK), 0);
}

/* A stream that the guest began; returns the host's end. */
static int guest_stream(int listener, uint32_t guest_port)
{
	say(VSOCK_REQUEST, HOST_PORT, guest_port, 0);
	const struct vsock_header *h = expect(VSOCK_RESPONSE);
	assert_true(h->src_port == HOST_PORT && h->dst_port == guest_port && h->src_cid == VSOCK_HOST_CID);
	assert_int_equal(h->buf_alloc, VSOCK_BUF_BYTES);
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(fd >= 0);
	return fd;
}

/* A stream that the host began: *ret_port is its port at the host. */
static int host_stream(uint32_t *ret_port)
{
	char line[32] = "", want[32];
	int fd = dial("CONNECT 700\n");
	const struct vsock_header *h = expect(VSOCK_REQUEST);

	assert_int_equal(h->dst_port, GUEST_PORT);
	assert_true(h->src_port >= 1U << 30);
	*ret_port = h->src_port;
	say(VSOCK_RESPONSE, h->src_port, GUEST_PORT, 0);
	assert_true(recv(fd, line, sizeof(line) - 1, 0) > 0);
	snprintf(want, sizeof(want), "OK %u\n", *ret_port);
	assert_string_equal(line, want);
	return fd;
}

/* ---- tests ---- */

static void hostile_packets(void **state)
{
	struct vsock_header h;
	const struct vsock_header *r;

	(void)state;
	open_vsock(100);
	autoclose int listener = listen_host();
	for (size_t len = 0; len < sizeof(h); len++) { /* half a header */
		h = header(VSOCK_REQUEST, HOST_PORT, 1);
		send_raw(&h, len, len / 2);
		assert_null(next_packet());
	}
	h = header(VSOCK_REQUEST, HOST_PORT, 1);
	h.src_cid = CID + 1; /* not this guest */
	send_raw(&h, sizeof(h), 0);
	assert_null(next_packet());
	h = header(VSOCK_REQUEST, HOST_PORT, 1);
	h.dst_cid = 0x100000002;
	send_raw(&h, sizeof(h), 0);
	r = expect(VSOCK_RST);
	assert_true(r->src_cid == 0x100000002 && r->src_port == HOST_PORT && r->dst_port == 1);
	h = header(VSOCK_REQUEST, HOST_PORT, 1);
	h.type = 2;
	send_raw(&h, sizeof(h), 0);
	assert_int_equal(expect(VSOCK_RST)->type, 2);
	for (unsigned op = 0; op < 12; op++) { /* no such stream */
		say(op == VSOCK_REQUEST ? 0xffff : (uint16_t)op, HOST_PORT, 1, 3);
		if (op != VSOCK_RST)
			expect(VSOCK_RST);
		assert_null(next_packet());
	}
	say(VSOCK_REQUEST, 81, 1, 0); /* nobody listens */
	expect(VSOCK_RST);
	for (unsigned op = 0; op < 12; op++) { /* on a stream that is open */
		autoclose int fd = guest_stream(listener, 10 + op);
		bool fine = op == VSOCK_RW || op == VSOCK_SHUTDOWN || op >= VSOCK_CREDIT_UPDATE;
		say((uint16_t)op, HOST_PORT, 10 + op, 0);
		if (op == VSOCK_CREDIT_REQUEST)
			expect(VSOCK_CREDIT_UPDATE);
		else if (op != VSOCK_RST && (!fine || op > VSOCK_CREDIT_REQUEST))
			expect(VSOCK_RST);
		assert_null(next_packet());
		fine = fine && op <= VSOCK_CREDIT_REQUEST;
		assert_int_equal(at_end(fd), !fine);
		close(steal_fd(&fd));
		if (fine)
			expect(VSOCK_SHUTDOWN);
	}
	autoclose int fd = guest_stream(listener, 50);
	h = header(VSOCK_RW, HOST_PORT, 50);
	h.len = 1; /* which is not there */
	send_raw(&h, sizeof(h), 7);
	expect(VSOCK_RST);
	assert_true(at_end(fd));
	close_vsock();
}

static void random_packets(void **state)
{
	unsigned random = 1, fds = 0;

	(void)state;
	open_vsock(100);
	autoclose int listener = listen_host();
	int ends[64];
	memset(ends, 0xff, sizeof(ends));
	for (unsigned i = 0; i < 20000; i++) {
		uint8_t packet[600];
		struct vsock_header h = header((uint16_t)(rand_r(&random) % 9), rand_r(&random) % 4 ? HOST_PORT : 81,
					       (uint32_t)rand_r(&random) % 20);
		for (size_t k = sizeof(h); k < sizeof(packet); k++)
			packet[k] = (uint8_t)k;
		h.len = h.op == VSOCK_RW ? (uint32_t)rand_r(&random) % 600 : 0;
		h.flags = (uint32_t)rand_r(&random);
		h.buf_alloc = rand_r(&random) % 3 ? ROOM : (uint32_t)rand_r(&random) * 2U;
		h.fwd_cnt = rand_r(&random) % 3 ? 0 : (uint32_t)rand_r(&random) * 2U;
		memcpy(packet, &h, sizeof(h));
		if (rand_r(&random) % 8 == 0)
			packet[(unsigned)rand_r(&random) % sizeof(h)] ^= (uint8_t)rand_r(&random);
		send_raw(packet, (size_t)(44 + rand_r(&random) % 556), (size_t)rand_r(&random) % 44);
		int *end = &ends[(unsigned)rand_r(&random) % ARRAY_LEN(ends)];
		if (*end < 0)
			*end = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		else if (rand_r(&random) % 4 == 0)
			close(steal_fd(end));
		else if (send(*end, packet, 300, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && rand_r(&random) % 2)
			shutdown(*end, SHUT_WR);
		while (next_packet())
			give_buffers(1);
	}
	for (size_t i = 0; i < ARRAY_LEN(ends); i++)
		if (ends[i] >= 0)
			close(ends[i]);
	assert_false(vdev->broken);
	pthread_mutex_lock(&vdev->lock);
	virtio_reset(vdev);
	pthread_mutex_unlock(&vdev->lock);
	fds = count_fds();
	close_vsock();
	assert_true(count_fds() + 5 >=
		    fds); /* the reset left no connection: what goes now are the device's and the loop's */
}

static void credit_of_the_guest(void **state)
{
	uint8_t data[3000], back[3000];
	uint32_t sent = 0, credit_given = 0, port;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7);
	open_vsock(100);
	autoclose int fd = host_stream(&port);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ 4096 }, sizeof(int));
	for (const struct vsock_header *h; sent - credit_given + sizeof(data) <= VSOCK_BUF_BYTES;
	     sent += sizeof(data)) {
		send_bytes(port, GUEST_PORT, data,
			   sizeof(data)); /* the host does not read: only the socket takes some */
		while ((h = next_packet())) {
			assert_int_equal(h->op, VSOCK_CREDIT_UPDATE);
			credit_given = h->fwd_cnt;
		}
	}
	assert_true(credit_given > 0 && sent > VSOCK_BUF_BYTES);
	for (uint32_t got = 0; got < sent;) { /* it begins to read: all comes, and new credit */
		ssize_t n = recv(fd, back, sizeof(back) - got % sizeof(back), MSG_DONTWAIT);
		run_rounds(2);
		if (n < 0)
			continue;
		assert_memory_equal(back, data + got % sizeof(data), (size_t)n);
		got += (uint32_t)n;
	}
	uint32_t last = 0;
	for (const struct vsock_header *h; (h = next_packet());)
		last = h->fwd_cnt;
	assert_true(sent - last < VSOCK_BUF_BYTES / 2);
	for (unsigned i = 0; i < 2000 && used_idx(RX) == seen[RX]; i++) /* more than it may */
		send_bytes(port, GUEST_PORT, data, sizeof(data));
	for (const struct vsock_header *h; (h = next_packet()) && h->op != VSOCK_RST;) {
		assert_int_equal(h->op, VSOCK_CREDIT_UPDATE);
		for (unsigned i = 0; i < 2000 && used_idx(RX) == seen[RX]; i++)
			send_bytes(port, GUEST_PORT, data, sizeof(data));
	}
	close_vsock();
}

static void credit_for_the_guest(void **state)
{
	uint8_t data[5000] = { 1 };
	const struct vsock_header *h;
	struct vsock_header update;
	uint32_t got = 0, port;

	(void)state;
	open_vsock(50);
	autoclose int fd = host_stream(&port);
	update = header(VSOCK_CREDIT_UPDATE, port, GUEST_PORT);
	update.buf_alloc = 1000;
	send_raw(&update, sizeof(update), 0);
	assert_int_equal(send(fd, data, sizeof(data), 0), sizeof(data));
	while ((h = next_packet()) && h->op == VSOCK_RW)
		got += h->len;
	assert_int_equal(got, 1000);
	assert_true(h && h->op == VSOCK_CREDIT_REQUEST);
	assert_null(next_packet());
	update.fwd_cnt = 5000; /* nonsense: more than was sent, so the credit is gone */
	send_raw(&update, sizeof(update), 0);
	assert_null(next_packet());
	update.fwd_cnt = 600;
	send_raw(&update, sizeof(update), 0);
	assert_int_equal(expect(VSOCK_RW)->len, 600);
	expect(VSOCK_CREDIT_REQUEST);
	update.buf_alloc = UINT32_MAX;
	send_raw(&update, sizeof(update), 0);
	for (got = 1600; (h = next_packet()); got += h->len)
		assert_int_equal(h->op, VSOCK_RW);
	assert_int_equal(got, sizeof(data));
	close_vsock();
}

static void half_closed(void **state)
{
	char back[8] = "";
	uint32_t port;

	(void)state;
	open_vsock(50);
	autoclose int fd = host_stream(&port); /* the guest ends first */
	send_bytes(port, GUEST_PORT, "bye", 3);
	say(VSOCK_SHUTDOWN, port, GUEST_PORT, VSOCK_NO_SEND);
	assert_int_equal(recv(fd, back, sizeof(back), 0), 3);
	assert_true(at_end(fd));
	assert_int_equal(send(fd, "still", 5, 0), 5);
	assert_int_equal(expect(VSOCK_RW)->len, 5);
	shutdown(fd, SHUT_WR);
	assert_int_equal(expect(VSOCK_SHUTDOWN)->flags & VSOCK_NO_SEND, VSOCK_NO_SEND);
	say(VSOCK_SHUTDOWN, port, GUEST_PORT, VSOCK_NEITHER);
	expect(VSOCK_RST);
	assert_null(next_packet());

	autoclose int second = host_stream(&port); /* the host ends first */
	assert_int_equal(send(second, "bye", 3, 0), 3);
	shutdown(second, SHUT_WR);
	assert_int_equal(expect(VSOCK_RW)->len, 3);
	assert_int_equal(expect(VSOCK_SHUTDOWN)->flags, VSOCK_NO_SEND);
	send_bytes(port, GUEST_PORT, "still", 5);
	assert_int_equal(recv(second, back, sizeof(back), 0), 5);
	close(steal_fd(&second)); /* now all of it */
	assert_int_equal(expect(VSOCK_SHUTDOWN)->flags, VSOCK_NEITHER);
	send_bytes(port, GUEST_PORT, "late", 4); /* sent before the guest knew: no harm */
	assert_null(next_packet());
	say(VSOCK_RST, port, GUEST_PORT, 0);
	assert_null(next_packet());

	autoclose int third = host_stream(&port); /* data after the end */
	say(VSOCK_SHUTDOWN, port, GUEST_PORT, VSOCK_NO_SEND);
	send_bytes(port, GUEST_PORT, "x", 1);
	expect(VSOCK_RST);
	assert_true(at_end(third));

	autoclose int fourth = host_stream(&port); /* what the host had sent comes before its end */
	assert_int_equal(send(fourth, "last", 4, 0), 4);
	close(steal_fd(&fourth));
	assert_int_equal(expect(VSOCK_RW)->len, 4);
	assert_int_equal(expect(VSOCK_SHUTDOWN)->flags, VSOCK_NEITHER);

	autoclose int fifth = host_stream(&port); /* a guest that reads no more */
	say(VSOCK_SHUTDOWN, port, GUEST_PORT, VSOCK_NO_RECEIVE);
	assert_true(send(fifth, "x", 1, MSG_NOSIGNAL) < 0);
	assert_null(next_packet());
	close(steal_fd(&fifth));
	assert_int_equal(expect(VSOCK_SHUTDOWN)->flags, VSOCK_NEITHER);
	close_vsock();
}

static void greetings(void **state)
{
	static const char *const bad[] = {
		"HELLO 1\n",
		"CONNECT\n",
		"CONNECT x\n",
		"CONNECT -1\n",
		"CONNECT 4294967296\n",
		"CONNECT 99999999999999999999\n",
		"\n",
		"CONNECT 1 2\n",
		"CONNECT 1234 but never an end of the line",
	};
	static const char *const good[] = { "CONNECT 700\n", "connect 700\r\n", "  Connect\t0700 \n" };

	(void)state;
	open_vsock(20);
	unsigned before = count_fds();
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		autoclose int fd = dial(bad[i]);
		if (!at_end(fd))
			fail_msg("'%s'", bad[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		autoclose int fd = dial(good[i]);
		uint32_t port = expect(VSOCK_REQUEST)->src_port;
		say(VSOCK_RST, port, GUEST_PORT, 0);
		assert_true(at_end(fd));
	}
	autoclose int gone = dial("CONNECT 700\n"); /* it cannot wait for the answer */
	uint32_t port = expect(VSOCK_REQUEST)->src_port;
	close(steal_fd(&gone));
	expect(VSOCK_RST);
	say(VSOCK_RESPONSE, port, GUEST_PORT, 0);
	expect(VSOCK_RST);
	autoclose int pushed = dial("CONNECT 700\nearly"); /* does not wait for OK */
	port = expect(VSOCK_REQUEST)->src_port;
	send_bytes(port, GUEST_PORT, "x", 1); /* nor does the guest: that is wrong */
	expect(VSOCK_RST);
	assert_true(at_end(pushed));
	autoclose int early = dial("CONNECT 700\nearly");
	port = expect(VSOCK_REQUEST)->src_port;
	assert_null(next_packet());
	say(VSOCK_RESPONSE, port, GUEST_PORT, 0);
	assert_int_equal(expect(VSOCK_RW)->len, 5);
	close(steal_fd(&early));
	close(steal_fd(&pushed));
	assert_int_equal(count_fds(), before + 1); /* the stream's */
	close_vsock();
}

static void answers_without_buffers(void **state)
{
	unsigned n = 0;

	(void)state;
	open_vsock(0);
	for (unsigned i = 0; i < 1500; i++) { /* nothing takes the answers: the device stops taking packets */
		unsigned at = given[TX] % (SIZE / 2);
		if ((uint16_t)(given[TX] - used_idx(TX)) == SIZE / 2)
			break;
		struct vsock_header h = header(VSOCK_RW, HOST_PORT, i);
		memcpy(ram(OUT + at * OUT_BYTES, sizeof(h)), &h, sizeof(h));
		put_desc(TX, 2 * at, OUT + at * OUT_BYTES, sizeof(h), 0);
		put_avail(TX, (uint16_t)(2 * at));
		notify(TX);
	}
	assert_int_equal(used_idx(TX), VSOCK_RESETS_FULL);
	assert_int_equal(given[TX], VSOCK_RESETS_FULL + SIZE / 2);
	for (unsigned i = 0; i < 100; i++) { /* and goes on */
		give_buffers(100);
		for (const struct vsock_header *h; (h = next_packet()); n++)
			assert_int_equal(h->dst_port, n);
	}
	assert_int_equal(n, given[TX]);
	close_vsock();
}

static void buffer_too_small(void **state)
{
	(void)state;
	open_vsock(0);
	put_desc(RX, 0, IN, VSOCK_HEADER_BYTES - 1, WRITE);
	put_avail(RX, 0);
	say(VSOCK_RW, HOST_PORT, 1, 0);
	assert_true(vdev->broken);
	say(VSOCK_RW, HOST_PORT, 1, 0);
	pthread_mutex_lock(&vdev->lock);
	virtio_reset(vdev);
	pthread_mutex_unlock(&vdev->lock);
	start_driver();
	give_buffers(4);
	say(VSOCK_RW, HOST_PORT, 1, 0);
	expect(VSOCK_RST);
	close_vsock();
}

static void reset_closes_all(void **state)
{
	uint32_t port;

	(void)state;
	open_vsock(20);
	autoclose int listener = listen_host();
	unsigned before = count_fds();
	int a = guest_stream(listener, 1), b = host_stream(&port), c = dial("CONN");
	pthread_mutex_lock(&vdev->lock);
	virtio_reset(vdev);
	pthread_mutex_unlock(&vdev->lock);
	assert_true(at_end(a) && at_end(b) && at_end(c));
	close(a);
	close(b);
	close(c);
	assert_int_equal(count_fds(), before);
	start_driver();
	give_buffers(10);
	assert_null(next_packet());
	close(host_stream(&port));
	close_vsock();
}

static void limits(void **state)
{
	struct rlimit was, many = { 4000, 4000 };
	int fds[VSOCK_CONNS_MAX];

	(void)state;
	getrlimit(RLIMIT_NOFILE, &was);
	many.rlim_max = was.rlim_max;
	if (was.rlim_max < many.rlim_cur || setrlimit(RLIMIT_NOFILE, &many) < 0)
		skip();
	open_vsock(100);
	autoclose int listener = listen_host();
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		fds[i] = guest_stream(listener, i);
		give_buffers(1);
	}
	say(VSOCK_REQUEST, HOST_PORT, 5000, 0);
	expect(VSOCK_RST);
	autoclose int late = dial("CONNECT 700\n");
	assert_true(at_end(late));
	say(VSOCK_RST, HOST_PORT, 17, 0);
	uint32_t port;
	close(host_stream(&port)); /* there is room again */
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
		close(fds[i]);
	unsigned before = count_fds();
	close_vsock();
	assert_true(count_fds() < before - VSOCK_CONNS_MAX + 10);
	setrlimit(RLIMIT_NOFILE, &was);
}

/* ---- what the owner of a VM dials ---- */

/* A device whose listening socket came from an owner. */
static void open_owned(unsigned buffers)
{
	struct sockaddr_un addr = address("");
	struct err err = {};
	autoclose int given_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(path);
	assert_int_equal(bind(given_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(given_fd, 10), 0);
	if (open_device(path, given_fd, &err) < 0)
		fail_msg("%s", err.msg);
	start_driver();
	give_buffers(buffers);
}

static void close_owned(void)
{
	unlink(path);
	close_vsock();
}

/* Returns the owner's end; -1: refused, as *err says. */
static int dial_owned(uint32_t port, struct err *err)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	if (virtio_vsock_dial(vdev, pair[0], port, err) < 0) {
		close(pair[0]);
		close(steal_fd(&pair[1]));
	}
	return pair[1];
}

static void dialed(void **state)
{
	struct err err = {};
	char line[32] = "", want[32];

	(void)state;
	open_owned(10);
	autoclose int fd = dial_owned(AGENT_PRIVATE_PORT, &err);
	assert_true(fd >= 0);
	assert_int_not_equal(used_idx(RX), seen[RX]); /* the guest has the request at once */
	assert_int_equal(send(fd, "hello", 5, 0), 5); /* before the guest has answered */
	struct vsock_header h = *expect(VSOCK_REQUEST);
	assert_true(h.dst_port == AGENT_PRIVATE_PORT && h.src_cid == VSOCK_HOST_CID);
	assert_null(next_packet());
	say(VSOCK_RESPONSE, h.src_port, AGENT_PRIVATE_PORT, 0);
	assert_int_equal(expect(VSOCK_RW)->len, 5);
	send_bytes(h.src_port, AGENT_PRIVATE_PORT, "world", 5);
	int len = snprintf(want, sizeof(want), "OK %u\nworld", h.src_port);
	assert_int_equal(recv(fd, line, sizeof(line), 0), len);
	assert_string_equal(line, want);
	say(VSOCK_SHUTDOWN, h.src_port, AGENT_PRIVATE_PORT, VSOCK_NEITHER);
	expect(VSOCK_RST);
	assert_true(at_end(fd));

	autoclose int refused = dial_owned(700, &err); /* the guest refuses: the end, without a line */
	say(VSOCK_RST, expect(VSOCK_REQUEST)->src_port, 700, 0);
	assert_true(at_end(refused));
	int impatient = dial_owned(700, &err); /* the owner does not wait for the answer */
	expect(VSOCK_REQUEST);
	close(impatient);
	expect(VSOCK_RST);
	assert_null(next_packet());
	close_owned();
}

/* The private port is the owner's alone, where there is an owner. */
static void private_port(void **state)
{
	(void)state;
	open_owned(10);
	autoclose int fd = dial("CONNECT 984\n"), other = dial("CONNECT 983\n");
	assert_true(at_end(fd));
	assert_int_equal(expect(VSOCK_REQUEST)->dst_port, AGENT_PORT);
	assert_false(at_end(other));
	assert_null(next_packet());
	close_owned();
	open_vsock(10);
	autoclose int by_hand = dial("CONNECT 984\n");
	assert_int_equal(expect(VSOCK_REQUEST)->dst_port, AGENT_PRIVATE_PORT);
	assert_false(at_end(by_hand));
	close_vsock();
}

static void not_dialed(void **state)
{
	struct err err = {};
	int pipe_fds[2];

	(void)state;
	open_owned(10);
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	assert_int_equal(virtio_vsock_dial(vdev, pipe_fds[0], 1, &err), -EINVAL);
	assert_string_equal(err.msg, "the descriptor for vsock port 1 is no stream socket");
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	int datagrams[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagrams), 0);
	assert_int_equal(virtio_vsock_dial(vdev, datagrams[0], 1, &err), -EINVAL);
	close(datagrams[0]);
	close(datagrams[1]);
	assert_null(next_packet());
	close_owned();
}

/* Whoever reaches the socket, and the guest itself, cannot use up what is kept for the owner. */
static void kept_for_the_owner(void **state)
{
	enum { OTHERS = VSOCK_CONNS_MAX - VSOCK_KEPT, DIALS = VSOCK_KEPT - VSOCK_KEPT_PRIVATE };
	struct rlimit was, many = { 4000, 4000 };
	int fds[VSOCK_CONNS_MAX];
	unsigned n = 0;
	struct err err = {};

	(void)state;
	getrlimit(RLIMIT_NOFILE, &was);
	many.rlim_max = was.rlim_max;
	if (was.rlim_max < many.rlim_cur || setrlimit(RLIMIT_NOFILE, &many) < 0)
		skip();
	open_owned(100);
	autoclose int listener = listen_host();
	while (n < OTHERS / 2)
		fds[n++] = dial("CONN");
	for (; n < OTHERS; n++) {
		fds[n] = guest_stream(listener, n);
		give_buffers(1);
	}
	autoclose int late = dial("CONN");
	assert_true(at_end(late));
	say(VSOCK_REQUEST, HOST_PORT, 5000, 0);
	expect(VSOCK_RST);
	for (; n < OTHERS + DIALS; n++)
		assert_true((fds[n] = dial_owned(AGENT_PORT, &err)) >= 0);
	assert_int_equal(dial_owned(AGENT_PORT, &err), -1);
	assert_int_equal(err.code, ERR_BUSY);
	assert_string_equal(err.msg, "vsock port 983: the device has 1007 streams, no more are possible");
	for (; n < VSOCK_CONNS_MAX; n++)
		assert_true((fds[n] = dial_owned(AGENT_PRIVATE_PORT, &err)) >= 0);
	assert_int_equal(dial_owned(AGENT_PRIVATE_PORT, &err), -1);
	while (n > 0)
		close(fds[--n]);
	close_owned();
	setrlimit(RLIMIT_NOFILE, &was);
}

static void descriptors_run_out(void **state)
{
	struct rlimit was, few;
	uint32_t port;

	(void)state;
	open_vsock(20);
	autoclose int fd = host_stream(&port), late = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	autoclose int spare = dup(0); /* for the loop's rounds */
	getrlimit(RLIMIT_NOFILE, &was);
	few = (struct rlimit){ (rlim_t)spare + 1, was.rlim_max };
	const struct sockaddr_un addr = address("");
	assert_int_equal(connect(late, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(send(late, "CONNECT 700\n", 12, 0), 12);
	setrlimit(RLIMIT_NOFILE, &few);
	struct epoll_event ev; /* the rounds of this test have no number either */
	assert_int_equal(epoll_wait(loop.epoll_fd, &ev, 1, 0), 1);
	struct source *ready = ev.data.ptr;
	for (unsigned i = 0; i < 3; i++)
		ready->ready(ready, EPOLLIN);
	assert_int_equal(epoll_wait(loop.epoll_fd, &ev, 1, 0), 0); /* it does not ask again and again */
	setrlimit(RLIMIT_NOFILE, &was);
	close(steal_fd(&fd)); /* one ends: the next is let in */
	assert_int_equal(expect(VSOCK_SHUTDOWN)->flags, VSOCK_NEITHER);
	say(VSOCK_RST, port, GUEST_PORT, 0);
	expect(VSOCK_REQUEST);
	close_vsock();
}

static int load(const char *text, struct err *err)
{
	autofree char *copy = exact_copy(text, strlen(text));
	autojson struct json json = {};

	assert_int_equal(json_parse(&json, copy, strlen(text), err), 0);
	return vdev->ops->load(vdev, json.nodes, err);
}

static void snapshots(void **state)
{
	autostrbuf struct strbuf saved = {}, empty = {};
	struct err err = {};
	char want[200];
	uint32_t port;

	(void)state;
	open_vsock(20);
	vdev->ops->save(vdev, &empty);
	assert_string_equal(empty.text,
			    "{\"avail_features\":38654705664,\"acked_features\":4294967296,\"connections\":[]}");
	autoclose int fd = host_stream(&port), second = dial("CONN");
	autoclose int third = dial("CONNECT 9\n"); /* the guest may have the request by now */
	expect(VSOCK_REQUEST);
	assert_false(at_end(fd) || at_end(second) || at_end(third));
	vdev->ops->save(vdev, &saved);
	assert_true(strstr(saved.text, ",9]") != NULL);
	say(VSOCK_RST, port + 1, 9, 0);
	strbuf_done(&saved);
	saved = (struct strbuf){};
	vdev->ops->save(vdev, &saved);
	snprintf(want, sizeof(want),
		 "{\"avail_features\":38654705664,\"acked_features\":4294967296,\"connections\":[[%u,%u]]}",
		 (unsigned)port, (unsigned)GUEST_PORT);
	assert_string_equal(saved.text, want);
	close_vsock();

	if (open_device(path, 0, &err) < 0) /* the copy: its stream is told to the guest, before anything else */
		fail_msg("%s", err.msg);
	assert_int_equal(load(saved.text, &err), 0);
	autostrbuf struct strbuf again = {};
	vdev->ops->save(vdev, &again); /* a snapshot before it ever ran */
	assert_string_equal(again.text, want);
	start_driver();
	autoclose int fresh = dial("CONNECT 700\n");
	assert_false(at_end(fresh));
	give_buffers(10);
	const struct vsock_header *h = expect(VSOCK_RST);
	assert_true(h->src_port == port && h->dst_port == GUEST_PORT);
	assert_true(expect(VSOCK_REQUEST)->src_port != port);
	close_vsock();
}

static void refused_states(void **state)
{
	static const struct {
		const char *connections, *msg;
	} cases[] = {
		{ "{}", "connections: expected an array, found an object" },
		{ "[1]", "connections: expected an array, found" },
		{ "[[1]]", "connections: expected pairs of ports" },
		{ "[[1,2,3]]", "connections: expected pairs of ports" },
		{ "[[1,-2]]", "connections: expected pairs of ports" },
		{ "[[1,4294967296]]", "connections: expected pairs of ports" },
		{ "[\"a\"]", "connections: expected pairs of ports" },
	};
	autostrbuf struct strbuf many = {};
	struct err err = {};
	char text[200];

	(void)state;
	if (open_device(path, 0, &err) < 0)
		fail_msg("%s", err.msg);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		snprintf(text, sizeof(text), "{\"avail_features\":1,\"acked_features\":0,\"connections\":%s}",
			 cases[i].connections);
		err = (struct err){};
		assert_int_equal(load(text, &err), -EINVAL);
		assert_non_null(strstr(err.msg, cases[i].msg));
	}
	err = (struct err){};
	assert_int_equal(load("{\"avail_features\":38654705664,\"acked_features\":34359738368}", &err),
			 0); /* as older ones */
	assert_int_equal(load("{\"avail_features\":1,\"acked_features\":1}", &err), -EINVAL);
	strbuf_puts(&many, "{\"avail_features\":1,\"acked_features\":0,\"connections\":[[1,2]");
	for (unsigned i = 0; i < VSOCK_CONNS_MAX + 2; i++)
		strbuf_puts(&many, ",[1,2]");
	strbuf_puts(&many, "]}");
	err = (struct err){};
	assert_int_equal(load(many.text, &err), -EINVAL);
	close_vsock();
}

static void sockets(void **state)
{
	struct err err = {};
	char text[256];
	uint32_t port;

	(void)state;
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)); /* something is in the way: it stays */
	assert_true(open_device(path, 0, &err) < 0);
	snprintf(
		text, sizeof(text),
		"Error from device manager\nCannot create virtio-vsock backend\nError binding to the host-side Unix socket '%s'\nAddress already in use (os error 98)",
		path);
	assert_string_equal(err.msg, text);
	close_memory();
	assert_int_equal(access(path, F_OK), 0);
	unlink(path);
	memset(text, 'a', 120);
	text[120] = '\0';
	assert_int_equal(open_device(text, 0, &err), -EINVAL);
	close_memory();
	assert_int_equal(open_device("", 0, &err), -EINVAL);
	close_memory();

	struct sockaddr_un addr =
		address(""); /* a socket of forkd: it is forkd's to unlink, its path is the guest's way out */
	autoclose int given_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(given_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(given_fd, 10), 0);
	err = (struct err){};
	assert_int_equal(open_device(path, given_fd, &err), 0);
	start_driver();
	give_buffers(10);
	autoclose int listener = listen_host();
	close(host_stream(&port));
	expect(VSOCK_SHUTDOWN);
	close(guest_stream(listener, 5));
	vdev->ops->free(vdev);
	close_memory();
	assert_int_equal(access(path, F_OK), 0);
	unlink(path);
}

static int copy_fd, peer_fd;

/* As the daemon does: who connects for the VM still has the socket open when the VM has it. */
static int connect_with_copy(void *opaque, uint32_t port)
{
	int pair[2];

	(void)opaque;
	(void)port;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	copy_fd = dup(pair[0]);
	peer_fd = pair[1];
	return pair[0];
}

/* A stream that is gone is not woken by a socket that somebody else still holds. The last test: the door stays shut. */
static void end_of_a_shared_socket(void **state)
{
	struct epoll_event ev;

	(void)state;
	open_vsock(10);
	host_open_shut(connect_with_copy, NULL);
	say(VSOCK_REQUEST, HOST_PORT, 5, 0);
	expect(VSOCK_RESPONSE);
	say(VSOCK_RST, HOST_PORT, 5, 0);
	assert_int_equal(send(peer_fd, "x", 1, MSG_NOSIGNAL), 1);
	assert_int_equal(epoll_wait(loop.epoll_fd, &ev, 1, 0), 0);
	close(copy_fd);
	close(peer_fd);
	close_vsock();
}

static int make_dir(void **state)
{
	(void)state;
	snprintf(path, sizeof(path), "%s/vsock", mkdtemp(dir));
	return 0;
}

static int remove_dir(void **state)
{
	char host[80];

	(void)state;
	snprintf(host, sizeof(host), "%s_80", path);
	unlink(host);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hostile_packets),
		cmocka_unit_test(random_packets),
		cmocka_unit_test(credit_of_the_guest),
		cmocka_unit_test(credit_for_the_guest),
		cmocka_unit_test(half_closed),
		cmocka_unit_test(greetings),
		cmocka_unit_test(answers_without_buffers),
		cmocka_unit_test(buffer_too_small),
		cmocka_unit_test(reset_closes_all),
		cmocka_unit_test(limits),
		cmocka_unit_test(dialed),
		cmocka_unit_test(private_port),
		cmocka_unit_test(not_dialed),
		cmocka_unit_test(kept_for_the_owner),
		cmocka_unit_test(descriptors_run_out),
		cmocka_unit_test(snapshots),
		cmocka_unit_test(refused_states),
		cmocka_unit_test(sockets),
		cmocka_unit_test(end_of_a_shared_socket),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
