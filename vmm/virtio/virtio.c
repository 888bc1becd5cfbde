// SPDX-License-Identifier: Apache-2.0
/* What all virtio devices share: life of the queues, guest errors, interrupts, pause and resume. */
#include "vmm/virtio/virtio.h"

#include <errno.h>
#include <stdio.h>

#include "common/log.h"
#include "vmm/core/event_monitor.h"

#define UNLIMITED UINT32_MAX

int virtio_init(struct virtio_dev *vdev, const struct virtio_device_ops *ops, const struct gmem *mem, const char *id,
		unsigned n_queues, uint16_t queue_size, struct err *err)
{
	vdev->ops = ops;
	vdev->mem = mem;
	vdev->avail_features |= 1ULL << VIRTIO_F_VERSION_1;
	vdev->budget = UNLIMITED;
	snprintf(vdev->id, sizeof(vdev->id), "%s", id);
	pthread_mutex_init(&vdev->lock, NULL);
	if (n_queues > VIRTIO_MAX_QUEUES)
		return err_set(err, ERR_INVALID, "device '%s': %u queues are more than %d", id, n_queues,
			       VIRTIO_MAX_QUEUES);
	vdev->queue = calloc(n_queues, sizeof(*vdev->queue));
	if (!vdev->queue)
		return err_num(err, ERR_INTERNAL, ENOMEM, "device '%s'", id);
	vdev->n_queues = n_queues;
	for (unsigned i = 0; i < n_queues; i++)
		vdev->queue[i].s = (struct vring_state){ .max_size = queue_size, .size = queue_size };
	return 0;
}

int virtio_made(struct virtio_dev *vdev, const struct virtio_device_ops *ops, int r, struct virtio_dev **ret)
{
	if (r < 0)
		ops->free(vdev);
	else
		*ret = vdev;
	return r;
}

void virtio_done(struct virtio_dev *vdev)
{
	if (!vdev->ops)
		return;
	for (unsigned i = 0; i < vdev->n_queues; i++)
		vring_deactivate(&vdev->queue[i]);
	free(vdev->queue);
	pthread_mutex_destroy(&vdev->lock);
}

void virtio_break(struct virtio_dev *vdev, unsigned queue, const char *why)
{
	if (!vdev->complained)
		log_guest(LOG_WARN, "device '%s': queue %u: %s; it needs a reset", vdev->id, queue, why);
	vdev->complained = vdev->broken = true;
	if (vdev->transport)
		virtio_pci_needs_reset(vdev->transport);
}

int virtio_load_features(struct virtio_dev *vdev, uint64_t avail, uint64_t acked, struct err *err)
{
	if (acked & ~vdev->avail_features)
		return err_set(err, ERR_INVALID,
			       "state.json: %s: acked_features has 0x%llx, which this device does not offer (0x%llx)",
			       vdev->id, (unsigned long long)(acked & ~vdev->avail_features),
			       (unsigned long long)vdev->avail_features);
	vdev->avail_features = avail & vdev->avail_features;
	vdev->acked_features = acked;
	return 0;
}

bool virtio_pop(struct virtio_dev *vdev, unsigned queue, struct chain *ret_chain)
{
	if (vdev->broken || vdev->paused || vdev->budget == 0)
		return false;
	int r = vring_pop(&vdev->queue[queue], vdev->mem, ret_chain);
	if (r < 0)
		virtio_break(vdev, queue, "the guest broke the ring");
	if (vdev->budget != UNLIMITED)
		vdev->budget -= r > 0;
	return r > 0;
}

bool virtio_more(struct virtio_dev *vdev, unsigned queue)
{
	if (vdev->broken || vdev->paused)
		return false;
	if (vdev->budget == 0 && virtio_pci_again(vdev->transport, queue))
		return false;
	if (vdev->budget == 0)
		vdev->budget = vdev->queue[queue].s.size;
	return vring_rearm(&vdev->queue[queue]);
}

void virtio_push(struct virtio_dev *vdev, unsigned queue, uint16_t head, uint32_t written)
{
	struct vring *q = &vdev->queue[queue];

	if (q->desc && !vdev->broken)
		vring_push(q, head, written);
}

void virtio_interrupt(struct virtio_dev *vdev, unsigned queue)
{
	if (vdev->active && !vdev->broken && vring_needs_interrupt(&vdev->queue[queue]))
		virtio_pci_interrupt(vdev->transport, (int)queue);
}

void virtio_activate(struct virtio_dev *vdev)
{
	for (unsigned i = 0; i < vdev->n_queues; i++) {
		struct vring *q = &vdev->queue[i];
		if (q->s.ready && vring_activate(q, vdev->mem, vdev->acked_features) < 0) {
			virtio_break(vdev, i, "its rings are not in guest RAM");
			return;
		}
	}
	vdev->active = true;
	event_emit("virtio-device", "activated", "id", vdev->id);
	if (vdev->ops->activate)
		vdev->ops->activate(vdev);
}

void virtio_reset(struct virtio_dev *vdev)
{
	if (vdev->active)
		event_emit("virtio-device", "reset", "id", vdev->id);
	if (vdev->active && vdev->ops->reset)
		vdev->ops->reset(vdev);
	for (unsigned i = 0; i < vdev->n_queues; i++) {
		struct vring *q = &vdev->queue[i];
		vring_deactivate(q);
		q->s = (struct vring_state){ .max_size = q->s.max_size, .size = q->s.max_size };
	}
	vdev->active = false;
	vdev->broken = false;
	vdev->acked_features = 0;
}

void virtio_notify(struct virtio_dev *vdev, unsigned queue)
{
	if (!vdev->active || vdev->broken || vdev->paused || vdev->pausing || queue >= vdev->n_queues)
		return;
	vdev->budget = 2U * vdev->queue[queue].s.size;
	vdev->ops->notify(vdev, queue);
	vdev->budget = UNLIMITED;
}

void virtio_pause(struct virtio_dev *vdev)
{
	/*
	 * Set before the lock is taken: a worker that takes the lock for turn after turn begins no new turn.
	 * The turn that is under way ends as always.
	 */
	vdev->pausing = true;
	pthread_mutex_lock(&vdev->lock);
	bool was_paused = vdev->paused;
	vdev->paused = true;
	vdev->pausing = false;
	if (!was_paused && vdev->ops->pause)
		vdev->ops->pause(vdev);
	/* A queue whose next turn did not come is saved as one that asks: another program may never look at it otherwise. */
	for (unsigned i = 0; vdev->active && !vdev->broken && i < vdev->n_queues; i++)
		vring_ask_for_next(&vdev->queue[i]);
	pthread_mutex_unlock(&vdev->lock);
}

void virtio_resume(struct virtio_dev *vdev, bool restored)
{
	pthread_mutex_lock(&vdev->lock);
	vdev->paused = false;
	if (vdev->ops->resume)
		vdev->ops->resume(vdev, restored);
	for (unsigned i = 0; vdev->active && i < vdev->n_queues; i++) {
		if (!vdev->queue[i].desc)
			continue;
		virtio_notify(vdev, i);
		if (!vdev->broken)
			virtio_pci_interrupt(vdev->transport, (int)i);
	}
	pthread_mutex_unlock(&vdev->lock);
}
