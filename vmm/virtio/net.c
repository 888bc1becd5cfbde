// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-net over taps: queue pair i is tap queue i, the last queue is control. The thread that is
 * notified writes the frames to the host. The main thread reads the frames to the guest or, once the
 * device has a worker, the worker: the answer to a frame then finds the worker awake. Frames wait in
 * the tap while the guest has no buffer.
 *
 * A net that is held drops every frame in both directions. The guest notices no more than lost frames:
 * its buffers come back as always, and the link stays up.
 */
#include <errno.h>
#include <limits.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/random.h>

#include "common/log.h"
#include "vmm/core/event_monitor.h"
#include "vmm/core/loop.h"
#include "vmm/virtio/kinds.h"
#include "vmm/virtio/tap.h"

enum {
	F_CSUM = 0,
	F_GUEST_CSUM = 1,
	F_CTRL_GUEST_OFFLOADS = 2,
	F_MTU = 3,
	F_MAC = 5,
	F_GUEST_TSO4 = 7,
	F_GUEST_TSO6 = 8,
	F_GUEST_ECN = 9,
	F_GUEST_UFO = 10,
	F_HOST_TSO4 = 11,
	F_HOST_TSO6 = 12,
	F_HOST_ECN = 13,
	F_HOST_UFO = 14,
	F_STATUS = 16,
	F_CTRL_VQ = 17,
	F_GUEST_ANNOUNCE = 21,
	F_MQ = 22
};
enum { STATUS_LINK_UP = 1, STATUS_ANNOUNCE = 2 };
enum { CLASS_ANNOUNCE = 3, CLASS_MQ = 4, CLASS_OFFLOADS = 5, CTRL_OK = 0, CTRL_ERR = 1 };
enum { FRAME_MAX_BYTES = VNET_HEADER_BYTES + ETH_HLEN + 4 + 65536, RX_BATCH = 64, UNHOLD_BATCH = 4096 };
#define BIT(n) (1ULL << (n))
#define GUEST_OFFLOADS (BIT(F_GUEST_CSUM) | BIT(F_GUEST_TSO4) | BIT(F_GUEST_TSO6) | BIT(F_GUEST_ECN) | BIT(F_GUEST_UFO))

/* virtio 1.2, 5.1.4; names as in state.json. */
struct net_space {
	uint8_t mac[MAC_BYTES];
	uint16_t status, max_virtqueue_pairs, mtu;
	uint32_t speed;
	uint8_t duplex;
} __attribute__((packed));

struct saved_space { /* struct net_space, aligned */
	uint8_t mac[MAC_BYTES];
	uint16_t status, max_virtqueue_pairs, mtu;
	uint32_t speed;
	uint8_t duplex;
};

struct net_state {
	uint64_t avail_features, acked_features;
	struct saved_space config;
	uint16_t *queue_size;
	uint32_t n_queue_size;
	/* our own: not in Cloud Hypervisor's state */
	uint16_t used_queue_pairs;
	bool has_used_queue_pairs;
	uint64_t guest_offloads; /* feature bits; absent: all that were negotiated */
	bool has_guest_offloads;
};

struct pair {
	struct source tap;
	struct loop *loop; /* the loop that has the tap: the main thread's, or the worker's */
	struct net *net;
	unsigned index;
	bool waiting; /* the loop waits for EPOLLIN: the guest has buffers, or the net is held */
};

struct net {
	struct virtio_dev vdev;
	const struct device_env *env;
	struct net_space space;
	struct pair *pair;
	unsigned n_pairs, used_pairs; /* used: as the driver set them (VIRTIO_NET_CTRL_MQ) */
	uint64_t refused_offloads;    /* negotiated, then switched off by the driver (VIRTIO_NET_CTRL_GUEST_OFFLOADS) */
	bool announce;                /* the guest is asked to announce itself */
	bool held;                    /* until virtio_net_unhold() */
	bool owes_announcement;       /* the net was restored while it was held */
	bool lost;                    /* the taps' interface is gone: said once, and no loop has them */
};

