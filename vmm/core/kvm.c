// SPDX-License-Identifier: Apache-2.0
/* Thin wrappers over /dev/kvm. */
#include "vmm/core/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

int kvm_ioctl(int fd, unsigned long request, void *arg, const char *what, struct err *err)
{
	int r;

	do
		r = ioctl(fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? err_sys(err, ERR_INTERNAL, "KVM: %s", what) : r;
}

int kvm_open(struct kvm *kvm, struct err *err)
{
	*kvm = (struct kvm){ .fd = -1, .vm_fd = -1 };
	kvm->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0)
		return err_sys(err, ERR_INTERNAL, "open /dev/kvm");
	int version = kvm_ioctl(kvm->fd, KVM_GET_API_VERSION, NULL, "get the API version", err);
	if (version < 0)
		return version;
	if (version != KVM_API_VERSION)
		return err_set(err, ERR_INTERNAL, "/dev/kvm has API version %d, expected %d", version, KVM_API_VERSION);
	int bytes = kvm_ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, NULL, "get the size of a vCPU's area", err);
	kvm->run_bytes = bytes > 0 ? (size_t)bytes : 0;
	return bytes < 0 ? bytes : 0;
}

int kvm_create_vm(struct kvm *kvm, struct err *err)
{
	int fd = kvm_ioctl(kvm->fd, KVM_CREATE_VM, NULL, "create a VM", err);

	if (fd < 0)
		return fd;
	kvm->vm_fd = fd; /* KVM opens it close-on-exec */
	return 0;
}

void kvm_close(struct kvm *kvm)
{
	if (kvm->vm_fd >= 0)
		close(kvm->vm_fd);
	if (kvm->fd >= 0)
		close(kvm->fd);
	kvm->fd = kvm->vm_fd = -1;
}

int kvm_check_cap(const struct kvm *kvm, int cap)
{
	int r = ioctl(kvm->vm_fd >= 0 ? kvm->vm_fd : kvm->fd, KVM_CHECK_EXTENSION, cap);

	return r > 0 ? r : 0;
}

int kvm_set_memory(const struct kvm *kvm, const struct gmem *mem, struct err *err)
{
	for (unsigned i = 0; i < mem->n; i++) {
		const struct gmem_region *r = &mem->region[i];
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.guest_phys_addr = r->gpa,
			.memory_size = r->size,
			.userspace_addr = (uintptr_t)r->hva,
		};
		if (kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot, "set a memory slot", err) < 0)
			return err_wrap(err, "guest RAM of %llu bytes", (unsigned long long)mem->size);
	}
	return 0;
}

void kvm_signal_msi(const struct kvm *kvm, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = {
		.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = data,
	};

	(void)ioctl(kvm->vm_fd, KVM_SIGNAL_MSI, &msi);
}
