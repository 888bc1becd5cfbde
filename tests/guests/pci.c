/* SPDX-License-Identifier: Apache-2.0 */
/* PCI configuration space access: see pci.h. */
#include "pci.h"

#define ECAM 0xe8000000ul

static struct lock pci_lock;

uint32_t pci_read(unsigned slot, unsigned offset, unsigned bytes)
{
	lock_take(&pci_lock);
	outl(0xcf8, 1u << 31 | slot << 11 | (offset & 0xfc));
	uint16_t port = (uint16_t)(0xcfc + (offset & 3));
	uint32_t v = bytes == 1 ? inb(port) : bytes == 2 ? inw(port) : inl(port);
	lock_drop(&pci_lock);
	return v;
}

void pci_write(unsigned slot, unsigned offset, uint32_t value, unsigned bytes)
{
	lock_take(&pci_lock);
	outl(0xcf8, 1u << 31 | slot << 11 | (offset & 0xfc));
	uint16_t port = (uint16_t)(0xcfc + (offset & 3));
	if (bytes == 1)
		outb(port, (uint8_t)value);
	else if (bytes == 2)
		outw(port, (uint16_t)value);
	else
		outl(port, value);
	lock_drop(&pci_lock);
}

uintptr_t pci_ecam(unsigned slot, unsigned offset)
{
	return ECAM + (slot << 15) + offset;
}

unsigned pci_capability(unsigned slot, unsigned id, unsigned after)
{
	if (!(pci_read(slot, 6, 2) & 0x10))
		return 0;
	unsigned at = after ? after + 1 : 0x34;
	for (unsigned n = 0; n < 48; n++) {
		at = pci_read(slot, at, 1) & 0xfc;
		if (!at)
			return 0;
		if (pci_read(slot, at, 1) == id)
			return at;
		at++;
	}
	fail("pci slot %u: the capability list has no end", slot);
}

uint64_t pci_bar(unsigned slot, unsigned bar)
{
	uint32_t low = pci_read(slot, 0x10 + bar * 4, 4);
	uint64_t high = (low & 6) == 4 ? pci_read(slot, 0x14 + bar * 4, 4) : 0;
	return high << 32 | (low & ~0xfu);
}

uint64_t pci_bar_bytes(unsigned slot, unsigned bar)
{
	unsigned at = 0x10 + bar * 4;
	uint32_t command = pci_read(slot, 4, 2);
	uint32_t low = pci_read(slot, at, 4), high = 0;
	bool wide = (low & 6) == 4;
	pci_write(slot, 4, command & ~3u, 2);
	pci_write(slot, at, ~0u, 4);
	uint64_t mask = (wide ? 0 : ~0ul << 32) | (pci_read(slot, at, 4) & ~0xfu);
	pci_write(slot, at, low, 4);
	if (wide) {
		high = pci_read(slot, at + 4, 4);
		pci_write(slot, at + 4, ~0u, 4);
		mask |= (uint64_t)pci_read(slot, at + 4, 4) << 32;
		pci_write(slot, at + 4, high, 4);
	}
	pci_write(slot, 4, command, 2);
	return ~mask + 1;
}

void pci_check(void)
{
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		for (unsigned at = 0; at < 256; at += 4) {
			uint32_t by_port = pci_read(slot, at, 4), by_ecam = read32(pci_ecam(slot, at));
			if (by_port != by_ecam)
				fail("pci slot %u offset %x: port %x, ecam %x", slot, at, by_port, by_ecam);
			if (at == 0 && by_port == ~0u)
				break;
		}
	}
}