static const struct field space_fields[] = {
	F_ARRAY(struct saved_space, mac, .flags = F_REQUIRED),
	F(struct saved_space, status, .flags = F_REQUIRED),
	F(struct saved_space, max_virtqueue_pairs, .flags = F_REQUIRED),
	F(struct saved_space, mtu, .flags = F_REQUIRED),
	F(struct saved_space, speed, .flags = F_REQUIRED),
	F(struct saved_space, duplex, .flags = F_REQUIRED),
	F_END,
};

static const struct field net_state_fields[] = {
	F(struct net_state, avail_features, .flags = F_REQUIRED),
	F(struct net_state, acked_features, .flags = F_REQUIRED),
	F_OBJ(struct net_state, config, space_fields, .flags = F_REQUIRED),
	F_LIST(struct net_state, queue_size, .flags = F_REQUIRED, .count = VIRTIO_MAX_QUEUES),
	F_OPT(struct net_state, used_queue_pairs, .min = 1),
	F_OPT(struct net_state, guest_offloads),
	F_END,
};

static unsigned control_queue(const struct net *net)
{
	return net->vdev.n_queues - 1;
}

static void update_status(struct net *net)
{
	net->space.status = 0;
	if (virtio_has(&net->vdev, F_STATUS))
		net->space.status = (uint16_t)(STATUS_LINK_UP | (net->announce ? STATUS_ANNOUNCE : 0));
}

/* ---- receive ---- */

/*
 * The interface was deleted. Reading and writing fail for good (EBADFD), while epoll may report input
 * for ever: so no loop waits for the taps any more.
 */
static void lose_taps(struct net *net)
{
	if (net->lost)
		return;
	net->lost = true;
	for (unsigned i = 0; i < net->n_pairs; i++)
		loop_mute(net->pair[i].loop, &net->pair[i].tap);
	log_warn("net '%s': its tap is gone; what the guest sends is lost", net->vdev.id);
	event_emit("virtio-device", "tap-lost", "id", net->vdev.id);
	if (net->env->tap_lost)
		net->env->tap_lost(net->env->opaque);
}

static void wait_for_frames(struct pair *p, bool wait)
{
	if (p->waiting == wait || p->net->lost)
		return;
	p->waiting = wait;
	loop_mod(p->loop, &p->tap, wait ? EPOLLIN : 0);
}

/*
 * Reads a frame into the chain. -EMSGSIZE: the frame did not fit and is lost; -EAGAIN: there is no
 * frame.
 */
static ssize_t receive(const struct pair *p, const struct chain *c)
{
	char overflow[1];
	struct iovec *fill = c->iov + c->n_read;
	unsigned used = c->n_write < IOV_MAX ? c->n_write : IOV_MAX - 1;

	fill[used] = (struct iovec){ overflow, sizeof(overflow) }; /* struct chain has room for one more segment */
	ssize_t n = readv(p->tap.fd, fill, (int)used + 1);
	if (n < 0)
		return -errno;
	return (uint64_t)n > iov_bytes(fill, used) ? -EMSGSIZE : n;
}

/* virtio 1.2, 5.1.6.4: num_buffers is 1, since buffers are never merged. */
static void set_num_buffers(const struct chain *c)
{
	uint16_t one = 1;

	iov_from_buf(c->iov + c->n_read, c->n_write, VNET_HEADER_BYTES - sizeof(one), &one, sizeof(one));
}

/* Reads frames, at most `max`, and forgets them. */
static void drop_frames(struct pair *p, unsigned max)
{
	char head[VNET_HEADER_BYTES + ETH_HLEN]; /* the tap drops the rest of the frame */

	for (unsigned i = 0; i < max; i++) {
		ssize_t n = read(p->tap.fd, head, sizeof(head));
		if (n < 0 && errno == EBADFD)
			lose_taps(p->net);
		if (n < 0)
			return;
		p->net->vdev.counters.net_held_frames++;
	}
}

