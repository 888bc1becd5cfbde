// SPDX-License-Identifier: Apache-2.0
/*
 * All that an architecture provides. The architecture's folder (vmm/x86) implements these functions
 * and brings arch_types.h with three structs: `struct arch_vm`, the platform around the vCPUs;
 * `struct vcpu_state`, what is saved of one vCPU; `struct arch_state`, what is saved of the VM as a
 * whole. Nothing else in vmm/ knows the architecture.
 */
#ifndef VMM_CORE_ARCH_H
#define VMM_CORE_ARCH_H

#include "arch_types.h"
#include "common/field.h"

struct vm;
struct vcpu;
struct gmem;
struct host_needs;

/* ---- the VM, in the order of use ---- */

/* Fills in where RAM of `size` bytes stands in the guest's physical addresses. */
void arch_layout_ram(struct gmem *mem, uint64_t size);
/*
 * Right after KVM_CREATE_VM: enables what the VM needs of KVM and sets its fixed addresses. is_checked:
 * arch_needs_check() has found all that the VM needs of KVM, for this host.
 */
MUST_CHECK int arch_vm_init(struct vm *vm, bool is_checked, struct err *err);
/*
 * For a machine that boots: decides what its guest is told about the CPU. A restored machine has
 * that in its state.
 */
MUST_CHECK int arch_cpu_init(struct vm *vm, struct err *err);
/* Makes the interrupt controller. After the memory slots. */
MUST_CHECK int arch_irqchip_init(struct vm *vm, struct err *err);
/* Puts the platform's registers on the buses: interrupt controller, timers, reset, ACPI. */
MUST_CHECK int arch_platform_init(struct vm *vm, struct err *err);
void arch_vm_done(struct vm *vm);

/*
 * The guest-physical addresses that BARs may have: 64-bit BARs are given out downward from the
 * window's top; 32-bit BARs have a window of their own.
 */
struct arch_window {
	uint64_t first, last; /* both addresses belong to the window */
};
struct arch_window arch_mmio64(const struct vm *vm);
struct arch_window arch_mmio32(const struct vm *vm);

/*
 * Sets the level of line `gsi` of the interrupt controller, or gives the line one edge. Any thread.
 */
void arch_irq_set(struct vm *vm, unsigned gsi, bool level);
void arch_irq_pulse(struct vm *vm, unsigned gsi);
/* Presses the power button. Any thread. */
void arch_power_button(struct vm *vm);
/*
 * Tells the guest which PCI slots have a new device (`up`, a bit for each slot) and which devices
 * are to go (`down`). Main thread.
 */
void arch_pci_changed(struct vm *vm, uint32_t up, uint32_t down);
/* The slots whose new device the guest has not asked for yet. */
uint32_t arch_pci_unseen(struct vm *vm);
/*
 * Gives a guest that has the device VMGenID a new generation id, in its memory. While no vCPU runs.
 * ERR_INVALID: the configuration has the device, and the snapshot's state has not.
 */
MUST_CHECK int arch_generation_renew(struct vm *vm, struct err *err);
/* The same for a guest that boots: a machine that had an id before the boot keeps it. */
MUST_CHECK int arch_generation_set(struct vm *vm, struct err *err);
/* Tells the guest that it has a new generation id. After the interrupt controller is there. Main thread. */
void arch_generation_tell(struct vm *vm);
/* The interrupt line of the serial port. */
extern const unsigned arch_serial_gsi;

/*
 * Loads kernel, initramfs, command line and firmware tables into RAM and sets the boot vCPU's
 * registers.
 */
MUST_CHECK int arch_load_payload(struct vm *vm, struct err *err);

/* ---- vCPUs ---- */

/* After KVM_CREATE_VCPU, for a machine that boots: sets identification and reset state. */
MUST_CHECK int arch_vcpu_init(struct vcpu *vcpu, struct err *err);
/*
 * Handles an exit that only this architecture has; false: the exit is not known. On the vCPU's
 * thread.
 */
bool arch_vcpu_exit(struct vcpu *vcpu);

extern const struct field vcpu_state_fields[];
/*
 * Reads the state of a parked vCPU, its clocks as of arch_clock_pause(). *state is zeroed first; it
 * becomes the caller's, who releases it with fields_free().
 */
MUST_CHECK int arch_vcpu_save(struct vcpu *vcpu, struct vcpu_state *state, struct err *err);
/*
 * Writes the state of a vCPU that never ran. The TSC and the LAPIC timer are set ahead by the wall
 * time that has passed since the snapshot, the deadline timer after the TSC: arch_clock_resume() sets
 * them back where that is not wanted.
 */
MUST_CHECK int arch_vcpu_load(struct vcpu *vcpu, const struct vcpu_state *state, struct err *err);
/*
 * Tells a guest that it was stopped from outside, so that its watchdogs stay quiet. At a pause, and
 * before a restored guest runs.
 */
void arch_vcpu_paused(struct vcpu *vcpu);
/* Logs where this vCPU stands. On the vCPU's thread. */
void arch_vcpu_log(struct vcpu *vcpu);

/* ---- state of the VM as a whole ---- */

extern const struct field arch_state_fields[]; /* over struct arch_state: clock, common CPUID */
/* Stamps the clocks. At a pause, when all vCPUs are parked. */
MUST_CHECK int arch_clock_pause(struct vm *vm, struct err *err);
/*
 * Lets the guest's clocks go on as vm->clock says: as if the wall time that passed had passed in the
 * guest, or from where they were stamped. At a resume. `restored`: this VM was loaded from a snapshot
 * and has not run yet.
 */
MUST_CHECK int arch_clock_resume(struct vm *vm, bool restored, struct err *err);
MUST_CHECK int arch_state_save(struct vm *vm, struct arch_state *state, struct err *err);
/*
 * Takes the lists of *state over. Before the platform is built, which depends on what the guest was
 * told about its CPU.
 */
void arch_state_load(struct vm *vm, struct arch_state *state);
/* What a host must have for this state. ERR_INVALID: the state itself is wrong. */
MUST_CHECK int arch_needs_of(const struct arch_state *state, const struct vcpu_state *cpus, unsigned n_cpus,
			     struct arch_needs *ret, struct err *err);
/*
 * Compares the needs with this host: ERR_HOST names all that is missing. `tsc`: the TSC's rate as
 * well, for which a VM is made for a moment; else arch_vcpu_load() finds that out. Any thread.
 */
MUST_CHECK int arch_needs_check(int kvm_fd, const struct arch_needs *needs, bool tsc, struct err *err);
/* The needs as names, released with fields_free(host_needs_fields, ret); and back. */
MUST_CHECK int arch_needs_save(const struct arch_needs *needs, struct host_needs *ret, struct err *err);
MUST_CHECK int arch_needs_load(const struct host_needs *from, struct arch_needs *ret, struct err *err);
/*
 * Says in words which CPU the guest knows: "GenuineIntel family 6 model 85, TSC 2000000 kHz".
 */
void arch_state_describe(const struct arch_state *state, const struct vcpu_state *vcpu, char *buf, size_t size);
/*
 * The first address that devices may take above RAM, which ends at `ram_end`; and the fixed list
 * "arch_mem_regions" of state.json.
 */
uint64_t arch_device_area(uint64_t ram_end);
void arch_memory_regions_save(struct strbuf *out);
/* The interrupt controller's node in state.json. */
extern const char arch_irqchip_id[];
void arch_irqchip_save(struct vm *vm, struct strbuf *out);
MUST_CHECK int arch_irqchip_load(struct vm *vm, const struct json_node *state, struct err *err);

#endif
