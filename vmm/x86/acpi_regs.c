// SPDX-License-Identifier: Apache-2.0
/* Answers the guest's reads and writes of the ACPI register blocks. */
#include "vmm/x86/acpi_regs.h"

#include <string.h>

enum {
	CPU_SELECT = 0,
	CPU_STATUS = 4,
	CPU_STATUS_ENABLED = 1,
	PCI_SEGMENT = 12,
};

static uint32_t read_cpu(const struct acpi_regs *regs, uint64_t off)
{
	switch (off) {
	case CPU_SELECT:
		return regs->cpu_selected;
	case CPU_STATUS:
		return regs->cpu_selected < regs->n_vcpus ? CPU_STATUS_ENABLED : 0;
	default:
		return 0;
	}
}

/* Only a read of exactly the register takes the events. */
static uint32_t read_events(struct acpi_regs *regs, uint64_t off, unsigned len)
{
	return off == 0 && len == 1 ? atomic_exchange(&regs->events, 0) : 0;
}

void acpi_regs_read(struct acpi_regs *regs, enum acpi_block block, uint64_t off, void *data, unsigned len)
{
	uint32_t v = 0;

	if (block == ACPI_BLOCK_CPU)
		v = read_cpu(regs, off);
	else if (block == ACPI_BLOCK_GED)
		v = read_events(regs, off, len);
	else if (block == ACPI_BLOCK_PCI && off == PCI_SEGMENT)
		v = regs->pci_segment;
	memset(data, 0, len);
	memcpy(data, &v, len < sizeof(v) ? len : sizeof(v));
}

/* Ejections and acknowledgements have nothing to act on. */
void acpi_regs_write(struct acpi_regs *regs, enum acpi_block block, uint64_t off, const void *data, unsigned len)
{
	uint32_t v = 0;

	memcpy(&v, data, len < sizeof(v) ? len : sizeof(v));
	if (block == ACPI_BLOCK_CPU && off == CPU_SELECT)
		regs->cpu_selected = v;
	else if (block == ACPI_BLOCK_PCI && off == PCI_SEGMENT)
		regs->pci_segment = v;
}

void acpi_regs_notify_power_button(struct acpi_regs *regs)
{
	atomic_fetch_or(&regs->events, ACPI_EVENT_POWER_BUTTON);
}