static void receive_frames(struct pair *p)
{
	struct virtio_dev *vdev = &p->net->vdev;
	unsigned queue = 2 * p->index;
	struct chain c;
	bool empty = false;

	for (unsigned i = 0; i < RX_BATCH && !empty; i++) {
		while (!virtio_pop(vdev, queue, &c)) {
			if (!virtio_more(vdev, queue)) {
				wait_for_frames(p, false);
				virtio_interrupt(vdev, queue);
				return;
			}
		}
		ssize_t n = receive(p, &c);
		if (n < 0) /* no frame, or a lost one: the next frame gets the buffers */
			vring_unpop(&vdev->queue[queue]);
		if (n >= 0) {
			set_num_buffers(&c);
			vdev->counters.net_rx_frames++;
			vdev->counters.net_rx_bytes += (uint64_t)n - VNET_HEADER_BYTES;
			virtio_push(vdev, queue, c.head, (uint32_t)n);
		}
		empty = n < 0 && n != -EMSGSIZE;
		if (n == -EBADFD)
			lose_taps(p->net);
	}
	wait_for_frames(p, true);
	virtio_interrupt(vdev, queue);
}

static void on_frames(struct source *s, uint32_t events)
{
	struct pair *p = container_of(s, struct pair, tap);
	struct virtio_dev *vdev = &p->net->vdev;

	pthread_mutex_lock(&vdev->lock);
	if ((events & EPOLLIN) && p->waiting && p->net->held) /* `waiting` may have changed since epoll_wait() */
		drop_frames(p, RX_BATCH);
	else if ((events & EPOLLIN) && p->waiting)
		receive_frames(p);
	else if (events & (EPOLLERR | EPOLLHUP))
		lose_taps(p->net);
	pthread_mutex_unlock(&vdev->lock);
}

/* ---- transmit ---- */

/*
 * Sends a frame, which is lost when the tap takes no frame now, as on a wire. Returns the bytes of the
 * frame that went out.
 */
static uint64_t send_frame(const struct pair *p, const struct chain *c)
{
	static _Thread_local char flat[FRAME_MAX_BYTES];
	uint64_t bytes = iov_bytes(c->iov, c->n_read);
	ssize_t n;

	if (c->n_read == 0 || bytes > FRAME_MAX_BYTES)
		return 0;
	if (c->n_read <= IOV_MAX)
		n = writev(p->tap.fd, c->iov, c->n_read);
	else
		n = write(p->tap.fd, flat, iov_to_buf(c->iov, c->n_read, 0, flat, bytes));
	if (n < 0 && errno == EBADFD)
		lose_taps(p->net);
	return n > VNET_HEADER_BYTES ? (uint64_t)n - VNET_HEADER_BYTES : 0;
}

static void transmit_frames(struct pair *p)
{
	struct virtio_dev *vdev = &p->net->vdev;
	unsigned queue = 2 * p->index + 1;
	struct chain c;

	do {
		while (virtio_pop(vdev, queue, &c)) {
			uint64_t n = p->net->held ? 0 : send_frame(p, &c);
			vdev->counters.net_held_frames += p->net->held;
			vdev->counters.net_tx_frames += n > 0;
			vdev->counters.net_tx_bytes += n;
			virtio_push(vdev, queue, c.head, 0);
		}
	} while (virtio_more(vdev, queue));
	virtio_interrupt(vdev, queue);
}

/* ---- control ---- */

static uint64_t guest_offloads(const struct net *net)
{
	return net->vdev.acked_features & GUEST_OFFLOADS & ~net->refused_offloads;
}

