// SPDX-License-Identifier: Apache-2.0
/*
 * Loads what a machine boots: a PVH ELF kernel or a Linux bzImage, initramfs, command line and
 * firmware tables, and points the boot vCPU at it. Formats: Xen's PVH ABI, Linux' boot protocol,
 * ELF-64.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "vmm/core/host_open.h"
#include "vmm/machine/machine.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/mptable.h"
#include "vmm/x86/smbios.h"

enum { E820_RAM = 1, E820_RESERVED = 2, MAX_E820 = 8, XEN_NOTE_PHYS32_ENTRY = 18, NOTES_MAX_BYTES = 1 << 20 };
enum { PVH_MAGIC = 0x336ec578, PVH_VERSION = 1 };

struct e820 {
	uint64_t addr, size;
	uint32_t type;
};

struct memory_map {
	struct e820 entry[MAX_E820];
	unsigned n;
};

/* What the loader found out, for the vCPU's registers. */
struct boot {
	bool long_mode; /* bzImage; else PVH */
	uint64_t entry;
	uint64_t initramfs, initramfs_bytes;
	uint8_t setup_header[0x290 - 0x1f1];
	size_t setup_bytes;
};

struct file {
	int fd;
	uint64_t size;
	const char *path;
};

static void file_done(struct file *f)
{
	if (f->fd >= 0)
		close(f->fd);
}
#define autofile __attribute__((cleanup(file_done)))

/* Opens a file of the payload, or takes the descriptor `given` (0: none) in its place. */
static int file_open(struct file *f, const char *path, int given, const char *what, struct err *err)
{
	struct stat st;

	f->fd = given > 0 ? fcntl(given, F_DUPFD_CLOEXEC, 3) : host_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	f->path = path;
	if (f->fd < 0)
		return err_sys(err, ERR_INTERNAL, "open %s '%s'", what, path);
	if (fstat(f->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, ERR_INTERNAL, "%s '%s' is not a regular file", what, path);
	f->size = (uint64_t)st.st_size;
	return 0;
}

static int file_read(const struct file *f, uint64_t off, void *buf, uint64_t len, struct err *err)
{
	ssize_t n = io_read(f->fd, buf, len, off);

	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read '%s'", f->path);
	unsigned long long end = off + (uint64_t)n;
	if ((uint64_t)n < len)
		return err_set(err, ERR_INVALID, "'%s' is cut short at byte %llu", f->path, end);
	return 0;
}

/* Reads a part of a file into guest RAM. */
static int load_at(const struct vm *vm, const struct file *f, uint64_t off, uint64_t len, gpa_t gpa, struct err *err)
{
	void *p = gmem_ptr(&vm->mem, gpa, len);

	if (!p)
		return err_set(err, ERR_INVALID, "'%s': %llu bytes at 0x%llx do not fit in guest RAM of %llu bytes",
			       f->path, (unsigned long long)len, (unsigned long long)gpa,
			       (unsigned long long)vm->mem.size);
	return file_read(f, off, p, len, err);
}

/* ---- ELF ---- */

/* Finds the entry point in a PVH note of this segment; 0: the segment has none. */
static int find_note(const struct file *f, const Elf64_Phdr *ph, uint64_t *ret_entry, struct err *err)
{
	if (ph->p_filesz > NOTES_MAX_BYTES)
		return err_set(err, ERR_INVALID, "'%s': notes of %llu bytes", f->path,
			       (unsigned long long)ph->p_filesz);
	autofree char *notes = malloc(ph->p_filesz + 1);
	if (!notes)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load '%s'", f->path);
	if (file_read(f, ph->p_offset, notes, ph->p_filesz, err) < 0)
		return err->num;
	for (uint64_t at = 0; at + sizeof(Elf64_Nhdr) <= ph->p_filesz;) {
		Elf64_Nhdr n;
		memcpy(&n, notes + at, sizeof(n));
		uint64_t name = at + sizeof(n), desc = name + ((n.n_namesz + 3ULL) & ~3ULL);
		uint64_t next = desc + ((n.n_descsz + 3ULL) & ~3ULL);
		if (next > ((ph->p_filesz + 3) & ~3ULL))
			break;
		if (n.n_type == XEN_NOTE_PHYS32_ENTRY && n.n_namesz == 4 && n.n_descsz >= 4 &&
		    desc + 4 <= ph->p_filesz && memcmp(notes + name, "Xen", 4) == 0) {
			uint32_t entry;
			memcpy(&entry, notes + desc, 4);
			*ret_entry = entry;
			return 0;
		}
		at = next;
	}
	return 0;
}

static int load_elf(const struct vm *vm, const struct file *f, struct boot *boot, struct err *err)
{
	Elf64_Ehdr eh;

	if (file_read(f, 0, &eh, sizeof(eh), err) < 0)
		return err->num;
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_X86_64 || eh.e_phentsize != sizeof(Elf64_Phdr))
		return err_set(err, ERR_INVALID, "'%s' is not an x86-64 ELF file", f->path);
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;
		if (file_read(f, eh.e_phoff + i * sizeof(ph), &ph, sizeof(ph), err) < 0)
			return err->num;
		if (ph.p_type == PT_LOAD && ph.p_filesz > 0 &&
		    load_at(vm, f, ph.p_offset, ph.p_filesz, ph.p_paddr, err) < 0)
			return err->num;
		if (ph.p_type == PT_LOAD && !gmem_ptr(&vm->mem, ph.p_paddr, ph.p_memsz))
			return err_set(err, ERR_INVALID, "'%s' needs %llu bytes at 0x%llx, guest RAM has %llu", f->path,
				       (unsigned long long)ph.p_memsz, (unsigned long long)ph.p_paddr,
				       (unsigned long long)vm->mem.size);
		if (ph.p_type == PT_NOTE && !boot->entry && find_note(f, &ph, &boot->entry, err) < 0)
			return err->num;
	}
	if (!boot->entry)
		return err_set(err, ERR_INVALID,
			       "'%s' is an ELF file without a PVH entry point (Xen note 18): not bootable", f->path);
	return 0;
}

