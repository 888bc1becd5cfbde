// SPDX-License-Identifier: Apache-2.0
/*
 * The floor of restore times: the ioctls that no monitor can do without, and nothing else. A guest of a few
 * instructions writes one page and one port from CPL 3; the first exit is the end of the race.
 *
 *   kvm_floor make FILE MIB           a memory file with that guest
 *   kvm_floor once FILE VCPUS         one VM on a private mapping of FILE; writes a byte to stdout at the first exit
 *   kvm_floor steps FILE VCPUS N      N such VMs; a line per step: name, p50, p99 and max in ns
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

enum { PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, GDT = 0x4000, CODE = 0x100000, STACK = 0x200000 };
enum { PRESENT_WRITE_USER = 7, HUGE_PAGE = 0x80, IOAPIC_PINS = 24, VCPUS_MAX = 16, CPUID_MAX = 128 };
enum step {
	CREATE_VM,
	MAP_RAM,
	MEMORY_SLOT,
	SPLIT_IRQCHIP,
	CREATE_VCPUS,
	CPUID,
	REGISTERS,
	REST_OF_STATE,
	FIRST_EXIT,
	TEARDOWN,
	N_STEPS
};

static const char *const step_names[N_STEPS] = {
	"create-vm",         "map-ram",  "memory-slot", "split-irqchip",
	"create-vcpus",      "cpuid",    "registers",   "xsave-msrs-lapic-events",
	"run-to-first-exit", "teardown",
};

struct cpuid {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[CPUID_MAX];
};

struct msrs {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[4];
};

struct host {
	int kvm_fd, ram_fd;
	size_t ram_bytes, run_bytes;
	unsigned n_vcpus;
	struct cpuid cpuid;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int must(int result, const char *what)
{
	if (result < 0)
		err(1, "%s", what);
	return result;
}

static void *map(int fd, size_t bytes, int flags)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		err(1, "map %zu bytes", bytes);
	return p;
}

/* 1 GiB of identity map by large pages, a flat GDT, and: movb $1, 0x300000; out %al, $0xf4; hlt */
static void make(const char *path, size_t ram_bytes)
{
	static const uint8_t code[] = { 0xc6, 0x04, 0x25, 0, 0, 0x30, 0, 1, 0xe6, 0xf4, 0xf4 };
	static const uint64_t gdt[] = {
		0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff
	};
	int fd = must(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), path);

	must(ftruncate(fd, (off_t)ram_bytes), path);
	uint8_t *ram = map(fd, STACK, MAP_SHARED);
	uint64_t *pd = (uint64_t *)(void *)(ram + PD), link;
	link = PDPT | PRESENT_WRITE_USER;
	memcpy(ram + PML4, &link, sizeof(link));
	link = PD | PRESENT_WRITE_USER;
	memcpy(ram + PDPT, &link, sizeof(link));
	for (uint64_t i = 0; i < 512; i++)
		pd[i] = i << 21 | HUGE_PAGE | PRESENT_WRITE_USER;
	memcpy(ram + GDT, gdt, sizeof(gdt));
	memcpy(ram + CODE, code, sizeof(code));
	munmap(ram, STACK);
	close(fd);
}

static struct host open_host(const char *path, unsigned n_vcpus)
{
	struct host h = { .n_vcpus = n_vcpus, .cpuid.head.nent = CPUID_MAX };
	struct stat st;

	if (n_vcpus < 1 || n_vcpus > VCPUS_MAX)
		errx(2, "1 to %d vCPUs", VCPUS_MAX);
	h.kvm_fd = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	h.ram_fd = must(open(path, O_RDONLY | O_CLOEXEC), path);
	must(fstat(h.ram_fd, &st), path);
	h.ram_bytes = (size_t)st.st_size;
	h.run_bytes = (size_t)must(ioctl(h.kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), "size of kvm_run");
	must(ioctl(h.kvm_fd, KVM_GET_SUPPORTED_CPUID, &h.cpuid), "supported CPUID");
	return h;
}

static void set_registers(int vcpu_fd)
{
	struct kvm_segment code = {
		.limit = UINT32_MAX, .selector = 0x23, .present = 1, .type = 11, .dpl = 3, .s = 1, .l = 1, .g = 1
	};
	struct kvm_segment data = {
		.limit = UINT32_MAX, .selector = 0x2b, .present = 1, .type = 3, .dpl = 3, .db = 1, .s = 1, .g = 1
	};
	struct kvm_regs regs = { .rip = CODE, .rflags = 0x3002, .rsp = STACK };
	struct kvm_sregs s;

	must(ioctl(vcpu_fd, KVM_GET_SREGS, &s), "get sregs");
	s.cr0 = 0x80050033;
	s.cr3 = PML4;
	s.cr4 = 0x20;
	s.efer = 0x500;
	s.gdt = (struct kvm_dtable){ .base = GDT, .limit = 47 };
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	must(ioctl(vcpu_fd, KVM_SET_SREGS, &s), "set sregs");
	must(ioctl(vcpu_fd, KVM_SET_REGS, &regs), "set regs");
}

