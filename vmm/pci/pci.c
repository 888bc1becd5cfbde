// SPDX-License-Identifier: Apache-2.0
/* PCI configuration space: header, capabilities, BAR 0, and the two ways of access. */
#include "vmm/pci/pci.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/core/bus.h"

enum {
	REG_CLASS = 2,
	REG_SUBSYSTEM = 11,
	REG_CAP_POINTER = 13,
	REG_INTERRUPT = 15,
	STATUS_CAPABILITIES = 0x10,
	FIRST_CAPABILITY = 0x40,
	BAR_TYPE_64 = 4,
	BAR64_ALIGN = 8 << 20,
};

static const char *const bar_types[] = { "Memory32BitRegion", "Memory64BitRegion", NULL };

static const struct field bar_fields[] = {
	F(struct pci_bar, addr, .flags = F_REQUIRED),
	F(struct pci_bar, size, .flags = F_REQUIRED),
	F(struct pci_bar, used, .flags = F_REQUIRED),
	{ F_ROW(struct pci_bar, type, F_M(struct pci_bar, type), FK_OPTIONAL), .type = FT_ENUM, .names = bar_types,
	  .count_offset = offsetof(struct pci_bar, has_type), .flags = F_NULL },
	F_END,
};

const struct field pci_config_fields[] = {
	F_ARRAY(struct pci_config, registers, .flags = F_REQUIRED),
	F_ARRAY(struct pci_config, writable_bits, .flags = F_REQUIRED),
	F_OBJ_ARRAY(struct pci_config, bars, bar_fields, .flags = F_REQUIRED),
	F(struct pci_config, rom_bar_addr, .flags = F_REQUIRED),
	F(struct pci_config, rom_bar_size, .flags = F_REQUIRED),
	F(struct pci_config, rom_bar_used, .flags = F_REQUIRED),
	F_ARRAY(struct pci_config, last_capability, .flags = F_REQUIRED),
	F(struct pci_config, msix_cap_reg_idx, .flags = F_REQUIRED, .max = PCI_CONFIG_DWORDS - 1),
	F_EMPTY_LIST("pending_bar_reprogram"),
	F_END,
};

void pci_device_init(struct pci_device *dev, uint16_t vendor, uint16_t device, uint32_t class_code, uint8_t revision)
{
	struct pci_config *c = &dev->cfg;

	c->registers[0] = (uint32_t)device << 16 | vendor;
	c->registers[REG_CLASS] = class_code << 8 | revision;
	c->writable_bits[PCI_REG_COMMAND] = 0xffff;
	c->writable_bits[3] = 0xff; /* cache line size */
	c->writable_bits[REG_INTERRUPT] = 0xff;
}

void pci_bus_init(struct pci_bus *bus, uint64_t top32, uint64_t top64)
{
	*bus = (struct pci_bus){ .lock = PTHREAD_MUTEX_INITIALIZER, .top32 = top32, .top64 = top64 };
	pci_device_init(&bus->host_bridge, 0x8086, 0x0d57, 0x060000, 0);
	bus->slot[0] = &bus->host_bridge;
}

/* The lowest BAR that is decoded in [base, base + size); NULL: none. */
static const struct pci_device *find_bar(const struct pci_bus *bus, uint64_t base, uint32_t size)
{
	const struct pci_device *found = NULL;

	for (unsigned i = 1; i < PCI_SLOTS; i++) {
		const struct pci_device *d = bus->slot[i];
		if (d && d->bar0_bytes && d->bar0 < base + size && base < d->bar0 + d->bar0_bytes &&
		    (!found || d->bar0 < found->bar0))
			found = d;
	}
	return found;
}

int pci_alloc_bar0(struct pci_bus *bus, struct pci_device *dev, uint32_t size, bool bar32, uint64_t lowest,
		   struct err *err)
{
	uint64_t align = bar32 ? size : BAR64_ALIGN, top = bar32 ? bus->top32 : bus->top64, base = 0;
	const struct pci_device *in_the_way = NULL;
	struct pci_config *c = &dev->cfg;

