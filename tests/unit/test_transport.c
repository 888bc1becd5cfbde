// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/virtio_pci and vmm/virtio with a device that only counts: common configuration, capabilities byte for byte, the
 * window in configuration space, life of the queues, and the saved state. KVM is fake_kvm().
 */
#include "vmm/virtio/transport.h"

#include "tests/unit/fake_kvm.h"

#include <errno.h>
#include <sys/mman.h>

#include "vmm/machine/devices.h"
#include "vmm/machine/machine.h"
#include "vmm/state/state.h"

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

static void fake_activate(struct virtio_dev *vdev)
{
	assert_true(vdev->active);
	n_activate++;
}

static void fake_reset(struct virtio_dev *vdev)
{
	assert_non_null(vdev->queue[0].desc); /* the queues are there still */
	n_reset++;
}

static void fake_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct chain c;

	n_notify++;
	last_queue = queue;
	while (virtio_pop(vdev, queue, &c))
		virtio_push(vdev, queue, c.head, 0);
}

static void fake_write_config(struct virtio_dev *vdev, unsigned off, const void *data, unsigned len)
{
	n_config++;
	config_off = off;
	config_len = len;
	memcpy((char *)vdev->config + off, data, len);
}

static void fake_pause(struct virtio_dev *vdev)
{
	(void)vdev;
	n_pause++;
}

static void fake_resume(struct virtio_dev *vdev, bool restored)
{
	assert_false(vdev->paused);
	resumed_restored = restored;
	n_resume++;
}

static void fake_free(struct virtio_dev *vdev)
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

static struct virtio_pci *add_device(const struct virtio_device_ops *ops, const char *id, unsigned queues)
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

static void make_vm(void)
{
	struct err err = {};

	vm = (struct vm){ .kvm = { .fd = -1, .vm_fd = FAKE_FD }, .arch.phys_bits = 46 };
	gmem_layout(&vm.mem, RAM_BYTES, RAM_BYTES, 1ULL << 32);
	assert_int_equal(gmem_map_anon(&vm.mem, false, false, &err), 0);
	bus_init(&vm.mmio);
	pci_bus_init(&vm.pci, arch_mmio32(&vm).last + 1, arch_mmio64(&vm).last + 1);
}

static void drop_vm(void)
{
	for (unsigned i = 0; i < vm.n_devs; i++)
		virtio_pci_free(vm.dev[i]);
	gmem_unmap(&vm.mem);
}

static int make(void **state)
{
	(void)state;
	n_msi = n_activate = n_reset = n_notify = n_config = n_pause = n_resume = n_free = 0;
	make_vm();
	t = add_device(&fake_ops, "net7", QUEUES);
	vdev = t->vdev;
	return 0;
}

static int done(void **state)
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

static void wr(uint64_t off, uint64_t v, unsigned len)
{
	bus_write(&vm.mmio, t->pci.bar0 + off, &v, len);
}

static uint64_t cfg_read(unsigned reg, unsigned len)
{
	uint64_t v = 0;

	pci_ecam_read(&vm.pci, t->pci.slot << 15 | reg, &v, len);
	return v;
}

static void cfg_write(unsigned reg, uint64_t v, unsigned len)
{
	pci_ecam_write(&vm.pci, t->pci.slot << 15 | reg, &v, len);
}

static void negotiate(void)
{
	wr(0x14, ACK, 1);
	wr(0x14, ACK | DRIVER, 1);
	wr(0x08, 1, 4);
	wr(0x0c, 1, 4);
	wr(0x14, ACK | DRIVER | FEATURES_OK, 1);
}

/* Rings of queue i at 64 KiB * (i + 1). */
static void set_queue(unsigned i)
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
static void set_vectors(void)
{
	for (unsigned v = 0; v <= QUEUES; v++) {
		wr(0x8000 + 16 * v, 0xfee00000 | v << 12, 8);
		wr(0x8008 + 16 * v, 0x40 + v, 8);
	}
	wr(0x10, 0, 2);
	cfg_write(0x9a, 0x8002, 2);
}

static void start(void)
{
	negotiate();
	set_vectors();
	for (unsigned i = 0; i < QUEUES; i++)
		set_queue(i);
	wr(0x14, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1);
	assert_int_equal(n_activate, 1);
}

static void put16(uint64_t gpa, uint16_t v)
{
	memcpy(gmem_ptr(&vm.mem, gpa, 2), &v, 2);
}

/* ---- configuration space ---- */

static void check_dwords(unsigned from, const uint32_t *want, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (cfg_read(from + 4 * i, 4) != want[i])
			fail_msg("register 0x%x: 0x%llx, expected 0x%x", from + 4 * i,
				 (unsigned long long)cfg_read(from + 4 * i, 4), want[i]);
}

