// SPDX-License-Identifier: Apache-2.0
/* Stamping the clocks of a guest, and setting them when the guest goes on. */
#include "vmm/x86/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "common/log.h"
#include "vmm/machine/machine.h"
#include "vmm/x86/msr.h"

#ifndef KVM_VCPU_TSC_OFFSET
#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0
#endif

enum { NSEC_PER_SEC = 1000000000 };
/* Registers of the LAPIC, and the timer's mode, bits 17 and 18 of its LVT entry. */
enum { APIC_LVT_TIMER = 0x320, APIC_TIMER_INITIAL = 0x380, APIC_TIMER_CURRENT = 0x390, APIC_TIMER_DIVIDE = 0x3e0 };
enum { TIMER_MODE_SHIFT = 17, TIMER_MODE_DEADLINE = 2 };

int clock_init(struct vm *vm, struct err *err)
{
	vm->arch.stopped = calloc(vm->config->cpus.boot_vcpus, sizeof(*vm->arch.stopped));
	return vm->arch.stopped ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "make the clocks");
}

void clock_done(struct vm *vm)
{
	free(vm->arch.stopped);
	vm->arch.stopped = NULL;
}

uint64_t clock_guest_ns(struct vm *vm)
{
	struct kvm_clock_data now = {};

	return ioctl(vm->kvm.vm_fd, KVM_GET_CLOCK, &now) < 0 ? 0 : now.clock;
}

static uint64_t wall_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

/* ---- LAPIC timer ---- */

static uint32_t apic_reg(const void *regs, unsigned at)
{
	uint32_t v;

	memcpy(&v, (const char *)regs + at, sizeof(v));
	return v;
}

/* Does the timer count down? Else it waits for a TSC deadline, or was never started. */
static bool timer_counts(const void *regs)
{
	return (apic_reg(regs, APIC_LVT_TIMER) >> TIMER_MODE_SHIFT & 3) != TIMER_MODE_DEADLINE &&
	       apic_reg(regs, APIC_TIMER_INITIAL) != 0;
}

uint32_t clock_timer_left(const void *lapic_regs, uint64_t ns)
{
	uint32_t left = apic_reg(lapic_regs, APIC_TIMER_CURRENT), divide = apic_reg(lapic_regs, APIC_TIMER_DIVIDE);
	unsigned shift = ((divide & 3) + (divide >> 1 & 4) + 1) & 7; /* 0: by 2 … 6: by 128, 7: by 1 */

	if (!timer_counts(lapic_regs) || left == 0)
		return left;
	return ns >> shift < left ? left - (uint32_t)(ns >> shift) : 1;
}

static void put_timer(void *regs, uint32_t left)
{
	memcpy((char *)regs + APIC_TIMER_CURRENT, &left, sizeof(left));
}

/* ---- stamps ---- */

struct two_msrs {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[2];
};

/* Gets the TSC and its deadline, which stays 0 where KVM has none. */
static int get_tsc(const struct vcpu *vcpu, struct vcpu_clock *ret, struct err *err)
{
	struct two_msrs m = { .head.nmsrs = 2,
			      .entry = { { .index = MSR_IA32_TSC }, { .index = MSR_IA32_TSC_DEADLINE } } };

	if (kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &m, "get the TSC", err) < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	*ret = (struct vcpu_clock){ .tsc = m.entry[0].data, .deadline = m.entry[1].data };
	return 0;
}

static int stop_vcpu(const struct vcpu *vcpu, struct vcpu_clock *ret, struct err *err)
{
	struct kvm_lapic_state lapic;

	if (get_tsc(vcpu, ret, err) < 0)
		return err->num;
	if (kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic, "get the LAPIC", err) < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	ret->timer_count = apic_reg(lapic.regs, APIC_TIMER_CURRENT);
	return 0;
}

