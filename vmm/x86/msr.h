// SPDX-License-Identifier: Apache-2.0
/* Model-specific registers of a vCPU: reset values, the list that is saved, and back. */
#ifndef VMM_X86_MSR_H
#define VMM_X86_MSR_H

#include "vmm/core/arch.h"
#include "vmm/core/kvm.h"

enum { MSR_IA32_TSC = 0x10, MSR_IA32_TSC_DEADLINE = 0x6e0 };

MUST_CHECK int msr_init(int vcpu_fd, struct err *err);
/* Lists the indices of all MSRs that KVM lists, and of the MTRRs: *ret_n of them, up to MSR_MAX. */
MUST_CHECK int msr_list(const struct kvm *kvm, uint32_t *ret_index, uint32_t *ret_n, struct err *err);
/* Saves the MSRs of that list, less those that this host does not have after all. *ret_msrs: heap. */
MUST_CHECK int msr_save(const struct kvm *kvm, int vcpu_fd, struct msr_entry **ret_msrs, uint32_t *ret_n,
			struct err *err);
/*
 * Loads MSRs. One that this host refuses is skipped with a warning. The TSC is set `tsc_ticks`
 * ahead of its saved value: a host that had stayed up would have counted on. The deadline timer,
 * which is absolute, is set after the TSC.
 */
MUST_CHECK int msr_load(int vcpu_fd, unsigned vcpu, const struct msr_entry *msrs, uint32_t n, uint64_t tsc_ticks,
			struct err *err);

#endif
