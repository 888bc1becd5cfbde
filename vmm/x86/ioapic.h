// SPDX-License-Identifier: Apache-2.0
/*
 * The IOAPIC in user space: its set-up, and the end of a level-triggered interrupt. The interrupt
 * lines are in arch.h.
 */
#ifndef VMM_X86_IOAPIC_H
#define VMM_X86_IOAPIC_H

#include "vmm/core/arch.h"

#define IOAPIC_BASE 0xfec00000ULL
enum { IOAPIC_BYTES = 0x20 };

void ioapic_init(struct ioapic *io);
MUST_CHECK int ioapic_map(struct vm *vm, struct err *err);
/* On a vCPU's thread. */
void ioapic_eoi(struct vm *vm, uint8_t vector);

#endif
