// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/kick: who serves a queue and when that changes: the vCPU, the device's worker, an ioeventfd. With a device that only
 * counts, rings in real memory, and vCPU threads whose exits take as long as the test wants. KVM is fake_kvm().
 */
#include "vmm/virtio/worker.h"

#include "tests/unit/fake_kvm.h"

#include <sys/resource.h>

#include "common/clock.h"
#include "vmm/machine/machine.h"
#include "vmm/virtio/transport.h"

enum { RAM_BYTES = 1 << 20, QUEUE_SIZE = 16, QUEUES = 2, REFILL = 1, RUN_BYTES = 8192, DECIDES = 64, SPIN_AFTER = 64 };
#define REGISTER 0xe7f86000ULL

static struct vm_config config;
static struct vm vm;
static struct device_env env = { .mem = &vm.mem, .kvm = &vm.kvm, .mmio = &vm.mmio, .pci = &vm.pci };
static const struct vcpu_env vcpu_env = { .kvm = &vm.kvm, .pio = &vm.pio, .mmio = &vm.mmio };
static struct virtio_dev vdev;
static struct virtio_pci t;
static struct kick kick[QUEUES];

/* ---- the device ---- */

static _Atomic unsigned n_here, n_elsewhere, n_chains, n_loops; /* here: on the thread of the exits */
static _Atomic unsigned more_left,
	n_asked; /* chains that come while others are served; notifications after which the next was asked for */
static _Atomic bool is_ahead;
static _Thread_local bool exits_here;

static uint16_t *avail_idx(unsigned queue)
{
	return gmem_ptr(&vm.mem, vdev.queue[queue].s.avail_ring + 2, 2);
}

/* Behind the used ring; only with event_idx. */
static uint16_t *avail_event(unsigned queue)
{
	return gmem_ptr(&vm.mem, vdev.queue[queue].s.used_ring + 4 + 8 * QUEUE_SIZE, 2);
}

static void add_chains(unsigned queue, uint16_t n)
{
	__atomic_fetch_add(avail_idx(queue), n, __ATOMIC_RELEASE);
}

static void count_notify(struct virtio_dev *dev, unsigned queue)
{
	struct chain c;

	while (virtio_pop(dev, queue, &c)) {
		virtio_push(dev, queue, c.head, 0);
		n_chains++;
	}
	(void)virtio_more(dev, queue);
	n_asked += *avail_event(queue) == dev->queue[queue].next_avail;
	if (more_left > 0) {
		more_left--;
		add_chains(queue, 1);
	}
	if (exits_here)
		n_here++;
	else
		n_elsewhere++;
}

static bool is_refill(const struct virtio_dev *dev, unsigned queue)
{
	(void)dev;
	return queue == REFILL;
}

static void use_loop(struct virtio_dev *dev, struct loop *loop)
{
	(void)dev;
	n_loops += loop == &t.worker.loop;
}

static const struct virtio_device_ops ops = {
	.name = "count", .notify = count_notify, .is_refill = is_refill, .use_loop = use_loop
};

/* ---- KVM ---- */

static struct kvm_ioeventfd events[8];
static unsigned n_events;
static int ioeventfd_errno;
static struct kvm_run *run_area;
static unsigned exit_takes_us;
static _Atomic unsigned exits_left;

/* A write to the register, as often as the test wants. */
static int run_vcpu(void)
{
	if (run_area->immediate_exit)
		return -EINTR;
	if (exits_left == 0) {
		usleep(200);
		return -EINTR;
	}
	if (exit_takes_us)
		usleep(exit_takes_us);
	run_area->exit_reason = KVM_EXIT_MMIO;
	run_area->mmio.phys_addr = REGISTER;
	run_area->mmio.is_write = 1;
	run_area->mmio.len = 2;
	return 0;
}

static int fake_kvm(unsigned long request, void *arg)
{
	if (request == KVM_CREATE_VCPU)
		return FAKE_FD;
	if (request == KVM_RUN)
		return run_vcpu();
	assert_int_equal(request, KVM_IOEVENTFD);
	events[n_events++ % ARRAY_LEN(events)] = *(struct kvm_ioeventfd *)arg;
	return -ioeventfd_errno;
}

/* ---- the machine ---- */

static void notify_register(void *opaque, uint64_t off, const void *data, unsigned len)
{
	(void)opaque;
	(void)data;
	(void)off;
	(void)len;
	exits_here = true;
	pthread_mutex_lock(&vdev.lock);
	if (is_ahead && (uint16_t)(*avail_idx(0) - vdev.queue[0].next_avail) < QUEUE_SIZE / 2)
		add_chains(0, 2);
	kick_exit(&kick[0], REGISTER);
	pthread_mutex_unlock(&vdev.lock);
	exits_left--;
}

