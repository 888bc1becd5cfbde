// SPDX-License-Identifier: Apache-2.0
/* DSDT: the devices and methods of the guest in AML. It is the longer half of acpi_build(). */
#ifndef VMM_X86_DSDT_H
#define VMM_X86_DSDT_H

#include "vmm/x86/acpi.h"
#include "vmm/x86/tbuf.h"

enum { ACPI_MMCONFIG_GPA = 0xe8000000 }; /* 1 MiB for each PCI segment, which has one bus */

/* Appends the definition block, without table header. */
void dsdt_body(struct tbuf *t, const struct acpi_cfg *cfg);

/* Appends the MADT entry of a vCPU, which _MAT repeats. */
void dsdt_apic_entry(struct tbuf *t, const struct acpi_cfg *cfg, unsigned vcpu, uint32_t flags);

#endif
