// SPDX-License-Identifier: Apache-2.0
/* What guests are told about their CPU: made from what KVM supports, checked against it at restore. */
#ifndef VMM_X86_CPUID_H
#define VMM_X86_CPUID_H

#include "vmm/core/arch.h"
#include "vmm/core/kvm.h"
#include "vmm/x86/topology.h"

struct cpus_config;

/* KVM's supported set, plus what it can do but does not list. Slow where CPUID is emulated. Release: cpuid_free(). */
MUST_CHECK int cpuid_host(const struct kvm *kvm, struct cpuid_table *ret, struct err *err);
/* The same with the hypervisor's own leaves and the brand string, for a new guest; no vCPU's own values yet. */
MUST_CHECK int cpuid_common(const struct kvm *kvm, const struct cpus_config *cfg, uint32_t tsc_khz,
			    struct cpuid_table *ret, struct err *err);
/* Width of guest-physical addresses. */
unsigned cpuid_phys_bits(const struct cpuid_table *t);
void cpuid_free(struct cpuid_table *t);
/* A vCPU's own: APIC ids and topology. */
MUST_CHECK int cpuid_for_vcpu(const struct cpuid_table *common, const struct cpus_config *cfg, unsigned vcpu,
			      struct cpuid_table *ret, struct err *err);
MUST_CHECK int cpuid_set(int vcpu_fd, const struct cpuid_entry *entry, uint32_t n, struct err *err);
/* Everything that `saved` promises must be in `host`; the message names leaf, register and bits. */
MUST_CHECK int cpuid_check(const struct cpuid_table *saved, const struct cpuid_table *host, struct err *err);
struct cpu_topology cpuid_topology(const struct cpus_config *cfg);

extern const struct field cpuid_entry_fields[];

#endif