static void header_and_capabilities(void **state)
{
	static const uint32_t header[] = {
		0x10411af4, 0x00100000, 0x02000001, 0,      0xff800004, 0x3fff, 0,          0, 0, 0,
		0,          0x10411af4, 0,          0x40,   0,          0,      0x01105009, 0, 0, 0x38, /* common */
		0x03106009, 0,          0x2000,     1,                                                  /* ISR */
		0x04107009, 0,          0x4000,     0x1000,                                             /* device */
		0x02148409, 0,          0x6000,     0x1000, 4,                                          /* notify */
		0x05149809, 0,          0,          0,      0,                                          /* window */
		0x80020011, 0x8000,     0x48000,    0, /* MSI-X: enabled as it seems */
	};

	(void)state;
	check_dwords(0, header, ARRAY_LEN(header));
	assert_int_equal(t->cap_pci_cfg_offset, 134);
	assert_int_equal(t->pci.cfg.msix_cap_reg_idx, 38);
	assert_int_equal(t->pci.cfg.last_capability[0], 0x98);
	assert_int_equal(t->pci.cfg.last_capability[1], 10);
	assert_int_equal(t->pci.bar0, BAR);
	assert_false(t->msix.enabled);
	assert_string_equal(t->id, "_virtio-pci-net7");
}

static void capabilities_without_config(void **state)
{
	static const uint32_t caps[] = {
		0x01105009, 0, 0,          0x38, 0x03106009, 0, 0x2000, 1,          0x02147409, 0,       0x6000,
		0x1000,     4, 0x05148809, 0,    0,          0, 0,      0x80010011, 0x8000,     0x48000, 0,
	};

	(void)state;
	t = add_device(&plain_ops, "__rng", 1);
	check_dwords(0x40, caps, ARRAY_LEN(caps));
	assert_int_equal(t->cap_pci_cfg_offset, 118);
	assert_int_equal(t->pci.cfg.msix_cap_reg_idx, 34);
	assert_int_equal(t->pci.bar0, BAR - (8 << 20));
	assert_int_equal(cfg_read(0, 4), 0x10441af4);
	assert_int_equal(cfg_read(8, 4), 0xffff0001);
	assert_int_equal(rd(0x4000, 4), 0);
	wr(0x4000, 1, 4);
	t = add_device(&low_ops, "_disk0", 1);
	assert_int_equal(t->pci.bar0, 0xe7f80000);
	assert_int_equal(t->pci.slot, 3);
	assert_int_equal(rd(0x4000, 2), 'A' | 'B' << 8);
	wr(0x4000, 1, 4); /* no write_config: vanishes */
	assert_int_equal(rd(0x4000, 1), 'A');
}

static void writable_config_space(void **state)
{
	(void)state;
	for (unsigned reg = 0x40; reg < 0xa4; reg += 4) {
		uint64_t before = cfg_read(reg, 4);
		if (reg >= 0x84 && reg < 0x98)
			continue; /* the window: below */
		cfg_write(reg, UINT32_MAX, 4);
		assert_int_equal(cfg_read(reg, 4), reg == 0x98 ? before | 0xc0000000 : before);
		cfg_write(reg, 0, 4);
		assert_int_equal(cfg_read(reg, 4), reg == 0x98 ? before & 0x3fffffff : before);
	}
	cfg_write(0x84, 0, 4); /* id, next, length and type stay */
	assert_int_equal(cfg_read(0x84, 4), 0x05149809);
}

static void window_in_config_space(void **state)
{
	(void)state;
	assert_int_equal(cfg_read(0x94, 4), 0); /* length 0: nothing happens */
	cfg_write(0x8c, 0x12, 4);
	cfg_write(0x90, 2, 4);
	assert_int_equal(cfg_read(0x94, 2), QUEUES);
	assert_int_equal(cfg_read(0x8c, 4), 0x12);
	cfg_write(0x8c, 0x4002, 4);
	cfg_write(0x90, 4, 4);
	assert_int_equal(cfg_read(0x94, 4), 'C' | 'D' << 8 | 'E' << 16 | 'F' << 24);
	cfg_write(0x94, 0x34333231, 4);
	assert_int_equal(n_config, 1);
	wr(0x4008, 1, 1);
	wr(0x4005, 1, 4);
	wr(0x4ffc, 1, 4);
	assert_int_equal(n_config, 1);
	assert_int_equal(config_off, 2);
	assert_int_equal(config_len, 4);
	assert_int_equal(rd(0x4000, 8), 0x4847343332314241);
	cfg_write(0x8c, 0x14, 4);
	cfg_write(0x90, 1, 4);
	cfg_write(0x94, ACK, 1);
	assert_int_equal(rd(0x14, 1), ACK);
	static const struct {
		uint32_t off, len;
		uint8_t bar;
	} nowhere[] = {
		{ 0x14, 3, 0 },    { 0x14, 8, 0 },    { 0x14, 0, 0 },       { 0x14, UINT32_MAX, 0 },  { 0x14, 1, 1 },
		{ 0x7ffff, 2, 0 }, { 0x80000, 1, 0 }, { UINT32_MAX, 1, 0 }, { UINT32_MAX - 3, 4, 0 },
	};
	for (size_t i = 0; i < ARRAY_LEN(nowhere); i++) {
		cfg_write(0x88, nowhere[i].bar, 1);
		cfg_write(0x8c, nowhere[i].off, 4);
		cfg_write(0x90, nowhere[i].len, 4);
		cfg_write(0x94, 0xab, 1); /* no reset, no status */
		assert_int_equal(cfg_read(0x94, 1), 0xab);
	}
	assert_int_equal(rd(0x14, 1), ACK);
}

