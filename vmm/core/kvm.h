// SPDX-License-Identifier: Apache-2.0
/*
 * /dev/kvm and one VM: the ioctls that every architecture needs. The message of each failure names
 * the ioctl.
 */
#ifndef VMM_CORE_KVM_H
#define VMM_CORE_KVM_H

#include <linux/kvm.h>
#include <stdint.h>

#include "common/err.h"
#include "vmm/core/gmem.h"

struct kvm {
	int fd; /* /dev/kvm */
	int vm_fd;
	size_t run_bytes; /* of a vCPU's shared page area */
};

/* Opens /dev/kvm and checks the API version; no VM yet. */
MUST_CHECK int kvm_open(struct kvm *kvm, struct err *err);
MUST_CHECK int kvm_create_vm(struct kvm *kvm, struct err *err);
void kvm_close(struct kvm *kvm);
/*
 * An ioctl that is repeated after EINTR; `what` names it in the message. Returns the ioctl's
 * result.
 */
MUST_CHECK int kvm_ioctl(int fd, unsigned long request, void *arg, const char *what, struct err *err);
/* The value of a KVM_CAP; 0: KVM does not have it. */
int kvm_check_cap(const struct kvm *kvm, int cap);
MUST_CHECK int kvm_set_memory(const struct kvm *kvm, const struct gmem *mem, struct err *err);
/*
 * Delivers a message-signalled interrupt. A guest that wrote nonsense into its table loses the
 * interrupt. Any thread.
 */
void kvm_signal_msi(const struct kvm *kvm, uint64_t address, uint32_t data);

#endif
