// SPDX-License-Identifier: Apache-2.0
/*
 * What guests are told about their CPU: made from what KVM supports. Whether a host has it, is for
 * vmm/x86/cpu_needs.h to say.
 */
#ifndef VMM_X86_CPUID_H
#define VMM_X86_CPUID_H

#include "vmm/core/arch.h"
#include "vmm/core/kvm.h"
#include "vmm/x86/topology.h"

struct cpus_config;

/*
 * What KVM supports, plus what KVM can do and does not list. Slow where CPUID is emulated. Release:
 * cpuid_free().
 */
MUST_CHECK int cpuid_host(const struct kvm *kvm, struct cpuid_table *ret, struct err *err);
/*
 * The same for a new guest, with the hypervisor's own leaves and the brand string, but without the
 * values that differ between vCPUs.
 */
MUST_CHECK int cpuid_common(const struct kvm *kvm, const struct cpus_config *cfg, uint32_t tsc_khz,
			    struct cpuid_table *ret, struct err *err);
/* The width of guest-physical addresses in bits. */
unsigned cpuid_phys_bits(const struct cpuid_table *t);
void cpuid_free(struct cpuid_table *t);
/* Adds a vCPU's own values: APIC ids and topology. */
MUST_CHECK int cpuid_for_vcpu(const struct cpuid_table *common, const struct cpus_config *cfg, unsigned vcpu,
			      struct cpuid_table *ret, struct err *err);
MUST_CHECK int cpuid_set(int vcpu_fd, const struct cpuid_entry *entry, uint32_t n, struct err *err);
enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };
/* NULL: the table has no such leaf. */
struct cpuid_entry *cpuid_find(const struct cpuid_table *t, uint32_t function, uint32_t index);
uint32_t cpuid_register(const struct cpuid_entry *e, enum cpuid_reg reg);
struct cpu_topology cpuid_topology(const struct cpus_config *cfg);

extern const struct field cpuid_entry_fields[];

#endif
