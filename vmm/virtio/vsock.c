// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-vsock: packets of the guest come in on TX and go to the streams of vsock_mux.c. Packets of
 * the streams go out on RX, on the main thread unless they answer at once. A restore resets every
 * stream of the snapshot by an RST of its own, as Cloud Hypervisor does. The event queue stays silent:
 * a guest that reads a TRANSPORT_RESET late would drop streams that were made after the restore.
 */
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "vmm/core/loop.h"
#include "vmm/virtio/kinds.h"
#include "vmm/virtio/vsock_mux.h"

enum { RX = 0, TX = 1, N_QUEUES = 3, VSOCK_QUEUE_SIZE = 256, VIRTIO_F_IN_ORDER = 35, RX_BATCH = 64, SEGMENTS = 34 };

/* virtio 1.2, 5.10.4. */
struct vsock_space {
	uint64_t guest_cid;
};

struct vsock {
	struct virtio_dev vdev;
	struct loop *loop;
	struct source ready; /* mux.epoll_fd */
	struct vsock_space space;
	char *path;
	bool tx_waits; /* until the guest has taken answers */
	struct vsock_mux mux;
};

/* The node has also "connections", a list of pairs of ports. */
struct saved_vsock {
	uint64_t avail_features, acked_features;
};

static const struct field saved_fields[] = {
	F(struct saved_vsock, avail_features, .flags = F_REQUIRED),
	F(struct saved_vsock, acked_features, .flags = F_REQUIRED),
	F_END,
};

/* ---- queues ---- */

/* Puts one packet into the chain; false: there was none. */
static bool fill(struct vsock *vs, const struct chain *c)
{
	struct iovec payload[SEGMENTS];
	struct vsock_header h;
	struct iovec *in = c->iov + c->n_read;
	unsigned n = vsock_slice(in, c->n_write, sizeof(h), VSOCK_BUF_BYTES, payload, SEGMENTS);

	if (!vsock_mux_next(&vs->mux, &h, payload, n))
		return false;
	iov_from_buf(in, c->n_write, 0, &h, sizeof(h));
	virtio_push(&vs->vdev, RX, c->head, (uint32_t)sizeof(h) + h.len);
	return true;
}

/*
 * Takes the next buffer of the guest. false: there is none, and the guest notifies RX of the next
 * buffer.
 */
static bool pop_rx(struct virtio_dev *vdev, struct chain *c)
{
	while (!virtio_pop(vdev, RX, c))
		if (!virtio_more(vdev, RX))
			return false;
	if (iov_bytes(c->iov + c->n_read, c->n_write) >= VSOCK_HEADER_BYTES)
		return true;
	virtio_break(vdev, RX, "a buffer has no room for a header");
	return false;
}

static void give_packets(struct vsock *vs)
{
	struct virtio_dev *vdev = &vs->vdev;
	unsigned turns = 0, given = 0;
	struct chain c;

	while (turns++ < RX_BATCH && vsock_mux_has_packet(&vs->mux) && pop_rx(vdev, &c)) {
		if (fill(vs, &c))
			given++;
		else
			vring_unpop(&vdev->queue[RX]);
	}
	if (given > 0)
		virtio_interrupt(vdev, RX);
	if (turns > RX_BATCH)
		vsock_mux_wake(&vs->mux);
}

static void take_packets(struct vsock *vs)
{
	struct virtio_dev *vdev = &vs->vdev;
	unsigned taken = 0;
	struct chain c;

	do {
		for (; !vsock_mux_is_full(&vs->mux) && virtio_pop(vdev, TX, &c); taken++) {
			vsock_mux_take(&vs->mux, c.iov, c.n_read);
			virtio_push(vdev, TX, c.head, 0);
		}
	} while (!vsock_mux_is_full(&vs->mux) && virtio_more(vdev, TX));
	vs->tx_waits = vsock_mux_is_full(&vs->mux);
	if (taken > 0)
		virtio_interrupt(vdev, TX);
}

static void on_ready(struct source *s, uint32_t events)
{
	struct vsock *vs = container_of(s, struct vsock, ready);

	(void)events;
	pthread_mutex_lock(&vs->vdev.lock);
	vsock_mux_poll(&vs->mux);
	if (vs->vdev.active) {
		give_packets(vs);
		if (vs->tx_waits && !vsock_mux_is_full(&vs->mux))
			virtio_notify(&vs->vdev, TX);
	}
	pthread_mutex_unlock(&vs->vdev.lock);
}

int virtio_vsock_dial(struct virtio_dev *vdev, int fd, uint32_t port, struct err *err)
{
	struct vsock *vs = container_of(vdev, struct vsock, vdev);

	pthread_mutex_lock(&vdev->lock);
	int r = vsock_mux_dial(&vs->mux, fd, port, err);
	if (r >= 0 && vdev->active)
		give_packets(vs);
	pthread_mutex_unlock(&vdev->lock);
	return r;
}

static bool vsock_is_refill(const struct virtio_dev *vdev, unsigned queue)
{
	(void)vdev;
	return queue != TX;
}

static void vsock_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct vsock *vs = container_of(vdev, struct vsock, vdev);

	if (queue == TX) {
		take_packets(vs);
		give_packets(vs);
	} else if (queue == RX && vsock_mux_has_packet(&vs->mux)) {
		vsock_mux_wake(&vs->mux);
	}
}