	do {
		if (top < size || ((top - size) & ~(align - 1)) < lowest)
			return err_set(err, ERR_INTERNAL, "no room for another device's registers below 0x%llx",
				       (unsigned long long)top);
		base = (top - size) & ~(align - 1);
		in_the_way = find_bar(bus, base, size);
		top = in_the_way ? in_the_way->bar0 : top;
	} while (in_the_way);
	uint32_t mask = ~(size - 1);
	c->bars[0] = (struct pci_bar){
		.addr = (uint32_t)base | (bar32 ? 0 : BAR_TYPE_64),
		.size = mask,
		.used = true,
		.has_type = true,
		.type = bar32 ? PCI_BAR_MEMORY32 : PCI_BAR_MEMORY64,
	};
	if (!bar32)
		c->bars[1] = (struct pci_bar){ .addr = (uint32_t)(base >> 32), .size = UINT32_MAX, .used = true };
	c->registers[PCI_REG_BAR0] = c->bars[0].addr;
	c->writable_bits[PCI_REG_BAR0] = 0xfffffff0;
	if (!bar32) {
		c->registers[PCI_REG_BAR0 + 1] = c->bars[1].addr;
		c->writable_bits[PCI_REG_BAR0 + 1] = UINT32_MAX;
	}
	dev->bar0 = base;
	dev->bar0_bytes = size;
	return 0;
}

static void put_bytes(struct pci_config *c, unsigned offset, const void *data, unsigned len)
{
	memcpy((char *)c->registers + offset, data, len);
}

unsigned pci_add_capability(struct pci_device *dev, uint8_t id, const void *body, unsigned bytes)
{
	struct pci_config *c = &dev->cfg;
	unsigned offset = c->last_capability[0] ? (c->last_capability[0] + c->last_capability[1] + 3) & ~3U
						: FIRST_CAPABILITY;

	if (c->last_capability[0])
		put_bytes(c, c->last_capability[0] + 1, &(uint8_t){ (uint8_t)offset }, 1);
	else
		c->registers[REG_CAP_POINTER] = offset;
	put_bytes(c, offset, &id, 1);
	put_bytes(c, offset + 2, body, bytes);
	c->registers[PCI_REG_COMMAND] |= STATUS_CAPABILITIES << 16;
	c->last_capability[0] = offset;
	c->last_capability[1] = bytes + 2;
	return offset;
}

int pci_find_slot(struct pci_bus *bus, unsigned wanted, unsigned *ret_slot, struct err *err)
{
	unsigned slot = wanted ? wanted : 1;

	pthread_mutex_lock(&bus->lock);
	while (!wanted && slot < PCI_SLOTS && bus->slot[slot])
		slot++;
	bool is_free = slot < PCI_SLOTS && !bus->slot[slot];
	pthread_mutex_unlock(&bus->lock);
	if (is_free) {
		*ret_slot = slot;
		return 0;
	}
	if (wanted)
		err_set(err, ERR_INTERNAL, "Valid PCI device identifier but already used: %u", slot);
	else
		err_set(err, ERR_INTERNAL, "Could not find an available device slot on the PCI bus");
	return err_wrap(err, "Failed to find an available PCI device ID");
}

int pci_attach(struct pci_bus *bus, struct pci_device *dev, unsigned wanted_slot, struct err *err)
{
	if (pci_find_slot(bus, wanted_slot, &dev->slot, err) < 0)
		return err->num;
	bus->slot[dev->slot] = dev;
	return 0;
}

void pci_detach(struct pci_bus *bus, struct pci_device *dev)
{
	if (bus->slot[dev->slot] == dev)
		bus->slot[dev->slot] = NULL;
}

bool pci_eject(struct pci_bus *bus, unsigned slot)
{
	pthread_mutex_lock(&bus->lock);
	struct pci_device *dev = slot < PCI_SLOTS ? bus->slot[slot] : NULL;
	bool goes = dev && dev->ejectable;
	if (goes) {
		dev->ejected = true;
		bus->slot[slot] = NULL;
	}
	pthread_mutex_unlock(&bus->lock);
	return goes;
}

void pci_bdf(const struct pci_device *dev, char ret_text[PCI_BDF_BYTES])
{
	snprintf(ret_text, PCI_BDF_BYTES, "0000:00:%02x.0", dev->slot % PCI_SLOTS);
}

uint64_t pci_bar0_address(const struct pci_config *cfg)
{
	uint64_t low = cfg->registers[PCI_REG_BAR0] & 0xfffffff0;

	return cfg->bars[0].type == PCI_BAR_MEMORY64 ? low | (uint64_t)cfg->registers[PCI_REG_BAR0 + 1] << 32 : low;
}

/*
 * Clears the bits of the BAR registers that are below its size: a guest finds the size out that
 * way.
 */