/* ---- bzImage (Linux Documentation/arch/x86/boot.rst) ---- */

enum {
	HDR_START = 0x1f1,
	HDR_MAGIC = 0x202,
	HDR_VERSION = 0x206,
	HDR_LOADFLAGS = 0x211,
	HDR_XLOADFLAGS = 0x236,
	HDR_END_OFFSET = 0x201,
	LOADED_HIGH = 1,
	XLF_KERNEL_64 = 1,
	MIN_VERSION = 0x20c,
	ENTRY_64 = 0x200,
	SECTOR = 512,
};

static int load_bzimage(const struct vm *vm, const struct file *f, const uint8_t *head, struct boot *boot,
			struct err *err)
{
	uint16_t version, xloadflags;
	unsigned setup_sects = head[HDR_START] ? head[HDR_START] : 4;
	uint64_t offset = (setup_sects + 1ULL) * SECTOR;

	memcpy(&version, head + HDR_VERSION, 2);
	memcpy(&xloadflags, head + HDR_XLOADFLAGS, 2);
	if (version < MIN_VERSION || !(head[HDR_LOADFLAGS] & LOADED_HIGH) || !(xloadflags & XLF_KERNEL_64))
		return err_set(err, ERR_INVALID, "'%s' is a bzImage without a 64-bit entry (boot protocol %u.%u)",
			       f->path, version >> 8, version & 0xff);
	if (f->size <= offset)
		return err_set(err, ERR_INVALID, "'%s' is cut short: %llu bytes", f->path, (unsigned long long)f->size);
	if (load_at(vm, f, offset, f->size - offset, HIGH_MEMORY_START, err) < 0)
		return err->num;
	size_t end = HDR_MAGIC + head[HDR_END_OFFSET];
	boot->setup_bytes = end - HDR_START < sizeof(boot->setup_header) ? end - HDR_START : sizeof(boot->setup_header);
	memcpy(boot->setup_header, head + HDR_START, boot->setup_bytes);
	boot->long_mode = true;
	boot->entry = HIGH_MEMORY_START + ENTRY_64;
	return 0;
}

