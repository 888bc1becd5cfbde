// SPDX-License-Identifier: Apache-2.0
/*
 * What KVM keeps for a guest that is a hypervisor itself: whether the guest has turned
 * virtualization on, and the guest of its own that it runs at that moment. In Cloud Hypervisor's
 * encoding: the bytes of the kernel's struct and of what follows the struct, NESTED_BYTES in all.
 */
#ifndef VMM_X86_NESTED_H
#define VMM_X86_NESTED_H

#include "vmm/core/kvm.h"

enum { NESTED_BYTES = 128 + 8192 }; /* head, and the two pages of VMX; SVM has one page */

/*
 * Reads the nested state of a parked vCPU. *ret_state is on the heap; NULL: the vCPU is as it was
 * made, or this host's KVM has no such state.
 */
MUST_CHECK int nested_save(const struct kvm *kvm, int vcpu_fd, uint8_t **ret_state, uint32_t *ret_n, struct err *err);
/* Checks a nested state from outside. ERR_INVALID: the bytes are none. */
MUST_CHECK int nested_check(const uint8_t *state, uint32_t n, struct err *err);
/*
 * Writes a nested state that was checked. After the system registers, since SVM must be on, and
 * after the MSRs, since a CPU in VMX operation takes no VMX capabilities any more.
 */
MUST_CHECK int nested_load(int vcpu_fd, const uint8_t *state, uint32_t n, struct err *err);

#endif