/* Tells the taps what the guest takes. */
static void apply_offloads(struct net *net)
{
	static const struct {
		unsigned feature, tun;
	} map[] = {
		{ F_GUEST_CSUM, TUN_F_CSUM },   { F_GUEST_TSO4, TUN_F_TSO4 }, { F_GUEST_TSO6, TUN_F_TSO6 },
		{ F_GUEST_ECN, TUN_F_TSO_ECN }, { F_GUEST_UFO, TUN_F_UFO },
	};
	unsigned tun = 0;

	for (size_t i = 0; i < ARRAY_LEN(map); i++)
		tun |= guest_offloads(net) & BIT(map[i].feature) ? map[i].tun : 0;
	for (unsigned i = 0; i < net->n_pairs; i++)
		tap_set_offload(net->pair[i].tap.fd, tun);
}

static void use_pairs(struct net *net, unsigned n)
{
	for (unsigned i = 1; i < net->n_pairs; i++)
		if ((i < n) != (i < net->used_pairs))
			tap_use_queue(net->pair[i].tap.fd, i < n);
	net->used_pairs = n;
}

static uint8_t control(struct net *net, const struct chain *c)
{
	struct {
		uint8_t class, command;
	} head;
	uint16_t pairs;
	uint64_t offloads;

	if (iov_to_buf(c->iov, c->n_read, 0, &head, sizeof(head)) < sizeof(head))
		return CTRL_ERR;
	switch (head.class) {
	case CLASS_MQ:
		if (head.command != 0 || !virtio_has(&net->vdev, F_MQ) ||
		    iov_to_buf(c->iov, c->n_read, sizeof(head), &pairs, 2) < 2 || pairs < 1 || pairs > net->n_pairs)
			return CTRL_ERR;
		use_pairs(net, pairs);
		return CTRL_OK;
	case CLASS_OFFLOADS:
		if (head.command != 0 || !virtio_has(&net->vdev, F_CTRL_GUEST_OFFLOADS) ||
		    iov_to_buf(c->iov, c->n_read, sizeof(head), &offloads, 8) < 8 ||
		    (offloads & ~(net->vdev.acked_features & GUEST_OFFLOADS)))
			return CTRL_ERR;
		net->refused_offloads = GUEST_OFFLOADS & ~offloads;
		apply_offloads(net);
		return CTRL_OK;
	case CLASS_ANNOUNCE:
		if (head.command != 0 || !virtio_has(&net->vdev, F_GUEST_ANNOUNCE))
			return CTRL_ERR;
		net->announce = false;
		update_status(net);
		return CTRL_OK;
	default:
		return CTRL_ERR;
	}
}

static void run_control(struct net *net)
{
	struct virtio_dev *vdev = &net->vdev;
	unsigned queue = control_queue(net);
	struct chain c;

	do {
		while (virtio_pop(vdev, queue, &c)) {
			uint8_t ack = control(net, &c);
			size_t n = iov_from_buf(c.iov + c.n_read, c.n_write, 0, &ack, sizeof(ack));
			virtio_push(vdev, queue, c.head, (uint32_t)n);
		}
	} while (virtio_more(vdev, queue));
	virtio_interrupt(vdev, queue);
}

static void net_use_loop(struct virtio_dev *vdev, struct loop *loop)
{
	struct net *net = container_of(vdev, struct net, vdev);
	struct err err = {};

	for (unsigned i = 0; i < net->n_pairs && !net->lost; i++) {
		struct pair *p = &net->pair[i];
		if (loop_move(p->loop, loop, &p->tap, p->waiting ? EPOLLIN : 0, &err) == 0)
			p->loop = loop;
	}
}

static bool net_is_refill(const struct virtio_dev *vdev, unsigned queue)
{
	return queue % 2 == 0 && queue != vdev->n_queues - 1;
}

static void net_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct net *net = container_of(vdev, struct net, vdev);

	if (queue == control_queue(net))
		run_control(net);
	else if (queue % 2)
		transmit_frames(&net->pair[queue / 2]);
	else
		wait_for_frames(&net->pair[queue / 2], true); /* new buffers */
}

/* ---- life ---- */