static void bar_moves_by_the_guest(void **state)
{
	(void)state;
	cfg_write(4, PCI_COMMAND_MEMORY, 2);
	cfg_write(0x10, 0x00100000, 4);
	cfg_write(0x14, 0x2000, 4);
	assert_int_equal(t->pci.bar0, 0x200000100000);
	assert_int_equal(rd(0x12, 2), QUEUES);
	uint64_t v = 0;
	bus_read(&vm.mmio, BAR + 0x12, &v, 2);
	assert_int_equal(v, 0xffff);
	struct virtio_pci *other = add_device(&plain_ops, "__rng", 1);
	cfg_write(0x14, (uint32_t)(other->pci.bar0 >> 32), 4);
	cfg_write(0x10, (uint32_t)other->pci.bar0, 4); /* onto the other one: stays */
	assert_true(t->pci.bar0 != other->pci.bar0);
	assert_int_equal(rd(0x12, 2), QUEUES);
}

/* ---- common configuration ---- */

static void registers_at_reset(void **state)
{
	static const struct {
		unsigned off, len;
		uint64_t want;
	} rows[] = {
		{ 0x00, 4, 0 },
		{ 0x04, 4, (uint32_t)OFFERED },
		{ 0x08, 4, 0 },
		{ 0x0c, 4, 0 },
		{ 0x10, 2, 0xffff },
		{ 0x12, 2, QUEUES },
		{ 0x14, 1, 0 },
		{ 0x15, 1, 0 },
		{ 0x16, 2, 0 },
		{ 0x18, 2, QUEUE_SIZE },
		{ 0x1a, 2, 0xffff },
		{ 0x1c, 2, 0 },
		{ 0x1e, 2, 0 },
		{ 0x20, 8, 0 },
		{ 0x28, 8, 0 },
		{ 0x30, 8, 0 },
		{ 0x38, 4, 0 },
		{ 0x36, 4, 0 },
		{ 0x1ffc, 4, 0 },
		{ 0x2000, 1, 0 },
		{ 0x4000, 8, 0x4847464544434241 },
		{ 0x4008, 1, 0 },
		{ 0x4004, 8, 0 },
		{ 0x4007, 1, 'H' },
		{ 0x6000, 4, 0 },
		{ 0x800c, 4, 1 },
		{ 0x8030, 4, 0 },
		{ 0x48000, 8, 0 },
		{ 0x7fffc, 4, 0 },
		{ 0x80000, 4, UINT32_MAX },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (rd(rows[i].off, rows[i].len) != rows[i].want)
			fail_msg("0x%x: 0x%llx, expected 0x%llx", rows[i].off,
				 (unsigned long long)rd(rows[i].off, rows[i].len), (unsigned long long)rows[i].want);
}

static void feature_negotiation(void **state)
{
	(void)state;
	wr(0x00, 1, 4);
	assert_int_equal(rd(0x00, 4), 1);
	assert_int_equal(rd(0x04, 4), 1);
	wr(0x00, 2, 4);
	assert_int_equal(rd(0x04, 4), 0);
	wr(0x00, UINT32_MAX, 4);
	assert_int_equal(rd(0x04, 4), 0);
	wr(0x04, 0, 4); /* read-only */
	wr(0x0c, UINT32_MAX, 4);
	assert_int_equal(rd(0x0c, 4), (uint32_t)OFFERED); /* what was not offered is not taken */
	wr(0x0c, 1 << 28, 4);
	assert_int_equal(rd(0x0c, 4), 1 << 28);
	wr(0x14, ACK | DRIVER | FEATURES_OK, 1); /* without VERSION_1 */
	assert_int_equal(rd(0x14, 1), ACK | DRIVER);
	wr(0x08, 2, 4);
	wr(0x0c, UINT32_MAX, 4);
	assert_int_equal(rd(0x0c, 4), 0);
	wr(0x08, 1, 4);
	wr(0x0c, UINT32_MAX, 4);
	assert_int_equal(rd(0x0c, 4), 1);
	assert_int_equal(vdev->acked_features, 1ULL << 32 | 1 << 28);
	wr(0x14, ACK | DRIVER | FEATURES_OK, 1);
	assert_int_equal(rd(0x14, 1), ACK | DRIVER | FEATURES_OK);
	wr(0x0c, 0, 4); /* fixed from here on */
	assert_int_equal(vdev->acked_features, 1ULL << 32 | 1 << 28);
	wr(0x14, DRIVER, 1); /* the driver clears no bits */
	assert_int_equal(rd(0x14, 1), ACK | DRIVER | FEATURES_OK);
}

static void queue_registers(void **state)
{
	static const uint32_t bad_sizes[] = { 0, 3, 128, 65, 0xffff };

	(void)state;
	wr(0x16, 1, 2);
	for (size_t i = 0; i < ARRAY_LEN(bad_sizes); i++) {
		wr(0x18, bad_sizes[i], 2);
		assert_int_equal(rd(0x18, 2), QUEUE_SIZE);
	}
	wr(0x18, 16, 2);
	wr(0x1a, 2, 2);
	assert_int_equal(rd(0x1a, 2), 2);
	wr(0x1a, 3, 2); /* there are three vectors */
	assert_int_equal(rd(0x1a, 2), 0xffff);
	wr(0x1a, 1, 2);
	wr(0x20, 0x1122334455667788, 8);
	wr(0x24, 0xaabbccdd, 4);
	wr(0x20, 0x01020304, 4);
	assert_int_equal(rd(0x20, 8), 0xaabbccdd01020304);
	assert_int_equal(rd(0x24, 4), 0xaabbccdd);
	wr(0x28, 0x99, 4);
	wr(0x2c, 0x01, 4);
	wr(0x30, 0x1000000aa, 8);
	assert_int_equal(rd(0x1e, 2), 1);
	wr(0x1c, 2, 2); /* only 1 is allowed */
	assert_int_equal(rd(0x1c, 2), 0);
	wr(0x1c, 1, 2);
	assert_int_equal(rd(0x1c, 2), 1);
	wr(0x1c, 0, 2); /* enabled: fixed */
	wr(0x18, 32, 2);
	wr(0x20, 0, 8);
	wr(0x28, 0, 8);
	wr(0x30, 0, 8);
	const struct vring_state want = { QUEUE_SIZE, 16, true, 0xaabbccdd01020304, 0x100000099, 0x1000000aa };
	assert_int_equal(vdev->queue[1].s.size, want.size);
	assert_true(vdev->queue[1].s.ready);
	assert_int_equal(vdev->queue[1].s.desc_table, want.desc_table);
	assert_int_equal(vdev->queue[1].s.avail_ring, want.avail_ring);
	assert_int_equal(vdev->queue[1].s.used_ring, want.used_ring);
	wr(0x16, 0, 2);
	assert_int_equal(rd(0x18, 2), QUEUE_SIZE);
	assert_int_equal(rd(0x20, 8), 0);
	static const unsigned beyond[] = { QUEUES, 64, 0xffff };
	for (size_t i = 0; i < ARRAY_LEN(beyond); i++) {
		wr(0x16, beyond[i], 2);
		assert_int_equal(rd(0x16, 2), beyond[i]);
		assert_int_equal(rd(0x18, 2), 0);
		assert_int_equal(rd(0x1a, 2), 0xffff);
		assert_int_equal(rd(0x1c, 2), 0);
		assert_int_equal(rd(0x20, 8), 0);
		wr(0x18, 4, 2);
		wr(0x1a, 0, 2);
		wr(0x1c, 1, 2);
		wr(0x20, 0x1000, 8);
	}
}

static void vectors(void **state)
{
	(void)state;
	wr(0x10, 2, 2);
	assert_int_equal(rd(0x10, 2), 2);
	wr(0x10, 3, 2);
	assert_int_equal(rd(0x10, 2), 0xffff);
	start();
	n_msi = 0;
	virtio_pci_interrupt(t, 1);
	assert_int_equal(n_msi, 1);
	assert_int_equal(last_msi.data, 0x42);
	assert_int_equal(last_msi.address_lo, 0xfee02000);
	assert_int_equal(rd(0x2000, 1), 0);
	virtio_pci_interrupt(t, VIRTIO_CONFIG_CHANGE);
	assert_int_equal(last_msi.data, 0x40);
	assert_int_equal(rd(0x2000, 1), 2);
	assert_int_equal(rd(0x2000, 1), 0); /* reading clears */
	wr(0x16, 1, 2);
	wr(0x1a, 0xffff, 2); /* also while active */
	virtio_pci_interrupt(t, 1);
	assert_int_equal(n_msi, 2);
}

static void life(void **state)
{
	(void)state;
	wr(0x6000, 0, 2);
	assert_int_equal(n_notify, 0); /* not before DRIVER_OK */
	start();
	assert_true(vdev->active);
	wr(0x14, 0xf, 1);
	assert_int_equal(n_activate, 1);
	wr(0x6000, 0, 2);
	assert_int_equal(n_notify, 1);
	assert_int_equal(last_queue, 0);
	wr(0x6004, 1, 2);
	assert_int_equal(last_queue, 1);
	wr(0x6008, 2, 2); /* no such queue */
	wr(0x6ffc, 2, 4);
	assert_int_equal(n_notify, 2);
	wr(0x14, 0, 1);
	assert_int_equal(n_reset, 1);
	assert_int_equal(rd(0x14, 1), 0);
	assert_int_equal(rd(0x10, 2), 0xffff);
	assert_int_equal(vdev->acked_features, 0);
	assert_false(vdev->active);
	for (unsigned i = 0; i < QUEUES; i++) {
		wr(0x16, i, 2);
		assert_int_equal(rd(0x18, 2), QUEUE_SIZE);
		assert_int_equal(rd(0x1a, 2), 0xffff);
		assert_int_equal(rd(0x1c, 2), 0);
		assert_int_equal(rd(0x20, 8), 0);
		assert_null(vdev->queue[i].desc);
	}
	wr(0x14, 0, 1); /* nothing to reset */
	assert_int_equal(n_reset, 1);
	n_activate = 0;
	start();
	wr(0x6000, 0, 2);
	assert_int_equal(n_notify, 3);
}

static void broken_ring(void **state)
{
	(void)state;
	start();
	n_msi = 0;
	put16(0x11002, 17); /* more than the queue holds */
	wr(0x6000, 0, 2);
	for (unsigned i = 0; i < 2000 && !(rd(0x14, 1) & NEEDS_RESET); i++)
		usleep(1000); /* a queue with much in it is served by the worker */
	assert_int_equal(rd(0x14, 1), NEEDS_RESET | 0xf);
	assert_int_equal(n_msi, 1); /* the driver is told */
	assert_int_equal(last_msi.data, 0x40);
	assert_int_equal(rd(0x2000, 1), 2);
	wr(0x6004, 1, 2);
	assert_int_equal(n_notify, 1); /* nothing is done for it any more */
	virtio_interrupt(vdev, 0);
	assert_int_equal(n_msi, 1);
	struct chain c;
	put16(0x11002, 1);
	assert_false(virtio_pop(vdev, 0, &c));
	wr(0x14, 0, 1);
	assert_int_equal(n_reset, 1);
	assert_int_equal(rd(0x14, 1), 0);
	put16(0x11002, 0);
	n_activate = 0;
	start();
	wr(0x6000, 0, 2);
	assert_int_equal(n_notify, 2);
	assert_int_equal(rd(0x14, 1), 0xf);
}

static void rings_outside_ram(void **state)
{
	(void)state;
	negotiate();
	set_vectors();
	set_queue(0);
	wr(0x16, 1, 2);
	wr(0x20, RAM_BYTES, 8);
	wr(0x1c, 1, 2);
	n_msi = 0;
	wr(0x14, DRIVER_OK, 1);
	assert_int_equal(n_activate, 0);
	assert_false(vdev->active);
	assert_int_equal(rd(0x14, 1), NEEDS_RESET | 0xf);
	assert_int_equal(n_msi, 1);
	wr(0x14, DRIVER_OK, 1); /* no second try without a reset */
	assert_int_equal(n_msi, 1);
	assert_int_equal(n_activate, 0);
	wr(0x6000, 0, 2);
	assert_int_equal(n_notify, 0);
	wr(0x14, 0, 1);
	assert_int_equal(n_reset, 0); /* it was never active */
	start();
}

/* A chain through the whole device: popped, pushed, interrupt only when the driver wants it. */
static void chain_and_interrupt(void **state)
{
	(void)state;
	start();
	n_msi = 0;
	put16(0x11002, 1);
	wr(0x6000, 0, 2);
	virtio_interrupt(vdev, 0);
	uint16_t used;
	memcpy(&used, gmem_ptr(&vm.mem, 0x12002, 2), 2);
	assert_int_equal(used, 1);
	assert_int_equal(n_msi, 1);
	assert_int_equal(last_msi.data, 0x41);
	put16(0x11000, 1);
	virtio_interrupt(vdev, 0);
	assert_int_equal(n_msi, 1);
}

static void pause_and_resume(void **state)
{
	(void)state;
	start();
	virtio_pause(vdev);
	virtio_pause(vdev);
	assert_int_equal(n_pause, 1);
	wr(0x6000, 0, 2);
	assert_int_equal(n_notify, 0);
	struct chain c;
	put16(0x11002, 1);
	assert_false(virtio_pop(vdev, 0, &c));
	n_msi = 0;
	virtio_resume(vdev, false);
	assert_int_equal(n_resume, 1);
	assert_false(resumed_restored);
	assert_int_equal(n_notify, QUEUES); /* what came meanwhile is not forgotten, either way */
	assert_int_equal(n_msi, QUEUES);
	assert_int_equal(vdev->queue[0].next_used, 1);
	wr(0x14, 0, 1);
	virtio_pause(vdev);
	virtio_resume(vdev, false);
	assert_int_equal(n_notify, QUEUES);
}

static void loaded_features(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(virtio_load_features(vdev, OFFERED | 1, 1ULL << 32 | 1, &err), -EINVAL);
	assert_string_equal(err.msg,
			    "state.json: net7: acked_features has 0x1, which this device does not offer (0x130000020)");
	assert_int_equal(vdev->acked_features, 0);
	assert_int_equal(virtio_load_features(vdev, OFFERED & ~32ULL, 1ULL << 32, &err), 0);
	assert_int_equal(vdev->avail_features, OFFERED & ~32ULL);
	assert_int_equal(vdev->acked_features, 1ULL << 32);
}

static void too_many_queues(void **state)
{
	struct virtio_dev v = { .avail_features = 0 };
	struct err err = {};

	(void)state;
	assert_int_equal(virtio_init(&v, &fake_ops, &vm.mem, "x", VIRTIO_MAX_QUEUES + 1, 64, &err), -EINVAL);
	assert_string_equal(err.msg, "device 'x': 66 queues are more than 65");
	virtio_done(&v);
	virtio_done(&(struct virtio_dev){});
}

/* ---- saved state ---- */

static void save(struct strbuf *out)
{
	strbuf_putc(out, '{');
	virtio_pci_save(t, out);
	strbuf_putc(out, '}');
}

static int load(const char *text, size_t len, struct err *err)
{
	autojson struct json json = {};
	autofree char *copy = malloc(len + 1);

	memcpy(copy, text, len + 1);
	assert_int_equal(json_parse(&json, copy, len, err), 0);
	return virtio_pci_load(t, json_get(&json.nodes[0], "_virtio-pci-net7"), err);
}

static void new_restored(void **state)
{
	done(state);
	n_activate = n_notify = n_msi = 0;
	make_vm();
	vm.restored = true;
	t = add_device(&fake_ops, "net7", QUEUES);
	vdev = t->vdev;
}

static void round_trip(void **state)
{
	autostrbuf struct strbuf out = {}, again = {};
	struct err err = {};
	uint64_t v = 0;

	start();
	cfg_write(4, PCI_COMMAND_MEMORY, 2);
	cfg_write(0x14, 0x2000, 4);
	cfg_write(0x8c, 0x12, 4);
	virtio_pci_interrupt(t, VIRTIO_CONFIG_CHANGE);
	put16(0x12002, 5);
	wr(0x800c, 1, 4);
	virtio_pci_interrupt(t, VIRTIO_CONFIG_CHANGE); /* masked: pending */
	virtio_pause(vdev);
	uint64_t acked = vdev->acked_features, bar = t->pci.bar0;
	save(&out);

	new_restored(state);
	bus_read(&vm.mmio, BAR, &v, 4);
	assert_int_equal(v, UINT32_MAX); /* its place comes from the snapshot */
	assert_int_equal(virtio_load_features(vdev, OFFERED, acked, &err), 0);
	put16(0x12002, 5);
	put16(0x11002, 5);
	assert_int_equal(load(out.text, out.len, &err), 0);
	assert_int_equal(t->pci.bar0, bar);
	assert_int_equal(n_activate, 1);
	assert_int_equal(vdev->queue[0].next_avail, 5);
	assert_int_equal(vdev->queue[0].next_used, 5);
	assert_int_equal(rd(0x14, 1), 0xf);
	assert_int_equal(rd(0x1a, 2), 2);
	save(&again);
	assert_string_equal(again.text, out.text);
	wr(0x6000, 0, 2);
	assert_int_equal(n_notify, 0); /* paused until the resume */
	virtio_resume(vdev, true);
	assert_true(resumed_restored);
	assert_int_equal(n_notify, QUEUES);
	assert_int_equal(n_msi, QUEUES);
	wr(0x800c, 0, 4); /* the pending one comes */
	assert_int_equal(n_msi, QUEUES + 1);
	assert_int_equal(rd(0x2000, 1), 2);
	assert_int_equal(cfg_read(0x94, 1), 0);
	assert_int_equal(cfg_read(0x8c, 4), 0x12);
}

static void inactive_round_trip(void **state)
{
	autostrbuf struct strbuf out = {};
	struct err err = {};

	save(&out);
	new_restored(state);
	assert_int_equal(load(out.text, out.len, &err), 0);
	assert_int_equal(n_activate, 0);
	assert_int_equal(t->pci.bar0, BAR);
	virtio_resume(vdev, true);
	assert_int_equal(n_msi, 0);
	start();
}

/* The state with one piece replaced by another. */
static void edit(struct strbuf *s, const char *from, const char *to)
{
	autostrbuf struct strbuf old = *s;
	char *at = strstr(old.text, from);

	assert_non_null(at);
	*s = (struct strbuf){};
	strbuf_add(s, old.text, (size_t)(at - old.text));
	strbuf_puts(s, to);
	strbuf_puts(s, at + strlen(from));
}

static void load_rejects(void **state)
{
	static const struct {
		const char *from, *to, *msg;
	} cases[] = {
		{ "\"msix_config\":{\"snap", "\"x\":{\"snap", "state.json: no node 'msix_config'" },
		{ "\"pci_configuration\"", "\"y\"", "state.json: no node 'pci_configuration'" },
		{ "\"virtio_pci_common_config\"", "\"z\"", "state.json: no node 'virtio_pci_common_config'" },
		{ "\\\"device_activated\\\":true,", "", "state.json\n_virtio-pci-net7.device_activated: missing" },
		{ "\\\"max_size\\\":64,\\\"size\\\":16", "\\\"max_size\\\":64,\\\"size\\\":128",
		  "state.json: _virtio-pci-net7: queue 0 has size 128 of 64, configured is 64" },
		{ "\\\"max_size\\\":64", "\\\"max_size\\\":128",
		  "state.json: _virtio-pci-net7: queue 0 has size 16 of 128, configured is 64" },
		{ "\\\"size\\\":16", "\\\"size\\\":17",
		  "state.json\n_virtio-pci-net7.queues[0].size: 17 is not a power of two" },
		{ "\\\"desc_table\\\":65536", "\\\"desc_table\\\":65544",
		  "state.json: _virtio-pci-net7: its queues are not in guest RAM" },
		{ "\\\"avail_ring\\\":69632", "\\\"avail_ring\\\":1048576",
		  "state.json: _virtio-pci-net7: its queues are not in guest RAM" },
		{ "\\\"cap_pci_cfg_offset\\\":134", "\\\"cap_pci_cfg_offset\\\":4090",
		  "state.json: _virtio-pci-net7: cap_pci_cfg_offset is 4090, expected 134" },
		{ "\\\"msix_queues\\\":[1,2]", "\\\"msix_queues\\\":[1]",
		  "state.json: _virtio-pci-net7: msix_queues has 1 entries, expected 2" },
		{ "\\\"msix_cap_reg_idx\\\":38", "\\\"msix_cap_reg_idx\\\":39",
		  "state.json: _virtio-pci-net7: pci_configuration is not that of a fake device" },
		{ "Memory64BitRegion", "Memory32BitRegion",
		  "state.json: _virtio-pci-net7: pci_configuration is not that of a fake device" },
		{ "\\\"size\\\":4294443008", "\\\"size\\\":4294901760",
		  "state.json: _virtio-pci-net7: pci_configuration is not that of a fake device" },
		{ "[272702196,", "[272833268,",
		  "state.json: _virtio-pci-net7: pci_configuration is not that of a fake device" },
		{ "\\\"pba_entries\\\":[0]", "\\\"pba_entries\\\":[0,0]",
		  "_virtio-pci-net7: msix_config has 3 vectors and 2 pending words, expected 3 and 1" },
	};
	autostrbuf struct strbuf good = {};

	start();
	save(&good);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autostrbuf struct strbuf s = {};
		struct err err = {};
		strbuf_puts(&s, good.text);
		edit(&s, cases[i].from, cases[i].to);
		new_restored(state);
		assert_true(load(s.text, s.len, &err) < 0);
		assert_string_equal(err.msg, cases[i].msg);
		assert_false(vdev->active);
	}
	struct err err = {}; /* the text itself was good, but another device has the place */
	new_restored(state);
	struct bus_range taken = { .base = BAR + 4096, .size = 16 };
	assert_int_equal(bus_add(&vm.mmio, &taken, &err), 0);
	assert_true(load(good.text, good.len, &err) < 0);
	assert_string_equal(err.msg, "state.json: _virtio-pci-net7\n"
				     "device registers at 0x3fffff800000 are in another device's place");
}

