// SPDX-License-Identifier: Apache-2.0
/* What a host must have, for the rest of this folder; see arch_needs_check() in vmm/core/arch.h. */
#ifndef VMM_X86_NEEDS_H
#define VMM_X86_NEEDS_H

#include "vmm/core/kvm.h"

/* KVM has what every guest needs: ERR_HOST names what it has not. */
MUST_CHECK int needs_check_kvm(const struct kvm *kvm, struct err *err);
/* As arch_needs_check() says it: for a vCPU that cannot have its rate. */
MUST_CHECK int needs_refuse_tsc(uint32_t khz, int host_khz, struct err *err);

#endif