static void update_bar(struct pci_device *dev)
{
	struct pci_config *c = &dev->cfg;

	if (!c->bars[0].used)
		return;
	c->registers[PCI_REG_BAR0] = (c->registers[PCI_REG_BAR0] & c->bars[0].size) |
				     (c->bars[0].type == PCI_BAR_MEMORY64 ? BAR_TYPE_64 : 0);
	uint64_t to = pci_bar0_address(c);
	if (!(c->registers[PCI_REG_COMMAND] & PCI_COMMAND_MEMORY) || to == dev->bar0 || to == 0)
		return;
	if (!dev->move_bar || !dev->move_bar(dev, dev->bar0, to))
		return;
	c->bars[0].addr = c->registers[PCI_REG_BAR0];
	c->bars[1].addr = c->bars[1].used ? c->registers[PCI_REG_BAR0 + 1] : 0;
	dev->bar0 = to;
}

static void config_read(struct pci_device *dev, unsigned reg, unsigned off, void *data, unsigned len)
{
	if (dev->before_read)
		dev->before_read(dev, reg);
	memcpy(data, (char *)&dev->cfg.registers[reg] + off, len);
}

static void config_write(struct pci_device *dev, unsigned reg, unsigned off, const void *data, unsigned len)
{
	struct pci_config *c = &dev->cfg;
	uint32_t value = c->registers[reg], mask = c->writable_bits[reg];

	memcpy((char *)&value + off, data, len);
	c->registers[reg] = (c->registers[reg] & ~mask) | (value & mask);
	if (reg == PCI_REG_COMMAND || reg == PCI_REG_BAR0 || reg == PCI_REG_BAR0 + 1)
		update_bar(dev);
	if (dev->after_write)
		dev->after_write(dev, reg, off, data, len);
}

/*
 * The device behind an ECAM address (bus << 20 | slot << 15 | function << 12 | register); no access
 * crosses a dword.
 */
static struct pci_device *target(const struct pci_bus *bus, uint32_t address, unsigned len)
{
	bool there = !(address >> 20) && !(address >> 12 & 7) && (address & 3) + len <= 4;

	return there ? bus->slot[address >> 15 & 31] : NULL;
}

static void pci_read(struct pci_bus *bus, uint32_t address, void *data, unsigned len)
{
	memset(data, 0xff, len);
	pthread_mutex_lock(&bus->lock);
	struct pci_device *dev = target(bus, address, len);
	if (dev)
		config_read(dev, (address & 0xfff) / 4, address & 3, data, len);
	pthread_mutex_unlock(&bus->lock);
}

static void pci_write(struct pci_bus *bus, uint32_t address, const void *data, unsigned len)
{
	pthread_mutex_lock(&bus->lock);
	struct pci_device *dev = target(bus, address, len);
	if (dev)
		config_write(dev, (address & 0xfff) / 4, address & 3, data, len);
	pthread_mutex_unlock(&bus->lock);
}

enum { CONFIG_ADDRESS_ENABLE = 1U << 31, PORT_DATA = 4 };

/* Bus, slot, function and register of port 0xcf8, moved to where ECAM has them. */
static uint32_t port_target(const struct pci_bus *bus, unsigned off)
{
	uint32_t a = bus->address;

	return (a >> 16 & 0xff) << 20 | (a >> 11 & 31) << 15 | (a >> 8 & 7) << 12 | (a & 0xfc) | off;
}

void pci_port_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	struct pci_bus *bus = opaque;

	if (off < PORT_DATA)
		reg_put(data, len, off + len <= 4 ? bus->address >> 8 * off : UINT64_MAX);
	else if (bus->address & CONFIG_ADDRESS_ENABLE)
		pci_read(bus, port_target(bus, (unsigned)off - PORT_DATA), data, len);
	else
		memset(data, 0xff, len);
}

void pci_port_write(void *opaque, uint64_t off, const void *data, unsigned len)
{
	struct pci_bus *bus = opaque;

	if (off == 0 && len == 4)
		bus->address = (uint32_t)reg_get(data, len);
	else if (off >= PORT_DATA && (bus->address & CONFIG_ADDRESS_ENABLE))
		pci_write(bus, port_target(bus, (unsigned)off - PORT_DATA), data, len);
}

void pci_ecam_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	pci_read(opaque, (uint32_t)off, data, len);
}

void pci_ecam_write(void *opaque, uint64_t off, const void *data, unsigned len)
{
	pci_write(opaque, (uint32_t)off, data, len);
}