static int make_device(struct err *err)
{
	vdev = (struct virtio_dev){ .transport = &t };
	t = (struct virtio_pci){ .env = &env, .vdev = &vdev, .kick = kick };
	if (virtio_init(&vdev, &ops, &vm.mem, "count0", QUEUES, QUEUE_SIZE, err) < 0)
		return -1;
	for (unsigned i = 0; i < QUEUES; i++) {
		uint64_t base = 0x10000ULL * (i + 1);
		vdev.queue[i].s.ready = true;
		vdev.queue[i].s.desc_table = base;
		vdev.queue[i].s.avail_ring = base + 0x1000;
		vdev.queue[i].s.used_ring = base + 0x2000;
		kick_init(&kick[i], &t, i);
	}
	virtio_activate(&vdev);
	return vdev.active ? 0 : -1;
}

static int make(void **state)
{
	struct err err = {};
	struct bus_range range = { .base = REGISTER, .size = 4, .write = notify_register };

	(void)state;
	n_here = n_elsewhere = n_chains = n_loops = 0;
	n_events = exit_takes_us = 0;
	exits_left = 0;
	ioeventfd_errno = 0;
	more_left = n_asked = 0;
	is_ahead = false;
	exits_here = true;
	vm = (struct vm){ .config = &config, .kvm = { .fd = -1, .vm_fd = FAKE_FD, .run_bytes = RUN_BYTES } };
	gmem_layout(&vm.mem, RAM_BYTES, RAM_BYTES, 1ULL << 32);
	bus_init(&vm.mmio);
	return gmem_map_anon(&vm.mem, false, false, &err) < 0 || bus_add(&vm.mmio, &range, &err) < 0
		       ? -1
		       : make_device(&err);
}

static int done(void **state)
{
	(void)state;
	worker_stop(&t.worker);
	worker_stop(&t.worker);
	for (unsigned i = 0; i < QUEUES; i++)
		kick_done(&kick[i]);
	virtio_done(&vdev);
	gmem_unmap(&vm.mem);
	return 0;
}

/* `n` exits of this thread, each for one chain. */
static void exits(unsigned queue, unsigned n)
{
	while (n-- > 0) {
		add_chains(queue, 1);
		pthread_mutex_lock(&vdev.lock);
		kick_exit(&kick[queue], REGISTER);
		pthread_mutex_unlock(&vdev.lock);
	}
}

static void reaches(_Atomic unsigned *counter, unsigned want)
{
	for (uint64_t end = monotonic_ns() + 20000000000ULL; *counter < want && monotonic_ns() < end;)
		usleep(100);
	if (*counter < want)
		fail_msg("%u, expected %u", *counter, want);
}

/* ---- tests: this thread is no vCPU, so its exits count as slow ---- */

static void few_exits_need_nothing(void **state)
{
	(void)state;
	exits(0, DECIDES - 1);
	assert_int_equal(n_here, DECIDES - 1);
	assert_int_equal(n_chains, DECIDES - 1);
	assert_int_equal(n_elsewhere + n_events + n_loops, 0);
	assert_false(t.worker.running);
	assert_int_equal(kick[0].wake.fd, -1);
}

static void slow_exits_get_an_ioeventfd(void **state)
{
	const uint64_t one = 1;

	(void)state;
	unsigned fds = count_fds();
	exits(0, DECIDES);
	assert_int_equal(n_here, DECIDES); /* the last one is served as before */
	assert_int_equal(n_events, 1);
	assert_int_equal(events[0].addr, REGISTER);
	assert_int_equal(events[0].fd, kick[0].wake.fd);
	assert_int_equal(events[0].len | events[0].flags | events[0].datamatch, 0);
	assert_true(t.worker.running && kick[0].attached);
	assert_int_equal(n_loops, 1);
	add_chains(0, 1); /* now as KVM does it */
	assert_int_equal(write(kick[0].wake.fd, &one, sizeof(one)), sizeof(one));
	reaches(&n_elsewhere, 1);
	assert_int_equal(n_chains, DECIDES + 1);

	kick_move(&kick[0], 0xe7f80000, 0xc0000000);
	assert_int_equal(n_events, 3);
	assert_int_equal(events[1].addr, REGISTER);
	assert_int_equal(events[1].flags, KVM_IOEVENTFD_FLAG_DEASSIGN);
	assert_int_equal(events[2].addr, 0xc0006000);
	assert_int_equal(events[2].flags, 0);
	assert_true(kick[0].attached);
	kick_move(&kick[1], 0xe7f80000, 0xc0000000); /* never attached */
	assert_int_equal(n_events, 3);
	worker_stop(&t.worker);
	assert_false(t.worker.running);
	kick_detach(&kick[0]);
	assert_int_equal(n_events, 4);
	assert_int_equal(events[3].addr, 0xc0006000);
	assert_int_equal(events[3].flags, KVM_IOEVENTFD_FLAG_DEASSIGN);
	kick_detach(&kick[0]); /* once is enough */
	assert_int_equal(n_events, 4);
	kick_done(&kick[0]);
	kick[0].wake.fd = -1;
	assert_int_equal(count_fds(), fds);
}

static void kvm_refuses(void **state)
{
	(void)state;
	ioeventfd_errno = ENOSPC;
	exits(0, DECIDES + 10);
	assert_int_equal(n_events, 1);
	assert_false(kick[0].attached);
	assert_int_equal(n_here, DECIDES + 10);
	kick_move(&kick[0], 0, 4096);
	assert_int_equal(n_events, 1);
}