/* ---- life ---- */

static void vsock_activate(struct virtio_dev *vdev)
{
	struct vsock *vs = container_of(vdev, struct vsock, vdev);

	vsock_mux_wake(&vs->mux); /* the host may have been waiting */
}

static void vsock_reset(struct virtio_dev *vdev)
{
	struct vsock *vs = container_of(vdev, struct vsock, vdev);

	vsock_mux_clear(&vs->mux);
	vs->tx_waits = false;
}

struct pairs {
	struct strbuf *out;
	unsigned n;
};

static void add_pair(void *opaque, uint32_t local_port, uint32_t peer_port)
{
	struct pairs *pairs = opaque;

	strbuf_printf(pairs->out, "%s[%u,%u]", pairs->n++ ? "," : "", local_port, peer_port);
}

static void vsock_save(struct virtio_dev *vdev, struct strbuf *out)
{
	struct vsock *vs = container_of(vdev, struct vsock, vdev);
	struct pairs pairs = { .out = out };

	strbuf_printf(out, "{\"avail_features\":%llu,\"acked_features\":%llu,\"connections\":[",
		      (unsigned long long)vdev->avail_features, (unsigned long long)vdev->acked_features);
	vsock_mux_each(&vs->mux, add_pair, &pairs);
	strbuf_puts(out, "]}");
}

static int load_connections(struct vsock *vs, const struct json_node *list, struct err *err)
{
	const char *id = vs->vdev.id;

	if (!list) /* older versions have none */
		return 0;
	if (list->type != JSON_ARRAY)
		return err_set(err, ERR_INVALID, "state.json: %s.connections: expected an array, found %s", id,
			       json_type_name(list));
	for (json_each(pair, list)) {
		if (pair->type != JSON_INTS || pair->count != 2 || pair->negative || json_ints(pair)[0] > UINT32_MAX ||
		    json_ints(pair)[1] > UINT32_MAX)
			return err_set(err, ERR_INVALID, "state.json: %s.connections: expected pairs of ports", id);
		if (!vsock_mux_lose(&vs->mux, (uint32_t)json_ints(pair)[0], (uint32_t)json_ints(pair)[1]))
			return err_set(err, ERR_INVALID, "state.json: %s.connections: more than %d", id,
				       VSOCK_RESETS_MAX - VSOCK_CONNS_MAX);
	}
	return 0;
}

static int vsock_load(struct virtio_dev *vdev, const struct json_node *state, struct err *err)
{
	struct vsock *vs = container_of(vdev, struct vsock, vdev);
	struct saved_vsock s;

	if (fields_load(saved_fields, &s, state, vdev->id, err) < 0)
		return err_wrap(err, "state.json");
	if (load_connections(vs, json_get(state, "connections"), err) < 0)
		return err->num;
	return virtio_load_features(vdev, s.avail_features, s.acked_features, err);
}

static void vsock_free(struct virtio_dev *vdev)
{
	struct vsock *vs = container_of(vdev, struct vsock, vdev);

	loop_del(vs->loop, &vs->ready);
	vsock_mux_done(&vs->mux);
	virtio_done(vdev);
	free(vs->path);
	free(vs);
}

static const struct virtio_device_ops vsock_ops = {
	.name = "vsock",
	.type = VIRTIO_ID_VSOCK,
	.hotplug = true,
	.pci_class = 0xffff00,
	.config_bytes = sizeof(struct vsock_space),
	.activate = vsock_activate,
	.reset = vsock_reset,
	.is_refill = vsock_is_refill,
	.notify = vsock_notify,
	.save = vsock_save,
	.load = vsock_load,
	.free = vsock_free,
};

static int open_vsock(struct vsock *vs, const struct device_env *env, const struct vsock_config *cfg, struct err *err)
{
	if (virtio_init(&vs->vdev, &vsock_ops, env->mem, cfg->id, N_QUEUES, VSOCK_QUEUE_SIZE, err) < 0)
		return err->num;
	vs->path = strdup(cfg->socket);
	if (!vs->path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the vsock device");
	if (vsock_mux_init(&vs->mux, cfg->cid, vs->path, cfg->listen_fd, err) < 0) {
		err_wrap(err, "Cannot create virtio-vsock backend");
		return err_wrap(err, "Error from device manager");
	}
	vs->ready = (struct source){ .fd = vs->mux.epoll_fd, .ready = on_ready };
	return loop_add(env->loop, &vs->ready, EPOLLIN, err);
}

int virtio_vsock_new(const struct device_env *env, struct vsock_config *cfg, struct virtio_dev **ret, struct err *err)
{
	struct vsock *vs = calloc(1, sizeof(*vs));

	if (!vs)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the vsock device");
	vs->loop = env->loop;
	vs->space.guest_cid = cfg->cid;
	vs->mux.listen_fd = vs->mux.wake_fd = vs->mux.epoll_fd = -1;
	vs->vdev.config = &vs->space;
	vs->vdev.avail_features = 1ULL << VIRTIO_F_IN_ORDER;
	return virtio_made(&vs->vdev, &vsock_ops, open_vsock(vs, env, cfg, err), ret);
}
