// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/virtio/transport and vmm/virtio/virtio with a device that only counts: common configuration, capabilities byte for
 * byte, the window in configuration space, life of the queues and of the device. Saved state is test_transport_state's.
 */
#include "vmm/virtio/transport.h"

#include "tests/unit/fake_device.h"

#include "vmm/machine/devices.h"

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

/* ---- its place on the bus ---- */

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TRANSPORT_TEST(header_and_capabilities),
		TRANSPORT_TEST(capabilities_without_config),
		TRANSPORT_TEST(writable_config_space),
		TRANSPORT_TEST(window_in_config_space),
		TRANSPORT_TEST(bar_moves_by_the_guest),
		TRANSPORT_TEST(registers_at_reset),
		TRANSPORT_TEST(feature_negotiation),
		TRANSPORT_TEST(queue_registers),
		TRANSPORT_TEST(vectors),
		TRANSPORT_TEST(life),
		TRANSPORT_TEST(broken_ring),
		TRANSPORT_TEST(rings_outside_ram),
		TRANSPORT_TEST(chain_and_interrupt),
		TRANSPORT_TEST(pause_and_resume),
		TRANSPORT_TEST(loaded_features),
		TRANSPORT_TEST(too_many_queues),
		TRANSPORT_TEST(attach_fails_cleanly),
		TRANSPORT_TEST(removal),
	};

	return cmocka_run_group_tests_name("transport", tests, NULL, NULL);
}
