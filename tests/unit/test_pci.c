// SPDX-License-Identifier: Apache-2.0
/* vmm/pci: both ways into configuration space at every width, writable bits, capabilities, BARs that are sized and moved. */
#include "vmm/pci/pci.h"

#include "tests/unit/unit.h"

#include <errno.h>

enum { CF8 = 0, CFC = 4, BAR_BYTES = 512 << 10 };
#define TOP32 0xe8000000ULL
#define TOP64 0x3fffffef0000ULL
#define NOBODY 0xffffffffU

static struct pci_bus bus;
static struct pci_device dev;
static unsigned n_moves, n_reads, n_writes, last_reg, last_off, last_len;
static uint64_t moved_from, moved_to;
static bool refuse_move;

static bool on_move(struct pci_device *d, uint64_t from, uint64_t to)
{
	assert_ptr_equal(d, &dev);
	n_moves++;
	moved_from = from;
	moved_to = to;
	return !refuse_move;
}

static void on_read(struct pci_device *d, unsigned reg)
{
	n_reads++;
	last_reg = reg;
	if (reg == 0x40)
		d->cfg.registers[reg] = 0xc0ffee00 + n_reads;
}

static void on_write(struct pci_device *d, unsigned reg, unsigned off, const void *data, unsigned len)
{
	(void)d;
	(void)data;
	n_writes++;
	last_reg = reg;
	last_off = off;
	last_len = len;
}

static int make(void **state)
{
	struct err err = {};

	(void)state;
	pci_bus_init(&bus, TOP32, TOP64);
	dev = (struct pci_device){ .move_bar = on_move, .before_read = on_read, .after_write = on_write };
	pci_device_init(&dev, 0x1af4, 0x1042, 0x018000, 1);
	n_moves = n_reads = n_writes = 0;
	refuse_move = false;
	return pci_attach(&bus, &dev, 2, &err);
}

static uint32_t address(unsigned b, unsigned slot, unsigned fn, unsigned reg)
{
	return 1U << 31 | b << 16 | slot << 11 | fn << 8 | reg;
}

static uint64_t port_read(uint64_t off, unsigned len)
{
	uint64_t v = 0;

	pci_port_read(&bus, off, &v, len);
	return v;
}

static void port_write(uint64_t off, uint64_t v, unsigned len)
{
	pci_port_write(&bus, off, &v, len);
}

static uint64_t ecam_read(uint64_t off, unsigned len)
{
	uint64_t v = 0;

	pci_ecam_read(&bus, off, &v, len);
	return v;
}

static void ecam_write(uint64_t off, uint64_t v, unsigned len)
{
	pci_ecam_write(&bus, off, &v, len);
}

static void host_bridge_and_identity(void **state)
{
	(void)state;
	assert_int_equal(ecam_read(0, 4), 0x0d578086);
	assert_int_equal(ecam_read(8, 4), 0x06000000);
	assert_int_equal(ecam_read(2 << 15, 4), 0x10421af4);
	assert_int_equal(ecam_read(2 << 15 | 8, 4), 0x01800001);
	assert_int_equal(ecam_read(2 << 15 | 4, 4), 0);
	assert_int_equal(ecam_read(2 << 15 | 0x3c, 4), 0);
	assert_int_equal(ecam_read(2 << 15 | 0xc, 4), 0);
}

static void both_ways_all_widths(void **state)
{
	(void)state;
	dev.cfg.registers[0x10] = 0x44332211;
	for (unsigned len = 1; len <= 8; len *= 2) {
		uint64_t mask = len == 8 ? UINT64_MAX : (1ULL << 8 * len) - 1;
		for (unsigned off = 0; off < 4; off++) {
			uint64_t want = off + len <= 4 ? 0x44332211U >> 8 * off & mask : mask;
			assert_int_equal(ecam_read(2 << 15 | 0x40 | off, len), want);
			if (off + len > 4) /* never seen on the ports: the bus has them end at 0xcff */
				continue;
			port_write(CF8, address(0, 2, 0, 0x40), 4);
			assert_int_equal(port_read(CFC + off, len), want);
			port_write(CF8, address(0, 2, 0, 0x43), 4); /* bits 0 and 1 do not count */
			assert_int_equal(port_read(CFC + off, len), want);
		}
	}
	dev.cfg.registers[0x3ff] = 0xfeedbeef;
	assert_int_equal(ecam_read(2 << 15 | 0xffc, 4), 0xfeedbeef);
}

