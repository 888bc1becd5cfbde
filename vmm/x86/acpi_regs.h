// SPDX-License-Identifier: Apache-2.0
/*
 * ACPI register blocks: what the guest's byte code finds at acpi_addrs(). The registers say which
 * CPUs there are, that the power button was pressed, which PCI devices came and which are to go.
 * CPUs and memory never come or go. Any thread may call acpi_regs_notify_power_button() and
 * acpi_regs_notify_vmgenid(); for all else the caller holds the machine's acpi_lock.
 */
#ifndef VMM_X86_ACPI_REGS_H
#define VMM_X86_ACPI_REGS_H

#include <stdatomic.h>
#include <stdint.h>

enum acpi_block { ACPI_BLOCK_MEMORY, ACPI_BLOCK_PCI, ACPI_BLOCK_CPU, ACPI_BLOCK_GED };

/* Lengths of the blocks. Each block has a page for itself. */
enum {
	ACPI_MEMORY_BLOCK_BYTES = 0x18,
	ACPI_PCI_BLOCK_BYTES = 0x10,
	ACPI_CPU_BLOCK_BYTES = 0x0c,
	ACPI_GED_BLOCK_BYTES = 1,
};

/* Bits of the event register. */
enum {
	ACPI_EVENT_CPU = 1,
	ACPI_EVENT_MEMORY = 2,
	ACPI_EVENT_PCI = 4,
	ACPI_EVENT_POWER_BUTTON = 8,
	ACPI_EVENT_VMGENID = 16, /* not Cloud Hypervisor's */
};

/*
 * Zero at the start, but for n_vcpus and eject. Selectors are in no snapshot: the guest selects
 * before each use.
 */
struct acpi_regs {
	uint32_t n_vcpus; /* CPUs 0 to n_vcpus - 1 are enabled */
	uint32_t cpu_selected;
	uint32_t pci_up,
		pci_down; /* slots whose device came, and slots whose device is to go; the guest's read takes them */
	void (*eject)(void *owner, unsigned pci_slot); /* the guest lets go of the device in a slot */
	void *owner;
	_Atomic uint8_t events; /* any thread sets bits, the guest's read takes them */
};

/* Every offset and length is answered, with zeros where no register is. */
void acpi_regs_read(struct acpi_regs *regs, enum acpi_block block, uint64_t off, void *data, unsigned len);
void acpi_regs_write(struct acpi_regs *regs, enum acpi_block block, uint64_t off, const void *data, unsigned len);

/* The caller pulses ACPI_GSI_GED after each of these three. */
void acpi_regs_notify_power_button(struct acpi_regs *regs);
/* There is another generation id. */
void acpi_regs_notify_vmgenid(struct acpi_regs *regs);
/* Adds slots to those whose device came (`up`), and to those whose device is to go (`down`). */
void acpi_regs_notify_pci(struct acpi_regs *regs, uint32_t up, uint32_t down);

#endif
