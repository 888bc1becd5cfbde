// SPDX-License-Identifier: Apache-2.0
/*
 * The clocks of an x86 guest: kvmclock, the TSCs, and the two timers of each LAPIC. They are stamped
 * together when the vCPUs stop. When the vCPUs go on, the clocks have counted the time in between
 * (CLOCK_ADVANCE), or are set back to the stamp (CLOCK_CONTINUE). The ACPI PM timer counts kvmclock's
 * time, and the CMOS clock always shows the host's time of day: neither has a state of its own.
 * Main thread; clock_load_vcpu() on the vCPU's thread, clock_guest_ns() on any.
 */
#ifndef VMM_X86_CLOCK_H
#define VMM_X86_CLOCK_H

#include "vmm/core/arch.h"

/* Before the vCPUs are made, and at the end of the VM. */
MUST_CHECK int clock_init(struct vm *vm, struct err *err);
void clock_done(struct vm *vm);
/*
 * Takes over the stamp of a snapshot, and measures the snapshot's age by the host's time of day. No
 * stamp, and one that is later than now, is logged and counts as age 0. Before clock_load_vcpu().
 */
void clock_load(struct vm *vm, const struct kvm_clock_data *saved);
/*
 * Keeps what the clocks of a saved vCPU showed, then lets the LAPIC timer in *state count the age
 * of the snapshot.
 */
void clock_load_vcpu(const struct vcpu *vcpu, struct vcpu_kvm_state *state);
/* Puts the stamp of the pause into *state, which was read later: the clocks have counted since. */
void clock_save_vcpu(const struct vcpu *vcpu, struct vcpu_kvm_state *state);
/* The guest's kvmclock in ns; 0: KVM does not say. */
uint64_t clock_guest_ns(struct vm *vm);

/*
 * What a LAPIC timer has left to count after `ns` more. One that is overdue gets 1, so that KVM lets
 * it fire at once; one that has fired, or has no count (TSC deadline), stays as it is. Intel SDM
 * volume 3, 11.5.4; KVM's LAPIC counts ns.
 */
uint32_t clock_timer_left(const void *lapic_regs, uint64_t ns);

#endif