static void writes_of_all_widths(void **state)
{
	(void)state;
	for (unsigned len = 1; len <= 4; len *= 2) {
		for (unsigned off = 0; off + len <= 4; off++) {
			for (unsigned ports = 0; ports < 2; ports++) {
				uint32_t bytes = len == 4 ? UINT32_MAX : (1U << 8 * len) - 1, want = bytes << 8 * off;
				dev.cfg.registers[0x20] = 0;
				dev.cfg.writable_bits[0x20] = UINT32_MAX;
				n_writes = 0;
				port_write(CF8, address(0, 2, 0, 0x80), 4);
				if (ports)
					port_write(CFC + off, UINT32_MAX, len);
				else
					ecam_write(2 << 15 | 0x80 | off, UINT32_MAX, len);
				assert_int_equal(dev.cfg.registers[0x20], want);
				assert_int_equal(n_writes, 1);
				assert_int_equal(last_reg, 0x20);
				assert_int_equal(last_off, off);
				assert_int_equal(last_len, len);
			}
		}
	}
	ecam_write(2 << 15 | 0x82, UINT32_MAX, 4); /* across a dword: vanishes */
	ecam_write(2 << 15 | 0x80, UINT64_MAX, 8);
	assert_int_equal(n_writes, 1);
}

static void address_register(void **state)
{
	(void)state;
	port_write(CF8, 0x80001008, 4);
	assert_int_equal(port_read(CF8, 4), 0x80001008);
	assert_int_equal(port_read(CF8, 1), 0x08);
	assert_int_equal(port_read(CF8 + 1, 1), 0x10);
	assert_int_equal(port_read(CF8 + 2, 2), 0x8000);
	assert_int_equal(port_read(CF8 + 3, 1), 0x80);
	port_write(CF8, 0x11, 1); /* only a whole dword counts */
	port_write(CF8 + 1, 0x11, 1);
	port_write(CF8, 0x1111, 2);
	assert_int_equal(port_read(CF8, 4), 0x80001008);
	assert_int_equal(port_read(CFC, 4), 0x01800001);
	port_write(CF8, 0x00001008, 4); /* not enabled */
	assert_int_equal(port_read(CFC, 4), NOBODY);
	assert_int_equal(port_read(CFC, 1), 0xff);
	dev.cfg.writable_bits[2] = UINT32_MAX;
	port_write(CFC, 0, 4);
	assert_int_equal(dev.cfg.registers[2], 0x01800001);
}

