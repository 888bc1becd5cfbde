// SPDX-License-Identifier: Apache-2.0
/* The guest-physical addresses of the x86 machine, Cloud Hypervisor's. */
#ifndef VMM_X86_LAYOUT_H
#define VMM_X86_LAYOUT_H

#define LOW_RAM_END 0xc0000000ULL /* 32-bit MMIO begins here */
#define MMIO32_END 0xe8000000ULL
#define ECAM_BASE 0xe8000000ULL
#define ECAM_BYTES 0x10000000ULL
#define KVM_TSS_ADDRESS 0xf8000000ULL /* three pages, used by KVM on Intel hosts */
#define KVM_IDENTITY_MAP_ADDRESS 0xf8003000ULL
#define HIGH_RAM_START 0x100000000ULL

#define EBDA_POINTER 0x40eULL
#define BOOT_GDT 0x500ULL
#define BOOT_IDT 0x520ULL
#define PVH_START_INFO 0x6000ULL
#define PVH_MODULES 0x6040ULL
#define PVH_MEMMAP 0x7000ULL
#define ZERO_PAGE 0x7000ULL /* bzImage only: at the memory map's place */
#define BOOT_STACK 0x8ff0ULL
#define BOOT_PML4 0x9000ULL
#define BOOT_PDPT 0xa000ULL
#define BOOT_PD 0xb000ULL
#define CMDLINE_START 0x20000ULL
#define EBDA_START 0xa0000ULL   /* also the end of low RAM in the memory map */
#define RESET_VECTOR 0xffff0ULL /* f000:fff0 in real mode */
#define HIGH_MEMORY_START 0x100000ULL

#endif
