// SPDX-License-Identifier: Apache-2.0
/* vmm/x86/boot: PVH ELF files and bzImages, good and broken, and where everything lies afterwards. KVM is fake_kvm(). */
#include "tests/unit/fake_kvm.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "vmm/machine/machine.h"
#include "vmm/x86/layout.h"

enum { RAM_BYTES = 8 << 20, ENTRY = 0x200100 };

static struct kvm_sregs sregs;
static struct kvm_regs regs;
static bool were_set;

static int fake_kvm(unsigned long request, void *arg)
{
	if (request == KVM_GET_SREGS)
		*(struct kvm_sregs *)arg =
			(struct kvm_sregs){ .cr0 = 0x60000010, .cr4 = 0xff, .apic_base = 0xfee00900 };
	else if (request == KVM_SET_SREGS)
		sregs = *(struct kvm_sregs *)arg;
	else if (request == KVM_SET_REGS)
		regs = *(struct kvm_regs *)arg;
	else
		fail_msg("ioctl 0x%lx", request);
	were_set = true;
	return 0;
}

static char kernel[] = "/tmp/forkd-test-boot-XXXXXX", initramfs[] = "/tmp/forkd-test-initramfs-XXXXXX";
static char cmdline[] = "console=ttyS0 quiet";
static struct vm vm;
static struct vcpu vcpu;
static struct vm_config config;
static struct payload_config payload;

static int make_files(void **state)
{
	(void)state;
	close(mkstemp(kernel));
	close(mkstemp(initramfs));
	return 0;
}

static int remove_files(void **state)
{
	(void)state;
	unlink(kernel);
	return unlink(initramfs);
}

static int make(void **state)
{
	struct err err = {};

	(void)state;
	payload = (struct payload_config){ .kernel = kernel, .cmdline = cmdline };
	config = (struct vm_config){ .payload = &payload, .cpus = { .boot_vcpus = 2, .max_vcpus = 2 } };
	vcpu = (struct vcpu){ .fd = FAKE_FD };
	vm = (struct vm){ .config = &config, .vcpus = { .vcpu = &vcpu, .n = 1 }, .arch.phys_bits = 46 };
	were_set = false;
	arch_layout_ram(&vm.mem, RAM_BYTES);
	return gmem_map_anon(&vm.mem, false, false, &err);
}

static int done(void **state)
{
	(void)state;
	gmem_unmap(&vm.mem);
	return 0;
}

static void put_file(const char *path, const void *data, size_t len)
{
	autoclose int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

	assert_int_equal(write(fd, data, len), len);
}

/* A kernel of one segment at 2 MiB and the note. */
struct image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[2];
	struct {
		Elf64_Nhdr head;
		char name[4];
		uint32_t entry;
	} note[2];
	char code[16];
};

static struct image good_image(void)
{
	return (struct image){
		.eh = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64 },
			.e_machine = EM_X86_64,
			.e_phoff = offsetof(struct image, ph),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2 },
		.ph = { { .p_type = PT_LOAD,
			  .p_offset = offsetof(struct image, code),
			  .p_paddr = 0x200000,
			  .p_filesz = 16,
			  .p_memsz = 4096 },
			{ .p_type = PT_NOTE, .p_offset = offsetof(struct image, note), .p_filesz = 40 } },
		.note = { { { 4, 4, 1 }, "Xen", 5 }, { { 4, 4, 18 }, "Xen", ENTRY } },
		.code = "the kernel code",
	};
}

static int load(const struct image *im, struct err *err)
{
	put_file(kernel, im, sizeof(*im));
	return arch_load_payload(&vm, err);
}

static const void *ram(uint64_t gpa)
{
	return gmem_ptr(&vm.mem, gpa, 1);
}

static uint64_t word(uint64_t gpa, unsigned bytes)
{
	uint64_t v = 0;

	memcpy(&v, ram(gpa), bytes);
	return v;
}

