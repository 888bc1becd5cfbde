// SPDX-License-Identifier: Apache-2.0
/*
 * What KVM keeps for a guest that is a hypervisor itself: whether it has turned virtualization on, and the guest of its own that it runs
 * right now. In Cloud Hypervisor's encoding: the bytes of the kernel's struct and of what follows it, NESTED_BYTES in all.
 */
#ifndef VMM_X86_NESTED_H
#define VMM_X86_NESTED_H

#include "vmm/core/kvm.h"

enum { NESTED_BYTES = 128 + 8192 }; /* head, and the two pages of VMX; SVM has one page */

/* *ret_state is heap; NULL when the vCPU is as it was made, or when this host's KVM has no such state. The vCPU is parked. */
MUST_CHECK int nested_save(const struct kvm *kvm, int vcpu_fd, uint8_t **ret_state, uint32_t *ret_n, struct err *err);
/*
 * After the system registers (SVM must be on) and the MSRs (a CPU that is in VMX operation takes no VMX capabilities any more).
 * ERR_INVALID: the bytes are no such state.
 */
MUST_CHECK int nested_load(int vcpu_fd, const uint8_t *state, uint32_t n, struct err *err);

#endif