static void net_activate(struct virtio_dev *vdev)
{
	struct net *net = container_of(vdev, struct net, vdev);

	update_status(net);
	apply_offloads(net);
	for (unsigned i = 0; i < net->n_pairs && !vdev->paused; i++)
		wait_for_frames(&net->pair[i], vdev->queue[2 * i].desc != NULL);
}

static void stop_receiving(struct virtio_dev *vdev)
{
	struct net *net = container_of(vdev, struct net, vdev);

	for (unsigned i = 0; i < net->n_pairs; i++)
		wait_for_frames(&net->pair[i], false);
}

static void net_reset(struct virtio_dev *vdev)
{
	struct net *net = container_of(vdev, struct net, vdev);

	stop_receiving(vdev);
	use_pairs(net, 1); /* until the driver asks for more */
	net->refused_offloads = 0;
	net->announce = false;
	net->space.status = 0;
}

/*
 * Sends a reverse ARP frame (RFC 903) on the first tap queue, so that the host's bridges learn where
 * the address is now.
 */
static void send_rarp(const struct net *net)
{
	struct {
		uint8_t vnet[VNET_HEADER_BYTES];
		uint8_t dst[6], src[6];
		uint16_t type, hw, proto;
		uint8_t hw_len, proto_len;
		uint16_t op;
		uint8_t sender[6], sender_ip[4], target[6], target_ip[4];
		uint8_t padding[18];
	} __attribute__((packed)) f = {
		.type = htobe16(ETH_P_RARP),
		.hw = htobe16(1),
		.proto = htobe16(ETH_P_IP),
		.hw_len = 6,
		.proto_len = 4,
		.op = htobe16(3),
	};

	memset(f.dst, 0xff, sizeof(f.dst));
	memcpy(f.src, net->space.mac, sizeof(f.src));
	memcpy(f.sender, net->space.mac, sizeof(f.sender));
	memcpy(f.target, net->space.mac, sizeof(f.target));
	(void)!write(net->pair[0].tap.fd, &f, sizeof(f));
}

/* Asks the guest to announce itself (5.1.6.5.4). false: the guest's driver does not do that. */
static bool ask_for_announcement(struct net *net)
{
	struct virtio_dev *vdev = &net->vdev;

	if (!virtio_has(vdev, F_GUEST_ANNOUNCE) || !virtio_has(vdev, F_STATUS))
		return false;
	net->announce = true;
	update_status(net);
	virtio_pci_interrupt(vdev->transport, VIRTIO_CONFIG_CHANGE);
	return true;
}

static void net_resume(struct virtio_dev *vdev, bool restored)
{
	struct net *net = container_of(vdev, struct net, vdev);

	if (!vdev->active || !restored)
		return;
	net->owes_announcement = net->held;
	if (net->held)
		return;
	send_rarp(net);
	(void)ask_for_announcement(net);
}

static void net_save(struct virtio_dev *vdev, struct strbuf *out)
{
	struct net *net = container_of(vdev, struct net, vdev);
	uint16_t sizes[VIRTIO_MAX_QUEUES];
	struct net_state s = {
		.avail_features = vdev->avail_features,
		.acked_features = vdev->acked_features,
		.config = { .max_virtqueue_pairs = net->space.max_virtqueue_pairs, .mtu = net->space.mtu },
		.queue_size = sizes,
		.n_queue_size = vdev->n_queues,
		.used_queue_pairs = (uint16_t)net->used_pairs,
		.has_used_queue_pairs = net->n_pairs > 1,
		.guest_offloads = guest_offloads(net),
		.has_guest_offloads = net->refused_offloads != 0,
	};

	memcpy(s.config.mac, net->space.mac, MAC_BYTES);
	for (unsigned i = 0; i < vdev->n_queues; i++)
		sizes[i] = vdev->queue[i].s.max_size;
	fields_save(net_state_fields, &s, out);
}

