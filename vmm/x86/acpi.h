// SPDX-License-Identifier: Apache-2.0
/*
 * ACPI tables of the x86 guest, byte for byte Cloud Hypervisor's, but for the device VGEN, which is
 * there only when the configuration asks for it. A configuration goes in, bytes come out; nothing else
 * is touched. vmm/x86/acpi_regs.h is the hardware that the byte code talks
 * to.
 */
#ifndef VMM_X86_ACPI_H
#define VMM_X86_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/x86/topology.h"

enum {
	ACPI_TABLES_GPA = 0xa0000, /* the RSDP is first */
	ACPI_TABLES_MAX = 0x50000, /* up to the SMBIOS tables */

	ACPI_PORT_SLEEP = 0x600,    /* one byte: reset, sleep control and status; reads 0 */
	ACPI_SLEEP_RESET = 0x01,    /* written there: reboot */
	ACPI_SLEEP_S5 = 0x34,       /* written there: power off */
	ACPI_PORT_PM_TIMER = 0x608, /* four bytes: 32 bits counting at ACPI_PM_TIMER_HZ */
	ACPI_PM_TIMER_HZ = 3579545,

	ACPI_GSI_SERIAL = 4, /* edge, as is the event device's */
	ACPI_GSI_PCI = 5,    /* slot n has ACPI_GSI_PCI + n % ACPI_N_PCI_GSIS, level */
	ACPI_N_PCI_GSIS = 8,
	ACPI_GSI_GED = 13,

	/*
	 * The generation id: in no range of the memory map, in a page without anything else, behind the MP
	 * table. The guest maps it with a cache.
	 */
	ACPI_VMGENID_GPA = 0xfe000,
	ACPI_VMGENID_BYTES = 16,
};

/* All that Cloud Hypervisor's tables depend on, for one PCI segment and no NUMA, IOMMU or TPM. */
struct acpi_cfg {
	unsigned boot_vcpus, max_vcpus;
	struct cpu_topology topology;
	unsigned phys_bits; /* bits of guest addresses: the host's, cut to max_phys_bits */
	uint64_t ram_bytes;
	uint64_t hotplug_bytes; /* memory.hotplug_size, 0: none */
	bool hotplug_acpi;      /* memory.hotplug_method is Acpi, not VirtioMem */
	bool serial;            /* the serial port exists: any mode but Off */
	bool vmgenid;           /* the device VGEN exists */
};

/* Where the register blocks are. `memory` is 0 where there is no memory hot-plug block. */
struct acpi_addrs {
	uint64_t memory, pci, cpu, ged;
};
struct acpi_addrs acpi_addrs(unsigned phys_bits, bool has_memory_block);

/* Is there a memory hot-plug block? Then the other blocks are one page further down. */
bool acpi_has_memory_block(const struct acpi_cfg *cfg);

/* The addresses above RAM that PCI devices may take; both ends belong to the range. */
struct acpi_range {
	uint64_t first, last;
};
struct acpi_range acpi_pci_range(const struct acpi_cfg *cfg);

/*
 * Writes all tables, to be placed at ACPI_TABLES_GPA, and returns their length. When the length is
 * above `size`, the tables do not fit, and what is in `buf` is of no use.
 */
size_t acpi_build(const struct acpi_cfg *cfg, uint8_t *buf, size_t size);

#endif
