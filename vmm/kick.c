// SPDX-License-Identifier: Apache-2.0
/* Notifications: served by the vCPU, handed to the main thread, or taken from KVM by ioeventfd. */
#include "vmm/kick.h"

#include <sys/eventfd.h>

#include "common/log.h"
#include "vmm/virtio_pci.h"
#include "vmm/vm.h"

enum { DECIDE_AFTER = 64, SLOW_EXIT_NS = 15000 };

static void on_wake(struct source *s, uint32_t events)
{
	struct kick *k = container_of(s, struct kick, wake);
	struct virtio_dev *vdev = k->transport->vdev;
	uint64_t n;

	(void)events;
	if (read(s->fd, &n, sizeof(n)) < 0)
		return;
	pthread_mutex_lock(&vdev->lock);
	virtio_notify(vdev, k->queue);
	pthread_mutex_unlock(&vdev->lock);
}

void kick_init(struct kick *k, struct virtio_pci *transport, unsigned queue)
{
	*k = (struct kick){ .wake = { .fd = -1, .ready = on_wake }, .transport = transport, .queue = queue };
}

static bool make_eventfd(struct kick *k)
{
	struct err err = {};

	if (k->wake.fd >= 0)
		return true;
	k->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (k->wake.fd < 0)
		return false;
	if (loop_add(k->transport->vm->loop, &k->wake, EPOLLIN, &err) == 0)
		return true;
	close(steal_fd(&k->wake.fd));
	return false;
}

static bool set_ioeventfd(const struct kick *k, uint64_t address, uint32_t flags)
{
	struct kvm_ioeventfd io = { .addr = address, .fd = k->wake.fd, .flags = flags };
	struct err err = {};

	return kvm_ioctl(k->transport->vm->kvm.vm_fd, KVM_IOEVENTFD, &io, "set an ioeventfd", &err) >= 0;
}

static void attach(struct kick *k, uint64_t address)
{
	k->address = address;
	k->attached = set_ioeventfd(k, address, 0);
	if (k->attached)
		log_debug("device '%s': queue %u has an ioeventfd now", k->transport->vdev->id, k->queue);
}

void kick_exit(struct kick *k, uint64_t address)
{
	struct virtio_dev *vdev = k->transport->vdev;
	bool ahead = vring_is_pipelined(&vdev->queue[k->queue]);

	k->ahead += ahead;
	if (++k->count == DECIDE_AFTER) {
		bool worthwhile = k->ahead > DECIDE_AFTER / 2 || vcpu_exit_cost_ns() > SLOW_EXIT_NS;
		if (worthwhile && make_eventfd(k))
			attach(k, address);
	}
	if (ahead && make_eventfd(k))
		(void)!write(k->wake.fd, &(uint64_t){ 1 }, sizeof(uint64_t));
	else
		virtio_notify(vdev, k->queue);
}

void kick_move(struct kick *k, uint64_t from_bar, uint64_t to_bar)
{
	if (!k->attached)
		return;
	set_ioeventfd(k, k->address, KVM_IOEVENTFD_FLAG_DEASSIGN);
	attach(k, k->address - from_bar + to_bar);
}

void kick_done(struct kick *k)
{
	if (k->wake.fd < 0)
		return;
	loop_del(k->transport->vm->loop, &k->wake);
	close(k->wake.fd);
}
