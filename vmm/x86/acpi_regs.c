// SPDX-License-Identifier: Apache-2.0
/* Answers the guest's reads and writes of the ACPI register blocks. */
#include "vmm/x86/acpi_regs.h"

#include <string.h>

enum {
	CPU_SELECT = 0,
	CPU_STATUS = 4,
	CPU_STATUS_ENABLED = 1,
	PCI_UP = 0,
	PCI_DOWN = 4,
	PCI_EJECT = 8, /* the register of the segment, which is always 0, comes next */
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

/* A read takes the events only when it is a read of exactly the register. */
static uint32_t read_events(struct acpi_regs *regs, uint64_t off, unsigned len)
{
	return off == 0 && len == 1 ? atomic_exchange(&regs->events, 0) : 0;
}

static uint32_t take(uint32_t *slots)
{
	uint32_t v = *slots;

	*slots = 0;
	return v;
}

static uint32_t read_pci(struct acpi_regs *regs, uint64_t off, unsigned len)
{
	if (len != sizeof(uint32_t))
		return 0;
	return off == PCI_UP ? take(&regs->pci_up) : off == PCI_DOWN ? take(&regs->pci_down) : 0;
}

void acpi_regs_read(struct acpi_regs *regs, enum acpi_block block, uint64_t off, void *data, unsigned len)
{
	uint32_t v = 0;

	if (block == ACPI_BLOCK_CPU)
		v = read_cpu(regs, off);
	else if (block == ACPI_BLOCK_GED)
		v = read_events(regs, off, len);
	else if (block == ACPI_BLOCK_PCI)
		v = read_pci(regs, off, len);
	memset(data, 0, len);
	memcpy(data, &v, len < sizeof(v) ? len : sizeof(v));
}

static void eject(const struct acpi_regs *regs, uint32_t slots)
{
	for (unsigned slot = 0; slot < 32 && regs->eject; slot++)
		if (slots >> slot & 1)
			regs->eject(regs->owner, slot);
}

/* There is one PCI segment. A CPU's ejection and acknowledgement are ignored. */
void acpi_regs_write(struct acpi_regs *regs, enum acpi_block block, uint64_t off, const void *data, unsigned len)
{
	uint32_t v = 0;

	memcpy(&v, data, len < sizeof(v) ? len : sizeof(v));
	if (block == ACPI_BLOCK_CPU && off == CPU_SELECT)
		regs->cpu_selected = v;
	else if (block == ACPI_BLOCK_PCI && off == PCI_EJECT && len == sizeof(v))
		eject(regs, v);
}

void acpi_regs_notify_power_button(struct acpi_regs *regs)
{
	atomic_fetch_or(&regs->events, ACPI_EVENT_POWER_BUTTON);
}

void acpi_regs_notify_vmgenid(struct acpi_regs *regs)
{
	atomic_fetch_or(&regs->events, ACPI_EVENT_VMGENID);
}

void acpi_regs_notify_pci(struct acpi_regs *regs, uint32_t up, uint32_t down)
{
	regs->pci_up |= up;
	regs->pci_down |= down;
	atomic_fetch_or(&regs->events, ACPI_EVENT_PCI);
}
