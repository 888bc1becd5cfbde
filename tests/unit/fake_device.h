// SPDX-License-Identifier: Apache-2.0
/*
 * A machine with one virtio device that only counts, and the guest's side of it: configuration space, BAR 0, queues. KVM
 * takes no call but that of a message-signalled interrupt. Included by a test program's only file.
 */
#ifndef TESTS_UNIT_FAKE_DEVICE_H
#define TESTS_UNIT_FAKE_DEVICE_H

#include "tests/unit/fake_kvm.h"

#include <errno.h>
#include <sys/mman.h>

#include "vmm/machine/machine.h"
#include "vmm/virtio/transport.h"

enum { RAM_BYTES = 1 << 20, QUEUES = 2, QUEUE_SIZE = 64, CONFIG_BYTES = 8, SLOT = 1 };
enum { ACK = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 0x40 };
#define BAR 0x3fffff800000ULL
#define OFFERED (1ULL << 32 | 1 << 29 | 1 << 28 | 1 << 5)

static struct kvm_msi last_msi;
static unsigned n_msi;

static int fake_kvm(unsigned long request, void *arg)
{
	assert_int_equal(request, KVM_SIGNAL_MSI);
	last_msi = *(struct kvm_msi *)arg;
	n_msi++;
	return 1;
}

/* ---- the device ---- */

struct fake {
	struct virtio_dev vdev;
	uint8_t space[CONFIG_BYTES];
};

static unsigned n_activate, n_reset, n_notify, last_queue, n_config, n_pause, n_resume, n_free, config_off, config_len;
static bool resumed_restored;

static inline void fake_activate(struct virtio_dev *vdev)
{
	assert_true(vdev->active);
	n_activate++;
}

static inline void fake_reset(struct virtio_dev *vdev)
{
	assert_non_null(vdev->queue[0].desc); /* the queues are there still */
	n_reset++;
}

static inline void fake_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct chain c;

	n_notify++;
	last_queue = queue;
	while (virtio_pop(vdev, queue, &c))
		virtio_push(vdev, queue, c.head, 0);
}

static inline void fake_write_config(struct virtio_dev *vdev, unsigned off, const void *data, unsigned len)
{
	n_config++;
	config_off = off;
	config_len = len;
	memcpy((char *)vdev->config + off, data, len);
}

static inline void fake_pause(struct virtio_dev *vdev)
{
	(void)vdev;
	n_pause++;
}

static inline void fake_resume(struct virtio_dev *vdev, bool restored)
{
	assert_false(vdev->paused);
	resumed_restored = restored;
	n_resume++;
}

static inline void fake_free(struct virtio_dev *vdev)
{
	virtio_done(vdev);
	free(container_of(vdev, struct fake, vdev));
	n_free++;
}

static const struct virtio_device_ops fake_ops = {
	.name = "fake",
	.type = VIRTIO_ID_NET,
	.pci_class = 0x020000,
	.config_bytes = CONFIG_BYTES,
	.activate = fake_activate,
	.reset = fake_reset,
	.notify = fake_notify,
	.write_config = fake_write_config,
	.pause = fake_pause,
	.resume = fake_resume,
	.free = fake_free,
};
static const struct virtio_device_ops plain_ops = {
	.name = "plain",
	.type = VIRTIO_ID_RNG,
	.pci_class = 0xffff00,
	.notify = fake_notify,
	.free = fake_free,
};
static const struct virtio_device_ops low_ops = {
	.name = "low",
	.type = VIRTIO_ID_BLOCK,
	.pci_class = 0x018000,
	.bar32 = true,
	.config_bytes = CONFIG_BYTES,
	.notify = fake_notify,
	.free = fake_free,
};

/* ---- the machine ---- */

static struct vm vm;
static struct device_env env = { .mem = &vm.mem, .kvm = &vm.kvm, .mmio = &vm.mmio, .pci = &vm.pci };
static struct virtio_pci *t;
static struct virtio_dev *vdev;

