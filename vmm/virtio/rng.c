// SPDX-License-Identifier: Apache-2.0
/* virtio-rng: the host's random bytes. */
#include "vmm/core/host_open.h"
#include "vmm/virtio/kinds.h"
#include <errno.h>
#include <fcntl.h>

enum { RNG_QUEUE_SIZE = 256, RNG_CHUNK_BYTES = 64 << 10 };

struct rng {
	struct virtio_dev vdev;
	int src_fd;
};

struct rng_state {
	uint64_t avail_features, acked_features;
};

static const struct field rng_state_fields[] = {
	F(struct rng_state, avail_features, .flags = F_REQUIRED),
	F(struct rng_state, acked_features, .flags = F_REQUIRED),
	F_END,
};

static void rng_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct rng *rng = container_of(vdev, struct rng, vdev);
	struct chain c;

	do {
		while (virtio_pop(vdev, queue, &c)) {
			struct iovec *first = c.iov + c.n_read;
			if (c.n_write && first->iov_len > RNG_CHUNK_BYTES) /* an answer may be short */
				first->iov_len = RNG_CHUNK_BYTES;
			ssize_t n = c.n_write ? read(rng->src_fd, first->iov_base, first->iov_len) : 0;
			virtio_push(vdev, queue, c.head, n > 0 ? (uint32_t)n : 0);
		}
	} while (virtio_more(vdev, queue));
	virtio_interrupt(vdev, queue);
}

static void rng_save(struct virtio_dev *vdev, struct strbuf *out)
{
	struct rng_state s = { vdev->avail_features, vdev->acked_features };

	fields_save(rng_state_fields, &s, out);
}

static int rng_load(struct virtio_dev *vdev, const struct json_node *state, struct err *err)
{
	struct rng_state s;

	if (fields_load(rng_state_fields, &s, state, vdev->id, err) < 0)
		return err_wrap(err, "state.json");
	return virtio_load_features(vdev, s.avail_features, s.acked_features, err);
}

static void rng_free(struct virtio_dev *vdev)
{
	struct rng *rng = container_of(vdev, struct rng, vdev);

	virtio_done(vdev);
	if (rng->src_fd >= 0)
		close(rng->src_fd);
	free(rng);
}

static const struct virtio_device_ops rng_ops = {
	.name = "rng",
	.type = VIRTIO_ID_RNG,
	.pci_class = 0xffff00,
	.notify = rng_notify,
	.save = rng_save,
	.load = rng_load,
	.free = rng_free,
};

static int no_source(const struct rng_config *cfg, struct err *err)
{
	err_sys(err, ERR_INTERNAL, "open the rng source '%s'", cfg->src);
	err_wrap(err, "Cannot create virtio-rng device");
	return err_wrap(err, "Error from device manager");
}

int virtio_rng_new(const struct device_env *env, struct rng_config *cfg, struct virtio_dev **ret, struct err *err)
{
	struct rng *rng = calloc(1, sizeof(*rng));

	if (!rng)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the rng device");
	rng->src_fd = host_open(cfg->src, O_RDONLY | O_NONBLOCK, 0);
	int r = rng->src_fd < 0 ? no_source(cfg, err)
				: virtio_init(&rng->vdev, &rng_ops, env->mem, cfg->id ? cfg->id : "__rng", 1,
					      RNG_QUEUE_SIZE, err);
	return virtio_made(&rng->vdev, &rng_ops, r, ret);
}
