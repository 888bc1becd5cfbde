// SPDX-License-Identifier: Apache-2.0
/* The MSI-X table and its pending bits (PCI 3.0, 6.8.2). */
#include "vmm/pci/msix.h"

#include <errno.h>
#include <string.h>

#include "vmm/core/bus.h"
#include "vmm/core/kvm.h"

enum { CONTROL_ENABLE = 1 << 15, CONTROL_MASK = 1 << 14, VECTOR_MASKED = 1 };

static const struct field entry_fields[] = {
	F(struct msix_entry, msg_addr_lo, .flags = F_REQUIRED),
	F(struct msix_entry, msg_addr_hi, .flags = F_REQUIRED),
	F(struct msix_entry, msg_data, .flags = F_REQUIRED),
	F(struct msix_entry, vector_ctl, .flags = F_REQUIRED),
	F_END,
};

const struct field msix_fields[] = {
	F_OBJ_LIST(struct msix, table_entries, entry_fields, .flags = F_REQUIRED),
	F_LIST(struct msix, pba_entries, .flags = F_REQUIRED),
	F(struct msix, masked, .flags = F_REQUIRED),
	F(struct msix, enabled, .flags = F_REQUIRED),
	F_END,
};

int msix_init(struct msix *m, unsigned n_vectors, struct err *err)
{
	*m = (struct msix){
		.masked = true,
		.table_entries = calloc(n_vectors, sizeof(*m->table_entries)),
		.n_table_entries = n_vectors,
		.pba_entries = calloc((n_vectors + 63) / 64, sizeof(*m->pba_entries)),
		.n_pba_entries = (n_vectors + 63) / 64,
	};
	if (!m->table_entries || !m->pba_entries)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make %u interrupt vectors", n_vectors);
	for (unsigned i = 0; i < n_vectors; i++)
		m->table_entries[i].vector_ctl = VECTOR_MASKED;
	return 0;
}

void msix_done(struct msix *m)
{
	fields_free(msix_fields, m);
}

int msix_check(const struct msix *m, unsigned n_vectors, const char *what, struct err *err)
{
	if (m->n_table_entries != n_vectors || m->n_pba_entries != (n_vectors + 63) / 64)
		return err_set(err, ERR_INVALID,
			       "%s: msix_config has %u vectors and %u pending words, expected %u and %u", what,
			       m->n_table_entries, m->n_pba_entries, n_vectors, (n_vectors + 63) / 64);
	return 0;
}

static void deliver_vector(const struct msix *m, const struct kvm *kvm, uint32_t vector)
{
	const struct msix_entry *e = &m->table_entries[vector];

	kvm_signal_msi(kvm, (uint64_t)e->msg_addr_hi << 32 | e->msg_addr_lo, e->msg_data);
}

void msix_interrupt(struct msix *m, const struct kvm *kvm, uint32_t vector)
{
	if (vector >= m->n_table_entries || !m->enabled)
		return;
	if (m->masked || (m->table_entries[vector].vector_ctl & VECTOR_MASKED))
		m->pba_entries[vector / 64] |= 1ULL << vector % 64;
	else
		deliver_vector(m, kvm, vector);
}

/* Sends the pending messages that may be delivered now. */
static void flush_pending(struct msix *m, const struct kvm *kvm, uint32_t first, uint32_t last)
{
	for (uint32_t v = first; m->enabled && !m->masked && v <= last; v++) {
		uint64_t bit = 1ULL << v % 64;
		if (!(m->pba_entries[v / 64] & bit) || (m->table_entries[v].vector_ctl & VECTOR_MASKED))
			continue;
		m->pba_entries[v / 64] &= ~bit;
		deliver_vector(m, kvm, v);
	}
}

void msix_set_control(struct msix *m, const struct kvm *kvm, uint16_t control)
{
	m->enabled = control & CONTROL_ENABLE;
	m->masked = control & CONTROL_MASK;
	flush_pending(m, kvm, 0, m->n_table_entries - 1);
}

void msix_table_read(const struct msix *m, uint64_t off, void *data, unsigned len)
{
	memset(data, 0, len);
	if (off + len <= m->n_table_entries * sizeof(struct msix_entry))
		memcpy(data, (const char *)m->table_entries + off, len);
}

void msix_table_write(struct msix *m, const struct kvm *kvm, uint64_t off, const void *data, unsigned len)
{
	/* 6.8.2: aligned dwords and qwords only */
	if ((len != 4 && len != 8) || off % len || off + len > m->n_table_entries * sizeof(struct msix_entry))
		return;
	memcpy((char *)m->table_entries + off, data, len);
	uint32_t vector = (uint32_t)(off / sizeof(struct msix_entry));
	flush_pending(m, kvm, vector, vector);
}

void msix_pba_read(const struct msix *m, uint64_t off, void *data, unsigned len)
{
	memset(data, 0, len);
	if (off + len <= m->n_pba_entries * sizeof(uint64_t))
		memcpy(data, (const char *)m->pba_entries + off, len);
}