static void a_guest_ahead_gets_the_worker(void **state)
{
	(void)state;
	add_chains(0, 1); /* with the exit's own: two are waiting */
	exits(0, 1);
	reaches(&n_elsewhere, 1);
	assert_int_equal(n_here, 0);
	assert_int_equal(n_chains, 2);
	assert_int_equal(n_loops, 1);
	exits(0, 1); /* it has caught up */
	assert_int_equal(n_here, 1);
	assert_true(kick_again(&kick[0]));
	assert_true(kick_again(&kick[1])); /* the other queue: the same worker */
	reaches(&n_elsewhere, 3);
	assert_int_equal(n_loops, 1);
	assert_int_equal(n_events, 0);
}

static void refills_stay_with_the_vcpu(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3 * DECIDES; i++) {
		add_chains(REFILL, 1);
		exits(REFILL, 1);
	}
	assert_int_equal(n_here, 3 * DECIDES);
	assert_int_equal(n_chains, 6 * DECIDES);
	assert_int_equal(n_elsewhere + n_events + n_loops, 0);
	assert_false(t.worker.running);
}

static void without_descriptors(void **state)
{
	enum { NEEDED = 3 }; /* the worker's loop, the eventfd of its end, the queue's eventfd */
	struct rlimit old;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	for (unsigned room = 0; room < NEEDED; room++) {
		int lowest = dup(STDERR_FILENO); /* the next descriptor */
		close(lowest);
		const struct rlimit few = { .rlim_cur = (rlim_t)lowest + room, .rlim_max = old.rlim_max };
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
		n_here = n_chains = 0;
		add_chains(0, 1);
		exits(0, 1);
		bool again = kick_again(&kick[0]);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
		assert_false(again);
		assert_int_equal(n_here, 1); /* served all the same */
		assert_int_equal(n_chains, 2);
	}
	assert_true(kick_again(&kick[0]));
	reaches(&n_elsewhere, 1);
}

/*
 * Woken now and then, the worker looks for more before it sleeps; once it found some, every time. While it looks, the guest need not tell
 * of chains; before it sleeps the guest is asked to.
 */
static void waits_a_moment_for_more(void **state)
{
	enum { MORE = 3 };
	unsigned expected = 0, asked = 0;

	(void)state;
	vdev.queue[0].event_idx = true;
	for (unsigned wake = 1; wake <= SPIN_AFTER + 3; wake++) {
		bool looks = wake >= SPIN_AFTER;
		more_left = looks ? MORE : 0;
		expected += looks ? 1 + MORE + 1 : 1;
		asked++;
		add_chains(0, 1);
		assert_true(kick_again(&kick[0]));
		reaches(&n_elsewhere, expected);
		usleep(500);
		assert_int_equal(n_elsewhere, expected);
		assert_int_equal(n_asked, asked);
		assert_int_equal(*avail_event(0), vdev.queue[0].next_avail);
	}
}

/* ---- tests with a vCPU ---- */

static void run_exits(unsigned n, unsigned each_takes_us)
{
	autoclose int fd = unit_file();
	struct err err = {};

	exits_here = false;
	exits_left = n;
	exit_takes_us = each_takes_us;
	assert_int_equal(ftruncate(fd, RUN_BYTES), 0);
	assert_int_equal(dup2(fd, FAKE_FD), FAKE_FD);
	assert_int_equal(vcpus_create(&vm.vcpus, &vcpu_env, 1, &err), 0);
	run_area = vm.vcpus.vcpu[0].run;
	assert_int_equal(vcpus_start(&vm.vcpus, NULL, NULL, &err), 0);
	vcpus_run(&vm.vcpus);
	for (uint64_t end = monotonic_ns() + 20000000000ULL; exits_left > 0 && monotonic_ns() < end;)
		usleep(100);
	vcpus_destroy(&vm.vcpus);
	assert_int_equal(exits_left, 0);
}

static void fast_exits_stay_exits(void **state)
{
	(void)state;
	run_exits(4 * DECIDES, 0);
	assert_int_equal(n_here, 4 * DECIDES);
	assert_int_equal(n_events, 0);
	assert_false(t.worker.running);
}

static void slow_exits_of_a_vcpu(void **state)
{
	(void)state;
	run_exits(DECIDES, 50);
	assert_int_equal(n_here, DECIDES);
	assert_int_equal(n_events, 1);
	assert_true(kick[0].attached);
}

static void fast_exits_of_a_guest_ahead(void **state)
{
	(void)state;
	is_ahead = true;
	run_exits(DECIDES, 0);
	assert_int_equal(n_events, 1);
	assert_true(kick[0].attached);
}

#define T(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(few_exits_need_nothing),        T(slow_exits_get_an_ioeventfd), T(kvm_refuses),
		T(a_guest_ahead_gets_the_worker), T(refills_stay_with_the_vcpu),  T(without_descriptors),
		T(waits_a_moment_for_more),       T(fast_exits_stay_exits),       T(slow_exits_of_a_vcpu),
		T(fast_exits_of_a_guest_ahead),
	};

	return cmocka_run_group_tests_name("kick", tests, NULL, NULL);
}
