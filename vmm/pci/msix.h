// SPDX-License-Identifier: Apache-2.0
/* The MSI-X table of a PCI device: entries, masks, pending bits, delivery. Guarded by the device's lock. */
#ifndef VMM_PCI_MSIX_H
#define VMM_PCI_MSIX_H

#include "common/field.h"

struct kvm;

struct msix_entry {
	uint32_t msg_addr_lo, msg_addr_hi, msg_data, vector_ctl;
};

/* As in state.json ("msix_config"). */
struct msix {
	struct msix_entry *table_entries;
	uint32_t n_table_entries;
	uint64_t *pba_entries; /* a bit a vector */
	uint32_t n_pba_entries;
	bool masked, enabled;
};

enum { MSIX_NO_VECTOR = 0xffff };

extern const struct field msix_fields[];

/* Every vector masked, MSI-X disabled. */
MUST_CHECK int msix_init(struct msix *m, unsigned n_vectors, struct err *err);
void msix_done(struct msix *m);
/* After fields_load() from a snapshot: the tables have the sizes of this device. */
MUST_CHECK int msix_check(const struct msix *m, unsigned n_vectors, const char *what, struct err *err);
/* Delivers, or remembers in the PBA while masked. A vector that does not exist is ignored. */
void msix_interrupt(struct msix *m, const struct kvm *kvm, uint32_t vector);
/* The guest wrote message control: bits 15 (enable) and 14 (mask). */
void msix_set_control(struct msix *m, const struct kvm *kvm, uint16_t control);
/* Offsets into the table and the PBA; beyond their ends reads give 0. */
void msix_table_read(const struct msix *m, uint64_t off, void *data, unsigned len);
void msix_table_write(struct msix *m, const struct kvm *kvm, uint64_t off, const void *data, unsigned len);
void msix_pba_read(const struct msix *m, uint64_t off, void *data, unsigned len);

#endif