static void nobody_there(void **state)
{
	static const struct {
		unsigned b, slot, fn;
	} cases[] = {
		{ 0, 1, 0 }, { 0, 31, 0 },  { 0, 2, 1 },   { 0, 2, 7 },
		{ 1, 2, 0 }, { 255, 2, 0 }, { 128, 0, 0 }, { 255, 31, 7 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint64_t at = (uint64_t)cases[i].b << 20 | cases[i].slot << 15 | cases[i].fn << 12;
		port_write(CF8, address(cases[i].b, cases[i].slot, cases[i].fn, 0), 4);
		assert_int_equal(port_read(CFC, 4), NOBODY);
		assert_int_equal(port_read(CFC + 2, 2), 0xffff);
		assert_int_equal(ecam_read(at, 4), NOBODY);
		assert_int_equal(ecam_read(at | 2, 2), 0xffff);
		port_write(CFC, 0, 4);
		ecam_write(at | 4, UINT32_MAX, 4);
	}
	assert_int_equal(n_writes, 0);
	assert_int_equal(dev.cfg.registers[1], 0);
}

static void writable_bits(void **state)
{
	static const struct {
		unsigned reg;
		uint32_t set;
	} rows[] = {
		{ 0, 0x10421af4 },    { 0x4, 0x0000ffff }, { 0x8, 0x01800001 },   { 0xc, 0x000000ff }, { 0x10, 0 },
		{ 0x14, 0 },          { 0x18, 0 },         { 0x2c, 0 },           { 0x30, 0 },         { 0x34, 0 },
		{ 0x3c, 0x000000ff }, { 0x40, 0 },         { 0x100, 0xc0ffee01 }, { 0xffc, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ecam_write(2 << 15 | rows[i].reg, UINT32_MAX, 4);
		n_reads = 0;
		assert_int_equal(ecam_read(2 << 15 | rows[i].reg, 4), rows[i].set);
	}
}

static void before_read_is_asked(void **state)
{
	(void)state;
	assert_int_equal(ecam_read(2 << 15 | 0x101, 1), 0xee);
	assert_int_equal(ecam_read(2 << 15 | 0x100, 4), 0xc0ffee02);
	assert_int_equal(last_reg, 0x40);
	assert_int_equal(n_reads, 2);
}

static void capabilities(void **state)
{
	static const uint8_t want[] = {
		0x09, 0x48, 'a', 'b', 'c', 0,   0,   0,   /* 0x40: five bytes, rounded up to the next dword */
		0x09, 0x4c, 'd', 'e',                     /* 0x48 */
		0x11, 0x00, 'f', 'g', 'h', 'i', 'j', 'k', /* 0x4c */
	};

	(void)state;
	assert_int_equal(ecam_read(2 << 15 | 6, 2), 0);
	assert_int_equal(pci_add_capability(&dev, 9, "abc", 3), 0x40);
	assert_int_equal(dev.cfg.last_capability[0], 0x40);
	assert_int_equal(dev.cfg.last_capability[1], 5);
	assert_int_equal(pci_add_capability(&dev, 9, "de", 2), 0x48);
	assert_int_equal(pci_add_capability(&dev, 0x11, "fghijk", 6), 0x4c);
	assert_int_equal(ecam_read(2 << 15 | 6, 2), 0x10);
	assert_int_equal(ecam_read(2 << 15 | 0x34, 4), 0x40);
	assert_memory_equal((char *)dev.cfg.registers + 0x40, want, sizeof(want));
}

static void slots(void **state)
{
	static struct pci_device other[PCI_SLOTS];
	struct err err = {};

	(void)state;
	memset(other, 0, sizeof(other));
	assert_int_equal(pci_attach(&bus, &other[0], 0, &err), 0);
	assert_int_equal(other[0].slot, 1);
	assert_int_equal(pci_attach(&bus, &other[1], 0, &err), 0);
	assert_int_equal(other[1].slot, 3); /* 2 is taken */
	assert_int_equal(pci_attach(&bus, &other[2], 2, &err), -EIO);
	assert_string_equal(err.msg, "Failed to find an available PCI device ID\n"
				     "Valid PCI device identifier but already used: 2");
	assert_int_equal(pci_attach(&bus, &other[2], 32, &err), -EIO);
	assert_int_equal(pci_attach(&bus, &other[2], 31, &err), 0);
	for (unsigned i = 4; i < 31; i++) {
		assert_int_equal(pci_attach(&bus, &other[i], 0, &err), 0);
		assert_int_equal(other[i].slot, i);
	}
	assert_int_equal(pci_attach(&bus, &other[3], 0, &err), -EIO);
	assert_string_equal(err.msg, "Failed to find an available PCI device ID\n"
				     "Could not find an available device slot on the PCI bus");
	pci_detach(&bus, &other[7]);
	assert_int_equal(pci_attach(&bus, &other[3], 0, &err), 0);
	assert_int_equal(other[3].slot, 7);
	pci_detach(&bus, &other[7]); /* not its slot any more */
	assert_ptr_equal(bus.slot[7], &other[3]);
}

/* The guest sees an empty slot at once; what must stay stays. */
static void ejection(void **state)
{
	static struct pci_device other;
	struct err err = {};
	char bdf[PCI_BDF_BYTES];

	(void)state;
	other = (struct pci_device){ .ejectable = true };
	pci_device_init(&other, 0x1af4, 0x1041, 0x020000, 1);
	assert_int_equal(pci_attach(&bus, &other, 27, &err), 0);
	pci_bdf(&other, bdf);
	assert_string_equal(bdf, "0000:00:1b.0");
	assert_int_equal(ecam_read(27 << 15, 4), 0x10411af4);
	assert_false(pci_eject(&bus, 0)); /* the host bridge */
	assert_false(pci_eject(&bus, 2)); /* not ejectable */
	assert_false(pci_eject(&bus, 5)); /* nothing there */
	assert_false(pci_eject(&bus, PCI_SLOTS));
	assert_false(other.ejected);
	assert_true(pci_eject(&bus, 27));
	assert_true(other.ejected);
	assert_int_equal(ecam_read(27 << 15, 4), 0xffffffff);
	ecam_write(27 << 15 | 4, 0xffff, 2);
	assert_int_equal(other.cfg.registers[1], 0);
	assert_false(pci_eject(&bus, 27));
}

static struct pci_device placed[5];

static uint64_t place(unsigned i, bool bar32, uint64_t lowest)
{
	struct err err = {};

	placed[i] = (struct pci_device){};
	if (pci_alloc_bar0(&bus, &placed[i], BAR_BYTES, bar32, lowest, &err) < 0)
		return 0;
	assert_int_equal(pci_attach(&bus, &placed[i], 0, &err), 0);
	return placed[i].bar0;
}

static void bar_allocation(void **state)
{
	struct pci_device *d = &placed[0];
	struct err err = {};

	(void)state;
	assert_int_equal(place(0, false, TOP32), 0x3fffff800000);
	assert_int_equal(pci_bar0_address(&d->cfg), 0x3fffff800000);
	assert_int_equal(d->cfg.registers[4], 0xff800004);
	assert_int_equal(d->cfg.registers[5], 0x3fff);
	assert_int_equal(d->cfg.bars[0].size, 0xfff80000);
	assert_int_equal(d->cfg.writable_bits[4], 0xfffffff0);
	assert_int_equal(d->cfg.writable_bits[5], UINT32_MAX);
	assert_int_equal(d->cfg.bars[0].addr, 0xff800004);
	assert_int_equal(d->cfg.bars[1].addr, 0x3fff);
	assert_int_equal(d->cfg.bars[1].size, UINT32_MAX);
	assert_true(d->cfg.bars[0].used && d->cfg.bars[1].used && d->cfg.bars[0].has_type && !d->cfg.bars[1].has_type);
	assert_int_equal(place(1, false, TOP32), 0x3fffff000000);
	d = &placed[2];
	assert_int_equal(place(2, true, 0xc0000000), 0xe7f80000);
	assert_int_equal(d->cfg.registers[4], 0xe7f80000);
	assert_int_equal(d->cfg.registers[5], 0);
	assert_false(d->cfg.bars[1].used);
	assert_int_equal(place(3, true, 0xe7f00000), 0xe7f00000);
	d = &placed[4];
	assert_true(pci_alloc_bar0(&bus, d, BAR_BYTES, true, 0xe7f00000, &err) < 0);
	assert_string_equal(err.msg, "no room for another device's registers below 0xe7f00000");
	bus.top32 = BAR_BYTES - 1;
	assert_true(pci_alloc_bar0(&bus, d, BAR_BYTES, true, 0, &err) < 0);
}

/* What a device leaves is given to the next; where the guest moved one to is nobody else's. */
static void bar_places_are_used_again(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(place(i, false, TOP32), 0x3fffff800000 - i * (8ULL << 20));
	pci_detach(&bus, &placed[1]);
	pci_detach(&bus, &placed[2]);
	placed[0].bar0 = 0x3fffff000000 + (1 << 20); /* between the places, across what was 1's */
	assert_int_equal(place(1, false, TOP32), 0x3fffff800000);
	assert_int_equal(place(2, false, TOP32), 0x3fffff000000);
	placed[2].bar0 = 0x3ffffe800000 + (8 << 20) - 4096; /* into it from below: the next free one is further down */
	placed[0].bar0 = 0x3fffff000000 + (4 << 20);
	assert_int_equal(place(4, false, TOP32), 0x3ffffe800000);
}

enum { BAR0 = 2 << 15 | 0x10, BAR1 = 2 << 15 | 0x14, COMMAND = 2 << 15 | 4 };

static void bar64_is_sized_and_moved(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(pci_alloc_bar0(&bus, &dev, BAR_BYTES, false, TOP32, &err), 0);
	ecam_write(BAR0, UINT32_MAX, 4);
	ecam_write(BAR1, UINT32_MAX, 4);
	assert_int_equal(ecam_read(BAR0, 4), 0xfff80004);
	assert_int_equal(ecam_read(BAR1, 4), 0xffffffff);
	ecam_write(BAR0, 0xff800000, 4);
	ecam_write(BAR1, 0x3fff, 4);
	assert_int_equal(ecam_read(BAR0, 4), 0xff800004);
	ecam_write(COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(n_moves, 0); /* where it was */
	ecam_write(COMMAND, 0, 2);
	ecam_write(BAR0, 0x00912345, 4);
	ecam_write(BAR1, 0x2000, 4);
	assert_int_equal(n_moves, 0); /* not while decoding is off */
	ecam_write(COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(n_moves, 1);
	assert_int_equal(moved_from, 0x3fffff800000);
	assert_int_equal(moved_to, 0x200000900000);
	assert_int_equal(dev.bar0, 0x200000900000);
	assert_int_equal(ecam_read(BAR0, 4), 0x00900004);
	assert_int_equal(dev.cfg.bars[0].addr, 0x00900004);
	assert_int_equal(dev.cfg.bars[1].addr, 0x2000);
	ecam_write(BAR1 + 1, 0x30, 1); /* while decoding is on: at once, a byte of it is enough */
	assert_int_equal(moved_to, 0x300000900000);
	refuse_move = true;
	ecam_write(BAR1, 0x1000, 4);
	assert_int_equal(moved_to, 0x100000900000);
	assert_int_equal(dev.bar0, 0x300000900000); /* stays; the register has what was written */
	assert_int_equal(dev.cfg.bars[1].addr, 0x3000);
	assert_int_equal(ecam_read(BAR1, 4), 0x1000);
	refuse_move = false;
	n_moves = 0;
	ecam_write(BAR0, 0, 4);
	assert_int_equal(n_moves, 1);
	ecam_write(BAR1, 0, 4); /* 0 is no place */
	assert_int_equal(n_moves, 1);
	assert_int_equal(dev.bar0, 0x100000000000);
}

static void bar32_is_sized_and_moved(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(pci_alloc_bar0(&bus, &dev, BAR_BYTES, true, 0xc0000000, &err), 0);
	ecam_write(BAR0, UINT32_MAX, 4);
	ecam_write(BAR1, UINT32_MAX, 4);
	assert_int_equal(ecam_read(BAR0, 4), 0xfff80000);
	assert_int_equal(ecam_read(BAR1, 4), 0);
	ecam_write(BAR0, 0xc0080000, 4);
	ecam_write(COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(n_moves, 1);
	assert_int_equal(dev.bar0, 0xc0080000);
	assert_int_equal(dev.cfg.bars[0].addr, 0xc0080000);
	assert_int_equal(dev.cfg.bars[1].addr, 0);
	ecam_write(2 << 15 | 0x3c, 5, 1); /* another register moves nothing */
	assert_int_equal(n_moves, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(host_bridge_and_identity, make),
		cmocka_unit_test_setup(both_ways_all_widths, make),
		cmocka_unit_test_setup(writes_of_all_widths, make),
		cmocka_unit_test_setup(address_register, make),
		cmocka_unit_test_setup(nobody_there, make),
		cmocka_unit_test_setup(writable_bits, make),
		cmocka_unit_test_setup(before_read_is_asked, make),
		cmocka_unit_test_setup(capabilities, make),
		cmocka_unit_test_setup(slots, make),
		cmocka_unit_test_setup(ejection, make),
		cmocka_unit_test_setup(bar_allocation, make),
		cmocka_unit_test_setup(bar_places_are_used_again, make),
		cmocka_unit_test_setup(bar64_is_sized_and_moved, make),
		cmocka_unit_test_setup(bar32_is_sized_and_moved, make),
	};

	return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