int arch_clock_pause(struct vm *vm, struct err *err)
{
	struct arch_vm *a = &vm->arch;
	struct kvm_clock_data clock = {};

	a->has_stopped = false;
	if (kvm_ioctl(vm->kvm.vm_fd, KVM_GET_CLOCK, &clock, "get the clock", err) < 0)
		return err->num;
	/*
	 * a stamp of this program: KVM has none before the first run, nor on hosts with an unstable
	 * TSC
	 */
	clock.realtime = wall_clock_ns();
	clock.flags |= KVM_CLOCK_REALTIME;
	a->clock = clock;
	for (unsigned i = 0; i < vm->vcpus.n; i++)
		if (stop_vcpu(&vm->vcpus.vcpu[i], &a->stopped[i], err) < 0)
			return err->num;
	a->has_stopped = true;
	return 0;
}

/* The wall time since the clock was stamped; 0: the wall clock went back. */
static uint64_t elapsed_ns(const struct kvm_clock_data *saved)
{
	uint64_t now = wall_clock_ns();

	return now > saved->realtime ? now - saved->realtime : 0;
}

/* Without a usable stamp the snapshot is taken to be of this moment. */
void clock_load(struct vm *vm, const struct kvm_clock_data *saved)
{
	struct arch_vm *a = &vm->arch;
	bool has_stamp = saved->flags & KVM_CLOCK_REALTIME && saved->realtime;
	uint64_t now = wall_clock_ns();

	if (!has_stamp)
		log_warn("the snapshot has no wall-clock stamp: the guest's clock continues where it was saved");
	else if (saved->realtime > now)
		log_warn("the snapshot is from the future: its stamp is %.3f s later than this host's time of day; its "
			 "age counts as 0",
			 (double)(saved->realtime - now) / NSEC_PER_SEC);
	a->clock = *saved;
	if (!has_stamp || saved->realtime > now)
		a->clock.realtime = now;
	a->clock.flags |= KVM_CLOCK_REALTIME;
	a->elapsed_ns = now - a->clock.realtime;
	a->has_stopped = true;
}

void clock_load_vcpu(const struct vcpu *vcpu, struct vcpu_kvm_state *state)
{
	struct arch_vm *a = &vcpu_vm(vcpu)->arch;
	struct vcpu_clock *c = &a->stopped[vcpu->index];

	*c = (struct vcpu_clock){ .timer_count = apic_reg(state->lapic_state.regs, APIC_TIMER_CURRENT) };
	for (uint32_t i = 0; i < state->n_msrs; i++) {
		if (state->msrs[i].index == MSR_IA32_TSC)
			c->tsc = state->msrs[i].data;
		if (state->msrs[i].index == MSR_IA32_TSC_DEADLINE)
			c->deadline = state->msrs[i].data;
	}
	put_timer(state->lapic_state.regs, clock_timer_left(state->lapic_state.regs, a->elapsed_ns));
}

void clock_save_vcpu(const struct vcpu *vcpu, struct vcpu_kvm_state *state)
{
	const struct arch_vm *a = &vcpu_vm(vcpu)->arch;
	const struct vcpu_clock *c = &a->stopped[vcpu->index];

	for (uint32_t i = 0; i < state->n_msrs; i++) {
		if (state->msrs[i].index == MSR_IA32_TSC)
			state->msrs[i].data = c->tsc;
		if (state->msrs[i].index == MSR_IA32_TSC_DEADLINE)
			state->msrs[i].data = c->deadline;
	}
	put_timer(state->lapic_state.regs, c->timer_count);
}

/* ---- going on ---- */

static int tsc_offset(const struct vcpu *vcpu, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};

	return ioctl(vcpu->fd, request, &attr);
}

/*
 * All vCPUs get vCPU 0's offset, so that their TSCs agree to the cycle. Kernels before 5.16 lack
 * this.
 */
static void align_tsc(struct vm *vm)
{
	uint64_t offset;

	if (tsc_offset(&vm->vcpus.vcpu[0], KVM_GET_DEVICE_ATTR, &offset) < 0)
		return;
	for (unsigned i = 1; i < vm->vcpus.n; i++)
		(void)tsc_offset(&vm->vcpus.vcpu[i], KVM_SET_DEVICE_ATTR, &offset);
}

static int set_msr(const struct vcpu *vcpu, uint32_t index, uint64_t value, struct err *err)
{
	struct two_msrs m = { .head.nmsrs = 1, .entry = { { .index = index, .data = value } } };

	if (kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &m, "set an MSR of a clock", err) < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	return 0;
}

