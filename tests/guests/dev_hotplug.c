/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI hot-plug as ACPI's byte code does it, between two rounds: what came is driven from then on, what is to go is let go of
 * and ejected.
 */
#include "devices.h"
#include "pci.h"

#define PCIU 0 /* slots that came, cleared by the read */
#define PCID 4 /* slots that are to go, likewise */
#define EJECT 8
#define SEGMENT 12

static uintptr_t block;
static unsigned ejects;
static uint32_t throws; /* slots to eject that nobody asked for */

void hotplug_open(void)
{
	block = option_number("hotplug", 0);
	ejects = (unsigned)option_number("eject", 1);
	throws = (uint32_t)option_number("throw", 0);
	if (!block)
		return;
	map_range(block & ~(PAGE - 1), PAGE);
	print("hotplug: registers %x %x %x %x\n", read32(block + PCIU), read32(block + PCID), read32(block + EJECT),
	      read32(block + SEGMENT));
}

static void eject(unsigned slot)
{
	uint32_t id = pci_read(slot, 0, 4);
	write32(block + SEGMENT, 0);
	write32(block + EJECT, 1u << slot);
	uint32_t after = pci_read(slot, 0, 4);
	print("hotplug: slot %u ejected, id %x, then %x\n", slot, id, after);
}

void hotplug_round(void)
{
	if (!block)
		return;
	write32(block + SEGMENT, 0);
	uint32_t up = read32(block + PCIU), down = read32(block + PCID);
	if (up || down)
		print("hotplug: up %x down %x\n", up, down);
	down |= throws;
	throws = 0;
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		if (up >> slot & 1)
			device_came(slot);
		if (!(down >> slot & 1) || !ejects)
			continue;
		if (pci_read(slot, 0, 2) == 0x1af4)
			device_goes(slot);
		eject(slot);
	}
}
