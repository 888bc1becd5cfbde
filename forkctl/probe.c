// SPDX-License-Identifier: Apache-2.0
/*
 * The micro guest: 64-bit kernel mode, one cmpxchg16b, then an I/O exit. KVM on hardware runs the instruction; a KVM that emulates
 * kernel mode has no emulation of it and stops, and so would Linux.
 */
#include "forkctl/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { RAM = 0x10000, PML4 = 0x1000, PDPT = 0x2000, CODE = 0x4000, DATA = 0x5000, PORT = 0xf4, CPUID_MAX = 256 };

static const uint8_t code[] = {
	0xf0, 0x48, 0x0f, 0xc7, 0x0e, /* lock cmpxchg16b [rsi] */
	0xe6, PORT, 0xf4,             /* out PORT, al; hlt */
};

struct mapping {
	void *at;
	size_t len;
};

static void unmap(struct mapping *m)
{
	if (m->at != MAP_FAILED)
		munmap(m->at, m->len);
}

#define automap __attribute__((cleanup(unmap)))

static int failed(struct err *err, const char *what)
{
	return err_sys(err, ERR_INTERNAL, "KVM: %s", what);
}

/* The guest's memory: page tables that map the first GiB onto itself, and the code. */
static int give_memory(int vm_fd, uint8_t *ram, struct err *err)
{
	const uint64_t pml4 = PDPT | 3, pdpt = 0x83; /* present, writable; and a page of 1 GiB */
	struct kvm_userspace_memory_region region = { .memory_size = RAM, .userspace_addr = (uint64_t)(uintptr_t)ram };

	memcpy(ram + PML4, &pml4, sizeof(pml4));
	memcpy(ram + PDPT, &pdpt, sizeof(pdpt));
	memcpy(ram + CODE, code, sizeof(code));
	return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? failed(err, "add memory") : 0;
}

static int set_cpuid(int kvm_fd, int vcpu_fd, struct err *err)
{
	autofree struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_MAX * sizeof(cpuid->entries[0]));

	if (!cpuid)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the host's CPUID");
	cpuid->nent = CPUID_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0 || ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
		return failed(err, "set the CPUID");
	return 0;
}

/* 64-bit mode, privilege level 0. */
static int set_registers(int vcpu_fd, struct err *err)
{
	const struct kvm_segment data = {
		.limit = ~0U, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
	};
	const struct kvm_segment text = {
		.limit = ~0U, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	struct kvm_regs regs = { .rip = CODE, .rsi = DATA, .rsp = DATA, .rflags = 2 };
	struct kvm_sregs s;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return failed(err, "read registers");
	s.cr0 = 0x80000011; /* PG, ET, PE */
	s.cr3 = PML4;
	s.cr4 = 0x20;   /* PAE */
	s.efer = 0x500; /* LME, LMA */
	s.cs = text;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &s) < 0 || ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return failed(err, "set registers");
	return 0;
}

int probe_kvm(int kvm_fd, struct err *err)
{
	autoclose int vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0UL);
	automap struct mapping ram = { mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
				       RAM };

	if (vm_fd < 0)
		return failed(err, "create a virtual machine");
	if (ram.at == MAP_FAILED)
		return failed(err, "get memory for a virtual machine");
	if (give_memory(vm_fd, ram.at, err) < 0)
		return err->num;
	autoclose int vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0UL);
	int run_len = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0UL);
	if (vcpu_fd < 0 || run_len < (int)sizeof(struct kvm_run))
		return failed(err, "create a vCPU");
	automap struct mapping run_map = { mmap(NULL, (size_t)run_len, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0),
					   (size_t)run_len };
	if (run_map.at == MAP_FAILED)
		return failed(err, "map a vCPU");
	if (set_cpuid(kvm_fd, vcpu_fd, err) < 0 || set_registers(vcpu_fd, err) < 0)
		return err->num;
	if (ioctl(vcpu_fd, KVM_RUN, 0UL) < 0)
		return failed(err, "run a vCPU");
	const struct kvm_run *run = run_map.at;
	return run->exit_reason == KVM_EXIT_IO && run->io.port == PORT ? PROBE_LINUX : PROBE_EMULATED;
}