static inline struct virtio_pci *add_device(const struct virtio_device_ops *ops, const char *id, unsigned queues)
{
	const struct pci_place place = { .bar32 = ops->bar32, .saved = vm.restored };
	struct fake *f = calloc(1, sizeof(*f));
	struct err err = {};

	assert_non_null(f);
	f->vdev.avail_features = OFFERED;
	f->vdev.config = f->space;
	memcpy(f->space, "ABCDEFGH", CONFIG_BYTES);
	assert_int_equal(virtio_init(&f->vdev, ops, &vm.mem, id, queues, QUEUE_SIZE, &err), 0);
	assert_int_equal(virtio_pci_attach(&env, &f->vdev, &place, &vm.dev[vm.n_devs], &err), 0);
	return vm.dev[vm.n_devs++];
}

static inline void make_vm(void)
{
	struct err err = {};

	vm = (struct vm){ .kvm = { .fd = -1, .vm_fd = FAKE_FD }, .arch.phys_bits = 46 };
	gmem_layout(&vm.mem, RAM_BYTES, RAM_BYTES, 1ULL << 32);
	assert_int_equal(gmem_map_anon(&vm.mem, false, false, &err), 0);
	bus_init(&vm.mmio);
	pci_bus_init(&vm.pci, arch_mmio32(&vm).last + 1, arch_mmio64(&vm).last + 1);
}

static inline void drop_vm(void)
{
	for (unsigned i = 0; i < vm.n_devs; i++)
		virtio_pci_free(vm.dev[i]);
	gmem_unmap(&vm.mem);
}

static inline int transport_make(void **state)
{
	(void)state;
	n_msi = n_activate = n_reset = n_notify = n_config = n_pause = n_resume = n_free = 0;
	make_vm();
	t = add_device(&fake_ops, "net7", QUEUES);
	vdev = t->vdev;
	return 0;
}

static inline int transport_done(void **state)
{
	(void)state;
	drop_vm();
	return 0;
}

static uint64_t rd(uint64_t off, unsigned len)
{
	uint64_t v = 0;

	bus_read(&vm.mmio, t->pci.bar0 + off, &v, len);
	return v;
}

static inline void wr(uint64_t off, uint64_t v, unsigned len)
{
	bus_write(&vm.mmio, t->pci.bar0 + off, &v, len);
}

static uint64_t cfg_read(unsigned reg, unsigned len)
{
	uint64_t v = 0;

	pci_ecam_read(&vm.pci, t->pci.slot << 15 | reg, &v, len);
	return v;
}

static inline void cfg_write(unsigned reg, uint64_t v, unsigned len)
{
	pci_ecam_write(&vm.pci, t->pci.slot << 15 | reg, &v, len);
}

static inline void negotiate(void)
{
	wr(0x14, ACK, 1);
	wr(0x14, ACK | DRIVER, 1);
	wr(0x08, 1, 4);
	wr(0x0c, 1, 4);
	wr(0x14, ACK | DRIVER | FEATURES_OK, 1);
}

/* Rings of queue i at 64 KiB * (i + 1). */
static inline void set_queue(unsigned i)
{
	uint64_t base = 0x10000ULL * (i + 1);

	wr(0x16, i, 2);
	wr(0x18, 16, 2);
	wr(0x1a, i + 1, 2);
	wr(0x20, base, 8);
	wr(0x28, base + 0x1000, 4);
	wr(0x2c, 0, 4);
	wr(0x30, base + 0x2000, 8);
	wr(0x1c, 1, 2);
}

/* Vector v: message address and data of its own, unmasked. */
static inline void set_vectors(void)
{
	for (unsigned v = 0; v <= QUEUES; v++) {
		wr(0x8000 + 16 * v, 0xfee00000 | v << 12, 8);
		wr(0x8008 + 16 * v, 0x40 + v, 8);
	}
	wr(0x10, 0, 2);
	cfg_write(0x9a, 0x8002, 2);
}

static inline void start(void)
{
	negotiate();
	set_vectors();
	for (unsigned i = 0; i < QUEUES; i++)
		set_queue(i);
	wr(0x14, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1);
	assert_int_equal(n_activate, 1);
}

static inline void put16(uint64_t gpa, uint16_t v)
{
	memcpy(gmem_ptr(&vm.mem, gpa, 2), &v, 2);
}

#define TRANSPORT_TEST(f) cmocka_unit_test_setup_teardown(f, transport_make, transport_done)

#endif