/*
 * Sets the TSCs back by as many ticks for each vCPU. Kernels before 5.16 take the value instead of
 * an offset, and keep their own when the two are less than a second apart; a KVM in software may
 * keep its own always.
 */
static int rewind_tsc(struct vm *vm, struct err *err)
{
	const struct vcpu_clock *stopped = vm->arch.stopped;
	struct vcpu_clock now;
	uint64_t offset;

	if (get_tsc(&vm->vcpus.vcpu[0], &now, err) < 0)
		return err->num;
	for (unsigned i = 0; i < vm->vcpus.n; i++) {
		const struct vcpu *vcpu = &vm->vcpus.vcpu[i];
		bool has_offset = tsc_offset(vcpu, KVM_GET_DEVICE_ATTR, &offset) == 0;
		offset -= now.tsc - stopped[0].tsc;
		if (has_offset && tsc_offset(vcpu, KVM_SET_DEVICE_ATTR, &offset) == 0)
			continue;
		if (set_msr(vcpu, MSR_IA32_TSC, stopped[i].tsc, err) < 0)
			return err->num;
	}
	return 0;
}

/* Starts the deadline timer again; where the TSC could not be set back, the deadline moves with it. */
static int rewind_deadline(const struct vcpu *vcpu, const struct vcpu_clock *c, struct err *err)
{
	struct vcpu_clock now;

	if (c->deadline == 0)
		return 0;
	if (get_tsc(vcpu, &now, err) < 0)
		return err->num;
	uint64_t ahead = now.tsc - c->tsc, ms = vcpu_vm(vcpu)->arch.tsc_khz;
	return set_msr(vcpu, MSR_IA32_TSC_DEADLINE, c->deadline + (ahead > ms ? ahead : 0), err);
}

/*
 * KVM's timers run in the host's time, and have gone on: each is started again with what it had
 * left, which also takes back an interrupt that became due meanwhile. After the TSC.
 */
static int rewind_timers(const struct vcpu *vcpu, const struct vcpu_clock *c, struct err *err)
{
	struct kvm_lapic_state lapic;

	if (rewind_deadline(vcpu, c, err) < 0)
		return err->num;
	if (c->timer_count == 0) /* it does not count */
		return 0;
	if (kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic, "get the LAPIC", err) < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	put_timer(lapic.regs, c->timer_count);
	if (kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic, "set the LAPIC", err) < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	return 0;
}

static int set_clock(const struct vm *vm, uint64_t ns, struct err *err)
{
	struct kvm_clock_data set = { .clock = ns };

	return kvm_ioctl(vm->kvm.vm_fd, KVM_SET_CLOCK, &set, "set the clock", err);
}

static int rewind_clocks(struct vm *vm, struct err *err)
{
	if (rewind_tsc(vm, err) < 0 || set_clock(vm, vm->arch.clock.clock, err) < 0)
		return err->num;
	for (unsigned i = 0; i < vm->vcpus.n; i++)
		if (rewind_timers(&vm->vcpus.vcpu[i], &vm->arch.stopped[i], err) < 0)
			return err->num;
	return 0;
}

/*
 * With CLOCK_ADVANCE only the kvmclock of a restored guest needs setting. The TSC and the timers have
 * been counting: since the pause, or since they were loaded (arch_vcpu_load()), set ahead by the
 * snapshot's age.
 */
int arch_clock_resume(struct vm *vm, bool restored, struct err *err)
{
	const struct arch_vm *a = &vm->arch;

	if (restored)
		align_tsc(vm);
	if (vm->clock == CLOCK_CONTINUE && a->has_stopped) {
		if (rewind_clocks(vm, err) < 0)
			return err->num;
	} else if (restored && set_clock(vm, a->clock.clock + elapsed_ns(&a->clock), err) < 0) {
		return err->num;
	}
	for (unsigned i = 0; i < vm->vcpus.n; i++)
		arch_vcpu_paused(&vm->vcpus.vcpu[i]);
	return 0;
}
