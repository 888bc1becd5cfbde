// SPDX-License-Identifier: Apache-2.0
/*
 * Makes its guest a hypervisor: runs a virtual machine that counts, and keeps the last number in a file.
 *   guest_nested FILE ROUNDS      between two numbers the innermost guest loops for so many rounds
 * A number that is not the one after the last ends the program, with a word on the console.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RAM = 0x10000, CODE = 0x1000, ROUNDS_AT = 2, PORT = 0x10 };

/* 16-bit code: ebx counts, ecx waits. */
static uint8_t code[] = {
	0x66, 0xb9, 0,    0, 0, 0, /* again: mov ecx, ROUNDS */
	0x66, 0x49,                /* wait: dec ecx */
	0x75, 0xfc,                /* jnz wait */
	0x66, 0x43,                /* inc ebx */
	0x66, 0x89, 0xd8,          /* mov eax, ebx */
	0x66, 0xe7, PORT,          /* out PORT, eax */
	0xeb, 0xec,                /* jmp again */
};

static int must(int r, const char *what)
{
	if (r < 0)
		err(1, "%s", what);
	return r;
}

static void set_registers(int vcpu)
{
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs s;

	must(ioctl(vcpu, KVM_GET_SREGS, &s), "get registers");
	s.cs.base = 0;
	s.cs.selector = 0;
	must(ioctl(vcpu, KVM_SET_SREGS, &s), "set system registers");
	must(ioctl(vcpu, KVM_SET_REGS, &regs), "set registers");
}

static void tell(const char *path, uint32_t number)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%u\n", number);
	int fd = must(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), path);

	must((int)pwrite(fd, text, (size_t)n, 0), path);
	close(fd);
}

static void count(int vcpu, const struct kvm_run *run, const char *path)
{
	for (uint32_t next = 1;; next++) {
		must(ioctl(vcpu, KVM_RUN, 0), "run");
		if (run->exit_reason != KVM_EXIT_IO || run->io.port != PORT || run->io.size != 4)
			errx(1, "lab-guest: trouble: exit %u of the innermost guest", run->exit_reason);
		uint32_t number;
		memcpy(&number, (const char *)run + run->io.data_offset, sizeof(number));
		if (number != next)
			errx(1, "lab-guest: trouble: the innermost guest says %u, not %u", number, next);
		tell(path, number);
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: guest_nested FILE ROUNDS");
	const uint32_t rounds = (uint32_t)strtoul(argv[2], NULL, 10);
	int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "make a virtual machine");
	uint8_t *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t run_bytes = (size_t)must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "size of a vCPU's area");

	if (ram == MAP_FAILED)
		err(1, "memory");
	memcpy(code + ROUNDS_AT, &rounds, sizeof(rounds));
	memcpy(ram + CODE, code, sizeof(code));
	struct kvm_userspace_memory_region region = { .memory_size = RAM, .userspace_addr = (uint64_t)(uintptr_t)ram };
	must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "give it memory");
	int vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "make a vCPU");
	const struct kvm_run *run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(1, "map a vCPU");
	set_registers(vcpu);
	count(vcpu, run, argv[1]);
}