static void pvh(void **state)
{
	struct image im = good_image();
	struct err err = {};

	(void)state;
	char data[5000];
	memset(data, 'i', sizeof(data));
	put_file(initramfs, data, sizeof(data));
	payload.initramfs = initramfs;
	assert_int_equal(load(&im, &err), 0);
	assert_string_equal(ram(0x200000), "the kernel code");
	assert_int_equal(word(0x200010, 8), 0);
	assert_string_equal(ram(CMDLINE_START), cmdline);
	assert_int_equal(word(0x40e, 2), 0xa000);
	uint64_t at = RAM_BYTES - 2 * 4096; /* the top of RAM, on a page */
	assert_memory_equal(ram(at), data, sizeof(data));
	const uint32_t start[] = { 0x336ec578, 1, 0, 1, 0x6040, 0, 0x20000, 0, 0xa0000, 0, 0x7000, 0, 3, 0 };
	assert_memory_equal(ram(0x6000), start, sizeof(start));
	assert_int_equal(word(0x6040, 8), at);
	assert_int_equal(word(0x6048, 8), sizeof(data));
	static const uint64_t map[][3] = {
		{ 0, 0xa0000, 1 },
		{ 0x100000, RAM_BYTES - 0x100000, 1 },
		{ 0xe8000000, 0x10000000, 2 },
		{ 0, 0, 0 },
	};
	assert_memory_equal(ram(0x7000), map, sizeof(map));
	static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x008b0000000067 };
	assert_memory_equal(ram(0x500), gdt, sizeof(gdt));
	assert_memory_equal(ram(0xa0000), "RSD PTR ", 8);
	assert_memory_equal(ram(0xf0000), "_SM3_", 5);
	assert_int_equal(word(0xffff0, 1), 0xba);
	assert_int_equal(regs.rip, ENTRY);
	assert_int_equal(regs.rbx, 0x6000);
	assert_int_equal(regs.rsp, 0x8ff0);
	assert_int_equal(regs.rflags, 2);
	assert_int_equal(sregs.cr0, 0x60000011);
	assert_int_equal(sregs.cr4, 0);
	assert_int_equal(sregs.apic_base, 0xfee00900); /* the rest is as it was */
	assert_int_equal(sregs.cs.selector, 8);
	assert_int_equal(sregs.cs.db, 1);
	assert_int_equal(sregs.cs.l, 0);
	assert_int_equal(sregs.gdt.limit, 31);
	assert_int_equal(sregs.tr.type, 11);
}

/* For the sanitizer: the last note's name reaches beyond the segment. */
static void note_at_the_end(void **state)
{
	struct image im = good_image();
	struct err err = {};

	(void)state;
	im.note[1].head.n_descsz = 0;
	im.ph[1].p_filesz = 33;
	assert_int_equal(load(&im, &err), -EINVAL);
}

static void pvh_alone(void **state)
{
	struct image im = good_image();
	struct err err = {};

	(void)state;
	payload.cmdline = NULL;
	assert_int_equal(load(&im, &err), 0);
	assert_int_equal(word(0x600c, 4), 0);
	assert_int_equal(word(0x6010, 8), 0);
	assert_int_equal(word(CMDLINE_START, 1), 0);
}

