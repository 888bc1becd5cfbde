// SPDX-License-Identifier: Apache-2.0
/* Notifications: served by the vCPU, handed to the device's worker, or taken from KVM by ioeventfd. */
#include "vmm/virtio/worker.h"

#include <sys/eventfd.h>

#include "common/clock.h"
#include "common/log.h"
#include "vmm/core/kvm.h"
#include "vmm/core/vcpu.h"
#include "vmm/virtio/transport.h"

enum { DECIDE_AFTER = 64, SLOW_EXIT_NS = 15000, SPIN_NS = 20000, SPIN_CREDIT = 64, TRY_EVERY = 64, TURNS = 64 };

/* Waits a moment for more chains: to wake this thread again would cost the guest as much time. */
static bool spin(struct vring_watch watch)
{
	uint64_t end = monotonic_ns() + SPIN_NS;

	if (!watch.idx)
		return false;
	do {
		for (unsigned i = 0; i < 16; i++)
			if (__atomic_load_n(watch.idx, __ATOMIC_ACQUIRE) != watch.next)
				return true;
	} while (monotonic_ns() < end);
	return false;
}

/* polls: the caller looks for more chains afterwards, and the guest need not tell of them: that would be an exit. */
static struct vring_watch serve_queue(const struct kick *k, bool polls)
{
	struct virtio_dev *vdev = k->transport->vdev;

	pthread_mutex_lock(&vdev->lock);
	vdev->queue[k->queue].polled = polls;
	virtio_notify(vdev, k->queue);
	struct vring_watch watch = vring_watch(&vdev->queue[k->queue]);
	pthread_mutex_unlock(&vdev->lock);
	return watch;
}

static void on_wake(struct source *s, uint32_t events)
{
	struct kick *k = container_of(s, struct kick, wake);
	uint64_t n;

	(void)events;
	if (read(s->fd, &n, sizeof(n)) < 0)
		return;
	bool polls = k->spin_credit > 0 || ++k->wakes % TRY_EVERY == 0;
	struct vring_watch watch = serve_queue(k, polls);
	for (unsigned turn = 0; polls; turn++) {
		bool more = spin(watch);
		k->spin_credit = more ? SPIN_CREDIT : k->spin_credit / 2;
		polls = more && turn < TURNS;
		watch = serve_queue(k, polls);
	}
}

void kick_init(struct kick *k, struct virtio_pci *transport, unsigned queue)
{
	*k = (struct kick){ .wake = { .fd = -1, .ready = on_wake }, .transport = transport, .queue = queue };
}

/* ---- the worker ---- */

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	log_thread_name("worker");
	loop_run(&w->loop);
	return NULL;
}

static void on_stop(struct source *s, uint32_t events)
{
	struct worker *w = container_of(s, struct worker, stop);

	(void)events;
	loop_stop(&w->loop, 0);
}

static int worker_start(struct worker *w, struct err *err)
{
	if (loop_init(&w->loop, err) < 0)
		return err->num;
	w->stop = (struct source){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_stop };
	int r = w->stop.fd < 0 ? -1 : loop_add(&w->loop, &w->stop, EPOLLIN, err);
	if (r == 0 && pthread_create(&w->thread, NULL, worker_main, w) == 0) {
		w->running = true;
		return 0;
	}
	if (w->stop.fd >= 0)
		close(w->stop.fd);
	loop_done(&w->loop);
	return err_set(err, ERR_INTERNAL, "start a worker thread");
}

void worker_stop(struct worker *w)
{
	if (!w->running)
		return;
	(void)!write(w->stop.fd, &(uint64_t){ 1 }, sizeof(uint64_t));
	pthread_join(w->thread, NULL);
	close(w->stop.fd);
	loop_done(&w->loop);
	w->running = false;
}

/* Makes the queue's eventfd. The device gets its worker with the first queue that needs the worker. */
static bool make_eventfd(struct kick *k)
{
	struct worker *w = &k->transport->worker;
	struct virtio_dev *vdev = k->transport->vdev;
	struct err err = {};

	if (k->wake.fd >= 0)
		return true;
	if (!w->running) {
		if (worker_start(w, &err) < 0)
			return false;
		if (vdev->ops->use_loop)
			vdev->ops->use_loop(vdev, &w->loop);
	}
	k->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (k->wake.fd < 0)
		return false;
	if (loop_add(&w->loop, &k->wake, EPOLLIN, &err) == 0)
		return true;
	close(steal_fd(&k->wake.fd));
	return false;
}

static bool set_ioeventfd(const struct kick *k, uint64_t address, uint32_t flags)
{
	struct kvm_ioeventfd io = { .addr = address, .fd = k->wake.fd, .flags = flags };
	struct err err = {};

	return kvm_ioctl(k->transport->env->kvm->vm_fd, KVM_IOEVENTFD, &io, "set an ioeventfd", &err) >= 0;
}

static void attach_kick(struct kick *k, uint64_t address)
{
	k->address = address;
	k->attached = set_ioeventfd(k, address, 0);
	if (k->attached)
		log_guest(LOG_DEBUG, "device '%s': queue %u has an ioeventfd now", k->transport->vdev->id, k->queue);
}

bool kick_again(struct kick *k)
{
	return make_eventfd(k) && write(k->wake.fd, &(uint64_t){ 1 }, sizeof(uint64_t)) == sizeof(uint64_t);
}

void kick_exit(struct kick *k, uint64_t address)
{
	struct virtio_dev *vdev = k->transport->vdev;
	bool refill = vdev->ops->is_refill && vdev->ops->is_refill(vdev, k->queue);
	bool ahead = !refill && vring_is_pipelined(&vdev->queue[k->queue]);

	k->ahead += ahead;
	if (++k->count == DECIDE_AFTER && !refill) {
		bool worthwhile = k->ahead > DECIDE_AFTER / 2 || vcpu_exit_cost_ns() > SLOW_EXIT_NS;
		if (worthwhile && make_eventfd(k))
			attach_kick(k, address);
	}
	if (!ahead || !kick_again(k))
		virtio_notify(vdev, k->queue);
}

void kick_move(struct kick *k, uint64_t from_bar, uint64_t to_bar)
{
	if (!k->attached)
		return;
	set_ioeventfd(k, k->address, KVM_IOEVENTFD_FLAG_DEASSIGN);
	attach_kick(k, k->address - from_bar + to_bar);
}

void kick_detach(struct kick *k)
{
	if (k->attached)
		set_ioeventfd(k, k->address, KVM_IOEVENTFD_FLAG_DEASSIGN);
	k->attached = false;
}

void kick_done(struct kick *k)
{
	if (k->wake.fd >= 0)
		close(k->wake.fd);
}
