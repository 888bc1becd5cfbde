/* SPDX-License-Identifier: Apache-2.0 */
/* PCI configuration space of bus 0, by ports 0xcf8/0xcfc and by ECAM. */
#ifndef TESTS_GUESTS_PCI_H
#define TESTS_GUESTS_PCI_H

#include "lib.h"

#define PCI_SLOTS 32
#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX 0x11

uint32_t pci_read(unsigned slot, unsigned offset, unsigned bytes);
void pci_write(unsigned slot, unsigned offset, uint32_t value, unsigned bytes);
/* The address of a register in ECAM. */
uintptr_t pci_ecam(unsigned slot, unsigned offset);
/* The next capability with this id after `after` (0: from the first); 0: none. */
unsigned pci_capability(unsigned slot, unsigned id, unsigned after);
/* Address of a memory BAR. */
uint64_t pci_bar(unsigned slot, unsigned bar);
/* Size of a memory BAR, found by writing ones; decoding is off meanwhile. */
uint64_t pci_bar_bytes(unsigned slot, unsigned bar);
/* Fails the guest where ports and ECAM disagree. */
void pci_check(void);

#endif