static void set_rest(int vcpu_fd)
{
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;
	struct kvm_xsave xsave;
	struct msrs msrs = { .head.nmsrs = 4,
			     .entries = { { .index = 0x174 },
					  { .index = 0xc0000081 },
					  { .index = 0xc0000082 },
					  { .index = 0x10, .data = 1 } } };

	must(ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &events), "get events");
	must(ioctl(vcpu_fd, KVM_GET_XSAVE, &xsave), "get xsave");
	must(ioctl(vcpu_fd, KVM_GET_LAPIC, &lapic), "get lapic");
	must(ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &events), "set events");
	must(ioctl(vcpu_fd, KVM_SET_XSAVE, &xsave), "set xsave");
	must(ioctl(vcpu_fd, KVM_SET_LAPIC, &lapic), "set lapic");
	must(ioctl(vcpu_fd, KVM_SET_MSRS, &msrs), "set MSRs");
}

/* One VM, from nothing to the first exit and to nothing; ret_ns[] gets what each step took. */
static void run_vm(struct host *h, bool say, uint64_t ret_ns[N_STEPS])
{
	struct kvm_userspace_memory_region slot = { .memory_size = h->ram_bytes };
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };
	uint64_t at[N_STEPS + 1] = { now_ns() };
	int vcpu_fd[VCPUS_MAX];
	struct kvm_run *run[VCPUS_MAX] = {};

	int vm_fd = must(ioctl(h->kvm_fd, KVM_CREATE_VM, 0), "create a VM");
	at[CREATE_VM + 1] = now_ns();
	void *ram = map(h->ram_fd, h->ram_bytes, MAP_PRIVATE | MAP_NORESERVE);
	at[MAP_RAM + 1] = now_ns();
	slot.userspace_addr = (uintptr_t)ram;
	must(ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot), "memory slot");
	at[MEMORY_SLOT + 1] = now_ns();
	must(ioctl(vm_fd, KVM_ENABLE_CAP, &split), "split irqchip");
	at[SPLIT_IRQCHIP + 1] = now_ns();
	for (unsigned i = 0; i < h->n_vcpus; i++) {
		vcpu_fd[i] = must(ioctl(vm_fd, KVM_CREATE_VCPU, i), "create a vCPU");
		run[i] = map(vcpu_fd[i], h->run_bytes, MAP_SHARED);
	}
	at[CREATE_VCPUS + 1] = now_ns();
	for (unsigned i = 0; i < h->n_vcpus; i++)
		must(ioctl(vcpu_fd[i], KVM_SET_CPUID2, &h->cpuid), "set CPUID");
	at[CPUID + 1] = now_ns();
	for (unsigned i = 0; i < h->n_vcpus; i++)
		set_registers(vcpu_fd[i]);
	at[REGISTERS + 1] = now_ns();
	for (unsigned i = 0; i < h->n_vcpus; i++)
		set_rest(vcpu_fd[i]);
	at[REST_OF_STATE + 1] = now_ns();
	must(ioctl(vcpu_fd[0], KVM_RUN, 0), "run");
	at[FIRST_EXIT + 1] = now_ns();
	if (run[0]->exit_reason != KVM_EXIT_IO)
		errx(1, "first exit has reason %u, expected %d", run[0]->exit_reason, KVM_EXIT_IO);
	if (say && write(STDOUT_FILENO, "!", 1) != 1)
		err(1, "write");
	for (unsigned i = 0; i < h->n_vcpus; i++) {
		munmap(run[i], h->run_bytes);
		close(vcpu_fd[i]);
	}
	munmap(ram, h->ram_bytes);
	close(vm_fd);
	at[TEARDOWN + 1] = now_ns();
	for (unsigned i = 0; i < N_STEPS; i++)
		ret_ns[i] = at[i + 1] - at[i];
}

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void report(const char *name, uint64_t *ns, unsigned n)
{
	qsort(ns, n, sizeof(*ns), compare);
	printf("%s %llu %llu %llu\n", name, (unsigned long long)ns[n / 2], (unsigned long long)ns[n * 99 / 100],
	       (unsigned long long)ns[n - 1]);
}

static void steps(struct host *h, unsigned n)
{
	uint64_t ns[N_STEPS], *all = calloc((size_t)n * (N_STEPS + 1), sizeof(*all));

	if (!all)
		err(1, "memory for %u results", n);
	for (unsigned i = 0; i < n; i++) {
		run_vm(h, false, ns);
		for (unsigned s = 0; s < N_STEPS; s++) {
			all[(size_t)s * n + i] = ns[s];
			all[(size_t)N_STEPS * n + i] += s < TEARDOWN ? ns[s] : 0;
		}
	}
	for (unsigned s = 0; s < N_STEPS; s++)
		report(step_names[s], all + (size_t)s * n, n);
	report("total-to-first-exit", all + (size_t)N_STEPS * n, n);
	free(all);
}

static unsigned number(const char *text, unsigned max)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end || n < 1 || n > max)
		errx(2, "'%s' is not a number from 1 to %u", text, max);
	return (unsigned)n;
}

int main(int argc, char **argv)
{
	uint64_t ns[N_STEPS];

	if (argc == 4 && strcmp(argv[1], "make") == 0) {
		make(argv[2], (size_t)number(argv[3], 1 << 20) << 20);
	} else if (argc == 4 && strcmp(argv[1], "once") == 0) {
		struct host h = open_host(argv[2], number(argv[3], VCPUS_MAX));
		run_vm(&h, true, ns);
	} else if (argc == 5 && strcmp(argv[1], "steps") == 0) {
		struct host h = open_host(argv[2], number(argv[3], VCPUS_MAX));
		steps(&h, number(argv[4], 1000000));
	} else {
		errx(2, "usage: kvm_floor make FILE MIB | once FILE VCPUS | steps FILE VCPUS N");
	}
	return 0;
}