static int load_kernel(const struct vm *vm, const char *path, int fd, struct boot *boot, struct err *err)
{
	uint8_t head[1024] = {};
	autofile struct file f = { .fd = -1 };

	if (file_open(&f, path, fd, "kernel", err) < 0)
		return err->num;
	if (file_read(&f, 0, head, f.size < sizeof(head) ? f.size : sizeof(head), err) < 0)
		return err->num;
	if (memcmp(head, ELFMAG, SELFMAG) == 0)
		return load_elf(vm, &f, boot, err);
	if (memcmp(head + HDR_MAGIC, "HdrS", 4) == 0)
		return load_bzimage(vm, &f, head, boot, err);
	return err_set(err, ERR_INVALID, "kernel '%s' is neither an ELF file nor a bzImage", path);
}

/* Loads the initramfs to the top of low RAM, on a page boundary. */
static int load_initramfs(const struct vm *vm, const char *path, int fd, struct boot *boot, struct err *err)
{
	uint64_t low = vm->mem.region[0].size;
	autofile struct file f = { .fd = -1 };

	if (file_open(&f, path, fd, "initramfs", err) < 0)
		return err->num;
	if (f.size == 0 || f.size > low - HIGH_MEMORY_START)
		return err_set(err, ERR_INVALID, "initramfs '%s' of %llu bytes does not fit in %llu bytes of low RAM",
			       path, (unsigned long long)f.size, (unsigned long long)low);
	boot->initramfs = (low - f.size) & ~(GUEST_PAGE - 1ULL);
	boot->initramfs_bytes = f.size;
	return load_at(vm, &f, 0, f.size, boot->initramfs, err);
}

/* ---- tables ---- */

static void make_memory_map(const struct vm *vm, struct memory_map *m)
{
	*m = (struct memory_map){ .n = 2 };
	m->entry[0] = (struct e820){ 0, EBDA_START, E820_RAM };
	m->entry[1] = (struct e820){ HIGH_MEMORY_START, vm->mem.region[0].size - HIGH_MEMORY_START, E820_RAM };
	if (vm->mem.n > 1)
		m->entry[m->n++] = (struct e820){ HIGH_RAM_START, vm->mem.region[1].size, E820_RAM };
	m->entry[m->n++] = (struct e820){ ECAM_BASE, ECAM_BYTES, E820_RESERVED };
}

/*
 * Linux on hardware-reduced ACPI without EFI resets by a jump to the BIOS, which is not there. A
 * few instructions that write the reset register stand in its place.
 */
static int write_reset_vector(const struct vm *vm, struct err *err)
{
	static const uint8_t code[] = {
		0xba,
		ACPI_PORT_SLEEP & 0xff,
		ACPI_PORT_SLEEP >> 8, /* mov dx, port */
		0xb0,
		ACPI_SLEEP_RESET, /* mov al, value */
		0xee,             /* out dx, al */
		0xf4,
		0xeb,
		0xfd, /* hlt; jmp back */
	};

	return gmem_write(&vm->mem, RESET_VECTOR, code, sizeof(code), "reset vector", err);
}

static int write_acpi(struct vm *vm, struct err *err)
{
	const struct cpus_config *cpus = &vm->config->cpus;
	struct acpi_cfg cfg = {
		.boot_vcpus = cpus->boot_vcpus,
		.max_vcpus = cpus->max_vcpus,
		.topology = cpuid_topology(cpus),
		.phys_bits = vm->arch.phys_bits,
		.ram_bytes = vm->mem.size,
		.hotplug_acpi = vm->config->memory.hotplug_method == 0,
		.serial = vm->config->serial.mode != CONSOLE_OFF,
		.vmgenid = vm->config->platform && vm->config->platform->vmgenid,
	};
	uint8_t *at = gmem_ptr(&vm->mem, ACPI_TABLES_GPA, ACPI_TABLES_MAX);

	if (!at || acpi_build(&cfg, at, ACPI_TABLES_MAX) > ACPI_TABLES_MAX)
		return err_set(err, ERR_INTERNAL, "the ACPI tables of %u vCPUs do not fit", cpus->max_vcpus);
	uint8_t *smbios = gmem_ptr(&vm->mem, SMBIOS_GPA, HIGH_MEMORY_START - SMBIOS_GPA);
	size_t room = ACPI_VMGENID_GPA - SMBIOS_GPA;
	size_t used = smbios ? smbios_build(&(struct smbios_cfg){}, smbios, room) : SIZE_MAX;
	size_t mp = (used + MPTABLE_ALIGN - 1) & ~(MPTABLE_ALIGN - 1ULL);
	if (used > room ||
	    mptable_build(cpus->boot_vcpus, &cfg.topology, SMBIOS_GPA + mp, smbios + mp, room - mp) > room - mp)
		return err_set(err, ERR_INTERNAL, "the SMBIOS and MP tables of %u vCPUs do not fit", cpus->boot_vcpus);
	vm->arch.vmgenid_gpa = cfg.vmgenid ? ACPI_VMGENID_GPA : 0;
	return arch_generation_set(vm, err) < 0 ? err->num : write_reset_vector(vm, err);
}

