// SPDX-License-Identifier: Apache-2.0
/*
 * The x86 structs behind vmm/core/arch.h: the platform around the vCPUs, a saved vCPU, saved clock
 * and CPUID.
 */
#ifndef VMM_X86_ARCH_TYPES_H
#define VMM_X86_ARCH_TYPES_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/x86/acpi_regs.h"

enum { IOAPIC_PINS = 24, MAX_CPUID_ENTRIES = 256, MSR_MAX = 1024, CPU_NEEDS = 19 };
enum { XSAVE_WORDS = sizeof(struct kvm_xsave) / sizeof(uint32_t) }; /* of a CPU without larger extensions */

/* As in state.json ("__ioapic"). */
struct ioapic_state {
	uint32_t id_reg, reg_sel;
	uint64_t reg_entries[IOAPIC_PINS];
	bool used_entries[IOAPIC_PINS];
	uint64_t apic_address;
};

struct ioapic {
	struct ioapic_state s;
	pthread_mutex_t lock;
	bool level[IOAPIC_PINS]; /* the level that devices drive */
	bool routed;             /* KVM knows of the level-triggered pins */
};

struct cpuid_entry {
	uint32_t function, index, flags, eax, ebx, ecx, edx;
};

struct cpuid_table {
	struct cpuid_entry *entry;
	uint32_t n_entry;
};

/* What the clocks of a vCPU showed when the vCPU stopped. */
struct vcpu_clock {
	uint64_t tsc, deadline; /* deadline: of the TSC deadline timer; 0: not armed */
	uint32_t timer_count;   /* what the LAPIC timer, one-shot or periodic, had left to count */
};

struct arch_vm {
	struct ioapic ioapic;
	pthread_mutex_t acpi_lock;
	struct acpi_regs acpi_regs;
	struct acpi_block_dev {
		struct arch_vm *arch;
		enum acpi_block block;
	} acpi_dev[4];
	unsigned phys_bits;
	uint32_t tsc_khz;
	_Atomic uint8_t cmos_index;
	uint64_t vmgenid_gpa;        /* of the guest's generation id; 0: the guest has none */
	struct cpuid_table cpuid;    /* common to all vCPUs */
	uint64_t elapsed_ns;         /* restored: wall time from the snapshot until its state was read */
	struct kvm_clock_data clock; /* stamped at pause, with the wall clock */
	struct vcpu_clock *stopped;  /* of the same moment, one for each vCPU */
	bool has_stopped;            /* `clock` and `stopped` are of the last pause, or of the snapshot */
};

struct msr_entry {
	uint32_t index;
	uint64_t data;
};

/* As in state.json ("Kvm" of a vCPU). */
struct vcpu_kvm_state {
	struct cpuid_entry *cpuid;
	uint32_t n_cpuid;
	struct msr_entry *msrs;
	uint32_t n_msrs;
	struct kvm_vcpu_events vcpu_events;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct {
		int8_t regs[KVM_APIC_REG_SIZE];
	} lapic_state;
	struct {
		uint32_t *region;
		uint32_t n_region;
	} xsave;
	struct kvm_xcrs xcrs;
	struct kvm_mp_state mp_state;
	uint32_t tsc_khz;
	bool has_tsc_khz;
	uint8_t *nested_state; /* vmm/x86/nested.h; NULL: none */
	uint32_t n_nested_state;
	bool hyperv_synic;
};

struct vcpu_state {
	struct vcpu_kvm_state Kvm;
};

struct arch_state {
	struct {
		struct kvm_clock_data Kvm;
	} clock;
	struct cpuid_entry *common_cpuid;
	uint32_t n_common_cpuid;
	uint64_t vmgenid_gpa; /* our own: not in Cloud Hypervisor's state */
	bool has_vmgenid_gpa;
};

/* What a host must have to run a guest. */
struct arch_needs {
	uint32_t cpu[CPU_NEEDS]; /* vmm/x86/cpu_needs.h */
	uint32_t tsc_khz;        /* 0: any */
	uint32_t xsave_bytes;
	uint32_t kvm; /* a bit for each of the capabilities in needs.c */
	uint32_t msrs[MSR_MAX], n_msrs;
};

#endif
