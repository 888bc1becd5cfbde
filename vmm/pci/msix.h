// SPDX-License-Identifier: Apache-2.0
/*
 * The MSI-X table of a PCI device: entries, masks, pending bits, delivery. Guarded by the device's
 * lock.
 */
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
	uint64_t *pba_entries; /* a bit for each vector */
	uint32_t n_pba_entries;
	bool masked, enabled;
};

enum { MSIX_NO_VECTOR = 0xffff };

extern const struct field msix_fields[];

/* At reset every vector is masked and MSI-X is disabled. */
MUST_CHECK int msix_init(struct msix *m, unsigned n_vectors, struct err *err);
void msix_done(struct msix *m);
/* Checks, after fields_load() from a snapshot, that the tables have the sizes of this device. */
MUST_CHECK int msix_check(const struct msix *m, unsigned n_vectors, const char *what, struct err *err);
/*
 * Delivers the vector's message, or remembers it in the PBA while the vector is masked. A vector
 * that does not exist is ignored.
 */
void msix_interrupt(struct msix *m, const struct kvm *kvm, uint32_t vector);
/* Takes what the guest wrote to message control: bits 15 (enable) and 14 (mask). */
void msix_set_control(struct msix *m, const struct kvm *kvm, uint16_t control);
/* `off` is in the table, or in the PBA. A read beyond the end gives 0. */
void msix_table_read(const struct msix *m, uint64_t off, void *data, unsigned len);
void msix_table_write(struct msix *m, const struct kvm *kvm, uint64_t off, const void *data, unsigned len);
void msix_pba_read(const struct msix *m, uint64_t off, void *data, unsigned len);

#endif