/* Vectors out of a file are bounded like those of the guest. */
static void loaded_vectors(void **state)
{
	autostrbuf struct strbuf s = {};
	struct err err = {};

	start();
	save(&s);
	edit(&s, "\\\"msix_queues\\\":[1,2]", "\\\"msix_queues\\\":[3,65534]");
	edit(&s, "\\\"msix_config\\\":0,", "\\\"msix_config\\\":1000,");
	new_restored(state);
	assert_int_equal(load(s.text, s.len, &err), 0);
	assert_int_equal(t->msix_queues[0], 0xffff);
	assert_int_equal(t->msix_queues[1], 0xffff);
	assert_int_equal(t->msix_config, 0xffff);
}

static void attach_fails_cleanly(void **state)
{
	struct virtio_pci *none = NULL;
	struct err err = {};

	(void)state;
	for (unsigned full = 0; full < 2; full++) {
		struct fake *f = calloc(1, sizeof(*f));
		assert_int_equal(virtio_init(&f->vdev, &plain_ops, &vm.mem, "x", 1, 64, &err), 0);
		if (full) { /* no register space left */
			vm.pci.top64 = 0;
			assert_true(virtio_pci_attach(&env, &f->vdev, &(struct pci_place){}, &none, &err) < 0);
			assert_non_null(strstr(err.msg, "device 'x'\nno room"));
		} else {
			assert_true(virtio_pci_attach(&env, &f->vdev, &(struct pci_place){ .slot = SLOT }, &none,
						      &err) < 0);
			assert_string_equal(err.msg, "Failed to find an available PCI device ID\n"
						     "Valid PCI device identifier but already used: 1");
		}
		assert_int_equal(n_free, full + 1);
		assert_int_equal(vm.n_devs, 1);
		assert_ptr_equal(vm.pci.slot[SLOT], &t->pci);
		assert_null(vm.pci.slot[SLOT + 1]);
	}
}