static void broken_elf(void **state)
{
	static const struct {
		size_t at;
		uint64_t value;
		unsigned bytes;
		const char *msg;
	} cases[] = {
		{ EI_CLASS, ELFCLASS32, 1, "is not an x86-64 ELF file" },
		{ offsetof(Elf64_Ehdr, e_machine), EM_AARCH64, 2, "is not an x86-64 ELF file" },
		{ offsetof(Elf64_Ehdr, e_phentsize), 32, 2, "is not an x86-64 ELF file" },
		{ offsetof(Elf64_Ehdr, e_phoff), 0x10000, 8, "is cut short at byte 65536" },
		{ offsetof(Elf64_Ehdr, e_phoff), UINT64_MAX - 64, 8, "read '" },
		{ offsetof(Elf64_Ehdr, e_phnum), 0, 2, "without a PVH entry point (Xen note 18): not bootable" },
		{ offsetof(Elf64_Ehdr, e_phnum), 0xffff, 2, "" },
		{ offsetof(struct image, ph[0].p_offset), 0x100000, 8, "is cut short at byte 1048576" },
		{ offsetof(struct image, ph[0].p_filesz), 0x1000000, 8,
		  "16777216 bytes at 0x200000 do not fit in guest RAM of 8388608 bytes" },
		{ offsetof(struct image, ph[0].p_filesz), UINT64_MAX, 8, "do not fit in guest RAM" },
		{ offsetof(struct image, ph[0].p_paddr), RAM_BYTES - 15, 8, "16 bytes at 0x7ffff1 do not fit" },
		{ offsetof(struct image, ph[0].p_paddr), UINT64_MAX - 7, 8, "do not fit" },
		{ offsetof(struct image, ph[0].p_memsz), RAM_BYTES, 8,
		  "needs 8388608 bytes at 0x200000, guest RAM has 8388608" },
		{ offsetof(struct image, ph[1].p_filesz), (1 << 20) + 1, 8, "notes of 1048577 bytes" },
		{ offsetof(struct image, ph[1].p_filesz), UINT64_MAX, 8, "notes of 18446744073709551615 bytes" },
		{ offsetof(struct image, ph[1].p_filesz), 20, 8, "without a PVH entry point" },
		{ offsetof(struct image, ph[1].p_filesz), 36, 8, "without a PVH entry point" },
		{ offsetof(struct image, ph[1].p_filesz), 38, 8, "without a PVH entry point" },
		{ offsetof(struct image, note[0].head.n_namesz), UINT32_MAX, 4, "without a PVH entry point" },
		{ offsetof(struct image, note[1].head.n_descsz), UINT32_MAX, 4, "without a PVH entry point" },
		{ offsetof(struct image, note[1].head.n_descsz), 3, 4, "without a PVH entry point" },
		{ offsetof(struct image, note[1].name), 'Y', 1, "without a PVH entry point" },
		{ offsetof(struct image, note[1].entry), 0, 4, "without a PVH entry point" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct image im = good_image();
		struct err err = {};
		memcpy((char *)&im + cases[i].at, &cases[i].value, cases[i].bytes);
		make(state);
		int r = load(&im, &err);
		if (r >= 0 || !strstr(err.msg, cases[i].msg))
			fail_msg("case %zu: %d %s", i, r, err.msg);
		assert_false(were_set);
		done(state);
	}
	make(state);
}

static void not_kernels(void **state)
{
	struct err err = {};
	char text[64] = "#!/bin/sh\n";

	(void)state;
	put_file(kernel, text, sizeof(text));
	assert_int_equal(arch_load_payload(&vm, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "is neither an ELF file nor a bzImage"));
	put_file(kernel, "", 0);
	assert_int_equal(arch_load_payload(&vm, &err), -EINVAL);
	char none[] = "/nonexistent", folder[] = "/tmp";
	payload.kernel = none;
	assert_int_equal(arch_load_payload(&vm, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "open kernel '/nonexistent'"));
	payload.kernel = folder;
	assert_true(arch_load_payload(&vm, &err) < 0);
	assert_string_equal(err.msg, "kernel '/tmp' is not a regular file");
	assert_int_equal(err.code, ERR_INTERNAL); /* 500, as Cloud Hypervisor answers */
	payload.kernel = kernel;
	struct image im = good_image();
	payload.initramfs = initramfs;
	put_file(initramfs, "", 0);
	assert_int_equal(load(&im, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "of 0 bytes does not fit"));
	assert_int_equal(truncate(initramfs, RAM_BYTES - 0x100000 + 1), 0);
	assert_int_equal(load(&im, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "does not fit in 8388608 bytes of low RAM"));
	gmem_unmap(&vm.mem);
	arch_layout_ram(&vm.mem, 1 << 20);
	assert_int_equal(gmem_map_anon(&vm.mem, false, false, &err), 0);
	assert_int_equal(load(&im, &err), -EINVAL);
	assert_string_equal(err.msg, "guest RAM of 1048576 bytes is too small to boot from");
}

static void bzimage(void **state)
{
	static uint8_t im[512 * 3 + 100];
	struct err err = {};

	(void)state;
	im[0x1f1] = 2;    /* setup sectors */
	im[0x201] = 0x6a; /* the header ends at 0x26c */
	memcpy(im + 0x202, (const char[]){ 'H', 'd', 'r', 'S' }, 4);
	im[0x206] = 0x0c;
	im[0x207] = 2;
	im[0x211] = 1;
	im[0x236] = 1;
	memcpy(im + 512 * 3, "protected mode", 15);
	im[0x26b] = 0x77;
	im[0x26c] = 0x88;
	put_file(kernel, im, sizeof(im));
	put_file(initramfs, "initrd", 6);
	payload.initramfs = initramfs;
	assert_int_equal(arch_load_payload(&vm, &err), 0);
	assert_string_equal(ram(0x100000), "protected mode");
	assert_int_equal(regs.rip, 0x100200);
	assert_int_equal(regs.rsi, 0x7000);
	assert_int_equal(regs.rbx, 0);
	assert_int_equal(sregs.cr0, 0xe0000011);
	assert_int_equal(sregs.cr3, 0x9000);
	assert_int_equal(sregs.cr4, 0x20);
	assert_int_equal(sregs.efer, 0x500);
	assert_int_equal(sregs.cs.l, 1);
	assert_int_equal(sregs.cs.db, 0);
	assert_int_equal(word(0x9000, 8), 0xa003);
	assert_int_equal(word(0xa000, 8), 0xb003);
	assert_int_equal(word(0xb000, 8), 0x83);
	assert_int_equal(word(0xbff8, 8), (511ULL << 21) | 0x83);
	assert_int_equal(word(0x508, 8), 0x00af9b000000ffff);
	assert_memory_equal(ram(0x7000 + 0x202), "HdrS", 4);
	assert_int_equal(word(0x7000 + 0x26b, 2), 0x0077); /* the header and no more */
	assert_int_equal(word(0x7000 + 0x70, 8), 0xa0000);
	assert_int_equal(word(0x7000 + 0x210, 1), 0xff);
	assert_int_equal(word(0x7000 + 0x218, 4), RAM_BYTES - 4096);
	assert_int_equal(word(0x7000 + 0x21c, 4), 6);
	assert_int_equal(word(0x7000 + 0x228, 4), 0x20000);
	assert_int_equal(word(0x7000 + 0x1e8, 1), 3);
	assert_int_equal(word(0x7000 + 0x2d0 + 20, 8), 0x100000);
	assert_int_equal(word(0x7000 + 0x2d0 + 40 + 16, 4), 2);

	static const struct {
		unsigned at;
		uint8_t value;
		const char *msg;
	} cases[] = {
		{ 0x206, 0x0b, "is a bzImage without a 64-bit entry (boot protocol 2.11)" },
		{ 0x211, 0, "without a 64-bit entry" },
		{ 0x236, 0, "without a 64-bit entry" },
		{ 0x1f1, 0, "is cut short: 1636 bytes" },
		{ 0x1f1, 200, "is cut short" },
		{ 0x202, 'h', "neither an ELF file nor a bzImage" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint8_t was = im[cases[i].at];
		im[cases[i].at] = cases[i].value;
		put_file(kernel, im, sizeof(im));
		im[cases[i].at] = was;
		assert_int_equal(arch_load_payload(&vm, &err), -EINVAL);
		if (!strstr(err.msg, cases[i].msg))
			fail_msg("case %zu: %s", i, err.msg);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(pvh),         T(note_at_the_end), T(pvh_alone), cmocka_unit_test_teardown(broken_elf, done),
		T(not_kernels), T(bzimage),
	};

	return cmocka_run_group_tests_name("boot", tests, make_files, remove_files);
}
