// SPDX-License-Identifier: Apache-2.0
/*
 * All that an architecture provides. Its folder (vmm/x86, later vmm/arm64) implements these functions and
 * brings arch_types.h with its two structs: `struct arch_vm`, the platform around the vCPUs, and `struct vcpu_state`,
 * what is saved of one vCPU. Nothing else in vmm/ knows the architecture.
 */
#ifndef VMM_CORE_ARCH_H
#define VMM_CORE_ARCH_H

#include "arch_types.h"
#include "common/field.h"

struct vm;
struct vcpu;
struct gmem;

/* ---- the VM, in the order of use ---- */

/* Where RAM of `size` bytes goes. */
void arch_layout_ram(struct gmem *mem, uint64_t size);
/* Right after KVM_CREATE_VM: needed capabilities, fixed addresses. */
MUST_CHECK int arch_vm_init(struct vm *vm, struct err *err);
/* A machine that boots: what its guest will be told about the CPU. A restored one has that in its state. */
MUST_CHECK int arch_cpu_init(struct vm *vm, struct err *err);
/* After the memory slots: the interrupt controller. */
MUST_CHECK int arch_irqchip_init(struct vm *vm, struct err *err);
/* Puts the platform's registers on the buses: interrupt controller, timers, reset, ACPI. */
MUST_CHECK int arch_platform_init(struct vm *vm, struct err *err);
void arch_vm_done(struct vm *vm);

/* The guest-physical window for 64-bit BARs (from its top downward), and for 32-bit ones. */
struct arch_window {
	uint64_t first, last; /* both belong to it */
};
struct arch_window arch_mmio64(const struct vm *vm);
struct arch_window arch_mmio32(const struct vm *vm);

/* Interrupt line `gsi` of the interrupt controller: its level, or one edge. Any thread. */
void arch_irq_set(struct vm *vm, unsigned gsi, bool level);
void arch_irq_pulse(struct vm *vm, unsigned gsi);
/* Somebody presses the power button. Any thread. */
void arch_power_button(struct vm *vm);
/* Tells the guest of PCI slots (a bit each) whose device came, and of those whose device is to go. Main thread. */
void arch_pci_changed(struct vm *vm, uint32_t up, uint32_t down);
/* Those that came and that it has not asked for. */
uint32_t arch_pci_unseen(struct vm *vm);
/* The serial port's line. */
extern const unsigned arch_serial_gsi;

/* Loads kernel, initramfs, command line and firmware tables into RAM and sets the boot vCPU's registers. */
MUST_CHECK int arch_load_payload(struct vm *vm, struct err *err);

/* ---- vCPUs ---- */

/* After KVM_CREATE_VCPU of a machine that boots: identification and reset state. */
MUST_CHECK int arch_vcpu_init(struct vcpu *vcpu, struct err *err);
/* An exit that only this architecture has; false: not known. On the vCPU's thread. */
bool arch_vcpu_exit(struct vcpu *vcpu);

extern const struct field vcpu_state_fields[];
/* Reads a parked vCPU; *state is zeroed and becomes the caller's, released with fields_free(). */
MUST_CHECK int arch_vcpu_save(struct vcpu *vcpu, struct vcpu_state *state, struct err *err);
/* Writes a vCPU that never ran. TSC and deadlines are set as saved; arch_vm_resume() moves them. */
MUST_CHECK int arch_vcpu_load(struct vcpu *vcpu, const struct vcpu_state *state, struct err *err);
/* A guest that was stopped from outside is told, so that its watchdogs stay quiet. On pause and before a resume. */
void arch_vcpu_paused(struct vcpu *vcpu);
/* A line for the log about where this vCPU stands, from its own thread. */
void arch_vcpu_log(struct vcpu *vcpu);

/* ---- state of the VM as a whole ---- */

extern const struct field arch_state_fields[]; /* over struct arch_state: clock, common CPUID */
/* At pause, all vCPUs parked: stamps the clocks. */
MUST_CHECK int arch_clock_pause(struct vm *vm, struct err *err);
/* At resume: guest clocks go on as if the wall time that passed had passed in the guest. `restored`: this VM was loaded
 * from a snapshot and has not run yet. */
MUST_CHECK int arch_clock_resume(struct vm *vm, bool restored, struct err *err);
MUST_CHECK int arch_state_save(struct vm *vm, struct arch_state *state, struct err *err);
/* Takes the lists over. Before the platform is built: it depends on what the guest was told. */
void arch_state_load(struct vm *vm, struct arch_state *state);
/* What the guest was told about its CPU must be there. Any thread. */
MUST_CHECK int arch_state_check(int kvm_fd, const struct arch_state *state, struct err *err);
/* What a host must have for this, in words: "GenuineIntel family 6 model 85, TSC 2000000 kHz". */
void arch_state_describe(const struct arch_state *state, const struct vcpu_state *vcpu, char *buf, size_t size);
/* The first address that devices may take above RAM which ends at `ram_end`; and the fixed list "arch_mem_regions". */
uint64_t arch_device_area(uint64_t ram_end);
void arch_memory_regions_save(struct strbuf *out);
/* The interrupt controller's node in state.json. */
extern const char arch_irqchip_id[];
void arch_irqchip_save(struct vm *vm, struct strbuf *out);
MUST_CHECK int arch_irqchip_load(struct vm *vm, const struct json_node *state, struct err *err);

#endif
