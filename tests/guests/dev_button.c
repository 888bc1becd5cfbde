/* SPDX-License-Identifier: Apache-2.0 */
/* The power button as ACPI has it: an edge on line 13, and a register that says why and forgets it when it is read. */
#include "devices.h"

#define IOAPIC 0xfec00000ul
#define GED_LINE 13

static uintptr_t events;
static unsigned vector;
static uint64_t seen;

void button_open(void)
{
	events = option_number("ged", 0);
	if (!events)
		return;
	map_range(events & ~(PAGE - 1), PAGE);
	vector = vector_alloc();
	write32(IOAPIC, 0x10 + 2 * GED_LINE + 1);
	write32(IOAPIC + 0x10, 0);
	write32(IOAPIC, 0x10 + 2 * GED_LINE);
	write32(IOAPIC + 0x10, vector);
	print("button: vector %x\n", vector);
}

void button_round(unsigned cpu)
{
	if (cpu != 0 || !events || irq_count[vector] == seen)
		return;
	seen++;
	print("button: interrupt %lu, events %x", seen, read8(events));
	print(", then %x\n", read8(events));
}