/* struct hvm_start_info and what it points to (Xen: public/arch-x86/hvm/start_info.h). */
struct pvh_start {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};
struct pvh_module {
	uint64_t addr, size, cmdline, reserved;
};
struct pvh_memmap {
	uint64_t addr, size;
	uint32_t type, reserved;
};

static int write_pvh(const struct vm *vm, const struct boot *boot, const struct memory_map *map, struct err *err)
{
	struct pvh_start start = {
		.magic = PVH_MAGIC,
		.version = PVH_VERSION,
		.cmdline = CMDLINE_START,
		.rsdp = ACPI_TABLES_GPA,
		.memmap = PVH_MEMMAP,
		.memmap_entries = map->n,
	};
	struct pvh_module module = { .addr = boot->initramfs, .size = boot->initramfs_bytes };
	struct pvh_memmap memmap[MAX_E820] = {};

	for (unsigned i = 0; i < map->n; i++)
		memmap[i] = (struct pvh_memmap){ map->entry[i].addr, map->entry[i].size, map->entry[i].type, 0 };
	if (boot->initramfs_bytes) {
		start.nr_modules = 1;
		start.modlist = PVH_MODULES;
		if (gmem_write(&vm->mem, PVH_MODULES, &module, sizeof(module), "module list", err) < 0)
			return err->num;
	}
	if (gmem_write(&vm->mem, PVH_MEMMAP, memmap, sizeof(memmap), "memory map", err) < 0)
		return err->num;
	return gmem_write(&vm->mem, PVH_START_INFO, &start, sizeof(start), "PVH start info", err);
}

enum {
	ZP_RSDP = 0x70,
	ZP_E820_ENTRIES = 0x1e8,
	ZP_LOADER = 0x210,
	ZP_RAMDISK = 0x218,
	ZP_CMDLINE = 0x228,
	ZP_E820 = 0x2d0,
	E820_BYTES = 20,
	LOADER_UNDEFINED = 0xff
};

static int write_zero_page(const struct vm *vm, const struct boot *boot, const struct memory_map *map, struct err *err)
{
	uint8_t zp[4096] = {};
	uint64_t rsdp = ACPI_TABLES_GPA;
	uint32_t ramdisk[2] = { (uint32_t)boot->initramfs, (uint32_t)boot->initramfs_bytes }, cmdline = CMDLINE_START;

	memcpy(zp + HDR_START, boot->setup_header, boot->setup_bytes);
	memcpy(zp + ZP_RSDP, &rsdp, sizeof(rsdp));
	zp[ZP_LOADER] = LOADER_UNDEFINED;
	memcpy(zp + ZP_RAMDISK, ramdisk, sizeof(ramdisk));
	memcpy(zp + ZP_CMDLINE, &cmdline, sizeof(cmdline));
	zp[ZP_E820_ENTRIES] = (uint8_t)map->n;
	for (unsigned i = 0; i < map->n; i++) {
		uint8_t *e = zp + ZP_E820 + (size_t)i * E820_BYTES;
		memcpy(e, &map->entry[i].addr, 8);
		memcpy(e + 8, &map->entry[i].size, 8);
		memcpy(e + 16, &map->entry[i].type, 4);
	}
	return gmem_write(&vm->mem, ZERO_PAGE, zp, sizeof(zp), "zero page", err);
}

/* ---- registers ---- */

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code64)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.g = 1,
		.l = code64,
		.db = !code64,
	};
}

static struct kvm_segment task_segment(uint16_t selector)
{
	return (struct kvm_segment){ .limit = 0x67, .selector = selector, .type = 11, .present = 1 };
}