static int net_load(struct virtio_dev *vdev, const struct json_node *state, struct err *err)
{
	struct net *net = container_of(vdev, struct net, vdev);
	struct net_state s = {};

	if (fields_load(net_state_fields, &s, state, vdev->id, err) < 0)
		return err_wrap(err, "state.json");
	free(s.queue_size);
	if (s.config.max_virtqueue_pairs != net->n_pairs)
		return err_set(err, ERR_INVALID, "state.json: %s: %u queue pairs, the configuration has %u", vdev->id,
			       s.config.max_virtqueue_pairs, net->n_pairs);
	if (s.has_guest_offloads && (s.guest_offloads & ~(s.acked_features & GUEST_OFFLOADS)))
		return err_set(err, ERR_INVALID, "state.json: %s: guest_offloads 0x%llx has more than was negotiated",
			       vdev->id, (unsigned long long)s.guest_offloads);
	net->refused_offloads = s.has_guest_offloads ? GUEST_OFFLOADS & ~s.guest_offloads : 0;
	memcpy(net->space.mac, s.config.mac, MAC_BYTES);
	net->space.mtu = s.config.mtu;
	use_pairs(net, s.has_used_queue_pairs && s.used_queue_pairs < net->n_pairs ? s.used_queue_pairs : net->n_pairs);
	return virtio_load_features(vdev, s.avail_features, s.acked_features, err);
}

static void net_free(struct virtio_dev *vdev)
{
	struct net *net = container_of(vdev, struct net, vdev);

	for (unsigned i = 0; i < net->n_pairs; i++) {
		if (net->pair[i].tap.fd < 0)
			continue;
		loop_del(net->env->loop, &net->pair[i].tap); /* also when a worker has it, see loop_move() */
		close(net->pair[i].tap.fd);
	}
	virtio_done(vdev);
	free(net->pair);
	free(net);
}

static const struct field net_counters[] = {
	VIRTIO_COUNTER("rx_bytes", net_rx_bytes),
	VIRTIO_COUNTER("rx_frames", net_rx_frames),
	VIRTIO_COUNTER("tx_bytes", net_tx_bytes),
	VIRTIO_COUNTER("tx_frames", net_tx_frames),
	F_END,
};

static const struct virtio_device_ops net_ops = {
	.name = "net",
	.type = VIRTIO_ID_NET,
	.pci_class = 0x020000,
	.hotplug = true,
	.config_bytes = sizeof(struct net_space),
	.activate = net_activate,
	.reset = net_reset,
	.is_refill = net_is_refill,
	.notify = net_notify,
	.use_loop = net_use_loop,
	.pause = stop_receiving,
	.resume = net_resume,
	.counters = net_counters,
	.save = net_save,
	.load = net_load,
	.free = net_free,
};

static void set_features(struct net *net, const struct net_config *cfg)
{
	uint64_t f = BIT(F_CTRL_GUEST_OFFLOADS) | BIT(F_MTU) | BIT(F_MAC) | BIT(F_STATUS) | BIT(F_CTRL_VQ) |
		     BIT(F_GUEST_ANNOUNCE) | BIT(F_MQ) | BIT(VIRTIO_F_EVENT_IDX);

	if (cfg->offload_csum)
		f |= BIT(F_CSUM) | BIT(F_GUEST_CSUM);
	if (cfg->offload_tso)
		f |= BIT(F_GUEST_TSO4) | BIT(F_GUEST_TSO6) | BIT(F_GUEST_ECN) | BIT(F_HOST_TSO4) | BIT(F_HOST_TSO6) |
		     BIT(F_HOST_ECN);
	if (cfg->offload_ufo)
		f |= BIT(F_GUEST_UFO) | BIT(F_HOST_UFO);
	net->vdev.avail_features = f;
}

/*
 * Sets the guest's MAC: as given, or random and locally administered. A random MAC is written to *cfg.
 */
