/* SPDX-License-Identifier: Apache-2.0 */
/* The generation id, where ACPI's tables say that it is, and each id that takes its place. */
#include "devices.h"

#define TABLES 0xa0000ul /* Cloud Hypervisor's place of the tables */
#define TABLES_END 0x100000ul
#define NAME_BYTES 15 /* with the NUL */

static const volatile uint64_t *id;
static uint64_t known[2];

/* The first place of the text from `at` on, behind the text; 0: there is none. */
static uintptr_t behind(uintptr_t at, const char *text, unsigned n)
{
	for (; at + n <= TABLES_END; at++)
		if (memcmp((const void *)at, text, n) == 0)
			return at + n;
	return 0;
}

/* ADDR of the device with the name: Package (2) { the address's lower half, … }, a DWord behind five bytes. */
static uintptr_t address(void)
{
	uintptr_t device = behind(TABLES, "VM_Gen_Counter", NAME_BYTES);
	uintptr_t addr = device ? behind(device, "ADDR\x12", 5) : 0;
	uint32_t low = 0;
	if (addr && ((const uint8_t *)addr)[1] == 2 && ((const uint8_t *)addr)[2] == 0x0c)
		memcpy(&low, (const void *)(addr + 3), sizeof(low));
	return low;
}

void vmgenid_open(void)
{
	if (!option_number("vmgenid", 0))
		return;
	id = (const volatile uint64_t *)address();
	print("vmgenid: at %lx\n", (uint64_t)id);
}

void vmgenid_round(unsigned cpu)
{
	if (cpu != 0 || !id || (known[0] == id[0] && known[1] == id[1]))
		return;
	known[0] = id[0];
	known[1] = id[1];
	print("vmgenid: %lx %lx\n", known[0], known[1]);
}