/* The boot GDT: null, code, data, TSS. */
static int write_gdt(const struct vm *vm, bool long_mode, struct err *err)
{
	const uint64_t gdt[4] = { 0, long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff,
				  0x00008b0000000067 };
	uint64_t idt = 0;

	if (gmem_write(&vm->mem, BOOT_GDT, gdt, sizeof(gdt), "boot GDT", err) < 0)
		return err->num;
	return gmem_write(&vm->mem, BOOT_IDT, &idt, sizeof(idt), "boot IDT", err);
}

/* The first GiB, one to one, in pages of 2 MiB. */
static int write_page_tables(const struct vm *vm, struct err *err)
{
	uint64_t pml4 = BOOT_PDPT | 3, pdpt = BOOT_PD | 3, pd[512];

	for (uint64_t i = 0; i < 512; i++)
		pd[i] = i << 21 | 0x83;
	if (gmem_write(&vm->mem, BOOT_PML4, &pml4, sizeof(pml4), "page tables", err) < 0 ||
	    gmem_write(&vm->mem, BOOT_PDPT, &pdpt, sizeof(pdpt), "page tables", err) < 0)
		return err->num;
	return gmem_write(&vm->mem, BOOT_PD, pd, sizeof(pd), "page tables", err);
}

static int set_registers(struct vm *vm, const struct boot *boot, struct err *err)
{
	struct vcpu *vcpu = &vm->vcpus.vcpu[0];
	struct kvm_sregs s;

	if (write_gdt(vm, boot->long_mode, err) < 0 || (boot->long_mode && write_page_tables(vm, err) < 0))
		return err->num;
	if (kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &s, "get system registers", err) < 0)
		return err->num;
	s.gdt = (struct kvm_dtable){ .base = BOOT_GDT, .limit = 31 };
	s.idt = (struct kvm_dtable){ .base = BOOT_IDT, .limit = 7 };
	s.cs = segment(8, 11, boot->long_mode);
	s.ds = s.es = s.fs = s.gs = s.ss = segment(16, 3, false);
	s.tr = task_segment(24);
	s.cr0 |= 1; /* protected mode */
	s.cr4 = 0;
	if (boot->long_mode) {
		s.cr0 |= 1ULL << 31;
		s.cr3 = BOOT_PML4;
		s.cr4 = 1 << 5;
		s.efer |= 0x500;
	}
	struct kvm_regs r = {
		.rip = boot->entry,
		.rflags = 2,
		.rsp = BOOT_STACK,
		.rbp = BOOT_STACK,
		.rbx = boot->long_mode ? 0 : PVH_START_INFO,
		.rsi = boot->long_mode ? ZERO_PAGE : 0,
	};
	if (kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &s, "set system registers", err) < 0)
		return err->num;
	return kvm_ioctl(vcpu->fd, KVM_SET_REGS, &r, "set registers", err);
}

int arch_load_payload(struct vm *vm, struct err *err)
{
	const struct payload_config *p = vm->config->payload;
	const char *cmdline = p->cmdline ? p->cmdline : "";
	struct memory_map map;
	struct boot boot = {};

	if (vm->mem.region[0].size <= HIGH_MEMORY_START)
		return err_set(err, ERR_INVALID, "guest RAM of %llu bytes is too small to boot from",
			       (unsigned long long)vm->mem.size);
	if (load_kernel(vm, p->kernel, p->kernel_fd, &boot, err) < 0)
		return err->num;
	if (p->initramfs && load_initramfs(vm, p->initramfs, p->initramfs_fd, &boot, err) < 0)
		return err->num;
	if (gmem_write(&vm->mem, CMDLINE_START, cmdline, strlen(cmdline) + 1, "command line", err) < 0)
		return err->num;
	uint16_t ebda = EBDA_START >> 4;
	if (gmem_write(&vm->mem, EBDA_POINTER, &ebda, sizeof(ebda), "EBDA pointer", err) < 0 || write_acpi(vm, err) < 0)
		return err->num;
	make_memory_map(vm, &map);
	if ((boot.long_mode ? write_zero_page(vm, &boot, &map, err) : write_pvh(vm, &boot, &map, err)) < 0)
		return err->num;
	return set_registers(vm, &boot, err);
}