static int set_mac(struct net *net, struct net_config *cfg, struct err *err)
{
	uint8_t *m = net->space.mac;
	char text[MAC_TEXT_BYTES];

	if (cfg->mac)
		return mac_parse(cfg->mac, m) ? 0 : err_set(err, ERR_INVALID, "'%s' is not a MAC address", cfg->mac);
	if (getrandom(m, MAC_BYTES, 0) != MAC_BYTES)
		return err_sys(err, ERR_INTERNAL, "choose a MAC address");
	m[0] = 0x2e;
	mac_text(m, text);
	cfg->mac = strdup(text);
	return 0;
}

static int open_pairs(struct net *net, struct net_config *cfg, struct err *err)
{
	int fds[TAP_QUEUES_MAX];

	if (tap_open(cfg, fds, err) < 0)
		return err->num;
	for (unsigned i = 0; i < net->n_pairs; i++)
		net->pair[i] = (struct pair){
			.tap = { .fd = fds[i], .ready = on_frames }, .loop = net->env->loop, .net = net, .index = i
		};
	for (unsigned i = 0; i < net->n_pairs; i++)
		if (loop_add(net->env->loop, &net->pair[i].tap, 0, err) < 0)
			return err->num;
	use_pairs(net, 1);
	net->space.mtu = cfg->has_mtu ? cfg->mtu : (uint16_t)tap_mtu(fds[0]);
	return 0;
}

int virtio_net_new(const struct device_env *env, struct net_config *cfg, struct virtio_dev **ret, struct err *err)
{
	struct net *net = calloc(1, sizeof(*net));
	unsigned n = cfg->num_queues / 2;

	if (!net)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make net '%s'", cfg->id);
	net->env = env;
	net->held = env->nets_held;
	net->pair = calloc(n, sizeof(*net->pair));
	for (unsigned i = 0; net->pair && i < n; i++)
		net->pair[i].tap.fd = -1;
	net->n_pairs = net->pair ? n : 0;
	net->used_pairs = n;
	net->space.max_virtqueue_pairs = (uint16_t)n;
	net->vdev.config = &net->space;
	set_features(net, cfg);
	int r = net->pair ? set_mac(net, cfg, err) : err_num(err, ERR_INTERNAL, ENOMEM, "make net '%s'", cfg->id);
	if (r == 0)
		r = virtio_init(&net->vdev, &net_ops, env->mem, cfg->id, 2 * n + 1, cfg->queue_size, err);
	if (r == 0)
		r = open_pairs(net, cfg, err);
	return virtio_made(&net->vdev, &net_ops, r, ret);
}

void virtio_net_unhold(struct virtio_dev *vdev)
{
	struct net *net = container_of(vdev, struct net, vdev);

	if (vdev->ops != &net_ops)
		return;
	pthread_mutex_lock(&vdev->lock);
	for (unsigned i = 0; net->held && i < net->n_pairs; i++)
		drop_frames(&net->pair[i], UNHOLD_BATCH);
	net->held = false;
	/* The guest may have got another MAC meanwhile, which is not known here: the guest speaks for itself, if it can. */
	if (net->owes_announcement && vdev->active && !ask_for_announcement(net))
		send_rarp(net);
	net->owes_announcement = false;
	pthread_mutex_unlock(&vdev->lock);
}

bool virtio_net_is_lost(struct virtio_dev *vdev)
{
	const struct net *net = container_of(vdev, struct net, vdev);

	if (vdev->ops != &net_ops)
		return false;
	pthread_mutex_lock(&vdev->lock);
	bool lost = net->lost;
	pthread_mutex_unlock(&vdev->lock);
	return lost;
}

bool virtio_net_host_mac(struct virtio_dev *vdev, char ret_text[MAC_TEXT_BYTES])
{
	const struct net *net = container_of(vdev, struct net, vdev);
	uint8_t mac[MAC_BYTES];

	if (!tap_mac(net->pair[0].tap.fd, mac) || memcmp(mac, net->space.mac, MAC_BYTES) == 0)
		return false;
	mac_text(mac, ret_text);
	return true;
}