/* The device is idle, then gone; what it had is free. */
static void removal(void **state)
{
	(void)state;
	start();
	struct virtio_pci *second = add_device(&low_ops, "low3", 1);
	unsigned resets = n_reset, freed = n_free, ranges = vm.mmio.n;
	devices_remove(&vm, t);
	assert_int_equal(n_reset, resets + 1);
	assert_int_equal(n_free, freed + 1);
	assert_int_equal(vm.n_devs, 1);
	assert_ptr_equal(vm.dev[0], second);
	assert_null(vm.pci.slot[SLOT]);
	assert_int_equal(vm.mmio.n, ranges - 1);
	t = add_device(&fake_ops, "net8", 2);
	assert_int_equal(t->pci.slot, SLOT);
	assert_int_equal(t->pci.bar0, BAR);
	assert_ptr_equal(vm.dev[1], t);
}

static void device_tree(void **state)
{
	autostrbuf struct strbuf out = {};

	(void)state;
	virtio_pci_tree(t, &out);
	assert_string_equal(
		out.text,
		"\"_virtio-pci-net7\":{\"id\":\"_virtio-pci-net7\",\"resources\":[{\"PciBar\":{\"index\":0,"
		"\"base\":70368735789056,\"size\":524288,\"type_\":\"Mmio64\",\"prefetchable\":false}}],"
		"\"children\":[\"net7\"],\"pci_bdf\":\"0000:00:01.0\"},"
		"\"net7\":{\"id\":\"net7\",\"resources\":[],\"parent\":\"_virtio-pci-net7\",\"children\":[]}");
}

#define T(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(header_and_capabilities),
		T(capabilities_without_config),
		T(writable_config_space),
		T(window_in_config_space),
		T(bar_moves_by_the_guest),
		T(registers_at_reset),
		T(feature_negotiation),
		T(queue_registers),
		T(vectors),
		T(life),
		T(broken_ring),
		T(rings_outside_ram),
		T(chain_and_interrupt),
		T(pause_and_resume),
		T(loaded_features),
		T(too_many_queues),
		T(round_trip),
		T(inactive_round_trip),
		T(load_rejects),
		T(loaded_vectors),
		T(attach_fails_cleanly),
		T(removal),
		T(device_tree),
	};

	return cmocka_run_group_tests_name("virtio_pci", tests, NULL, NULL);
}
