// SPDX-License-Identifier: Apache-2.0
/*
 * The x86 vCPU: its reset state, its own exits, and its saved state in Cloud Hypervisor's encoding.
 */
#include "vmm/core/vcpu.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/log.h"
#include "vmm/machine/machine.h"
#include "vmm/x86/clock.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/ioapic.h"
#include "vmm/x86/msr.h"
#include "vmm/x86/needs.h"
#include "vmm/x86/nested.h"

enum { XSAVE_MAX_WORDS = 1 << 20, APIC_LVT0 = 0x350, APIC_LVT1 = 0x360, APIC_MODE_EXTINT = 7, APIC_MODE_NMI = 4 };

static const struct field msr_fields[] = {
	F(struct msr_entry, index, .flags = F_REQUIRED),
	F(struct msr_entry, data, .flags = F_REQUIRED),
	F_END,
};

static const struct field fpu_fields[] = {
	F_ROWS16(struct kvm_fpu, fpr, .flags = F_REQUIRED),  F(struct kvm_fpu, fcw, .flags = F_REQUIRED),
	F(struct kvm_fpu, fsw, .flags = F_REQUIRED),         F(struct kvm_fpu, ftwx, .flags = F_REQUIRED),
	F(struct kvm_fpu, last_opcode, .flags = F_REQUIRED), F(struct kvm_fpu, last_ip, .flags = F_REQUIRED),
	F(struct kvm_fpu, last_dp, .flags = F_REQUIRED),     F_ROWS16(struct kvm_fpu, xmm, .flags = F_REQUIRED),
	F(struct kvm_fpu, mxcsr, .flags = F_REQUIRED),       F_END,
};

typedef __typeof__(((struct vcpu_kvm_state *)0)->lapic_state) lapic_state;
typedef __typeof__(((struct vcpu_kvm_state *)0)->xsave) xsave_state;

static const struct field lapic_fields[] = { F_ARRAY(lapic_state, regs, .flags = F_REQUIRED), F_END };
static const struct field xsave_fields[] = {
	F_LIST(xsave_state, region, .flags = F_REQUIRED, .count = XSAVE_MAX_WORDS),
	F_END,
};

static const struct field kvm_fields[] = {
	F_OBJ_LIST(struct vcpu_kvm_state, cpuid, cpuid_entry_fields, .flags = F_REQUIRED, .count = MAX_CPUID_ENTRIES),
	F_OBJ_LIST(struct vcpu_kvm_state, msrs, msr_fields, .flags = F_REQUIRED, .count = MSR_MAX),
	F_BYTES(struct vcpu_kvm_state, vcpu_events, .flags = F_REQUIRED),
	F_BYTES(struct vcpu_kvm_state, regs, .flags = F_REQUIRED),
	F_BYTES(struct vcpu_kvm_state, sregs, .flags = F_REQUIRED),
	F_OBJ(struct vcpu_kvm_state, fpu, fpu_fields, .flags = F_REQUIRED),
	F_OBJ(struct vcpu_kvm_state, lapic_state, lapic_fields, .flags = F_REQUIRED),
	F_OBJ(struct vcpu_kvm_state, xsave, xsave_fields, .flags = F_REQUIRED),
	F_BYTES(struct vcpu_kvm_state, xcrs, .flags = F_REQUIRED),
	F_BYTES(struct vcpu_kvm_state, mp_state, .flags = F_REQUIRED),
	F_OPT(struct vcpu_kvm_state, tsc_khz, .flags = F_NULL),
	F_LIST(struct vcpu_kvm_state, nested_state, .flags = F_NULL, .count = NESTED_BYTES),
	F(struct vcpu_kvm_state, hyperv_synic, .flags = F_REFUSE),
	F_END,
};

const struct field vcpu_state_fields[] = { F_OBJ(struct vcpu_state, Kvm, kvm_fields, .flags = F_REQUIRED), F_END };

static int get(struct vcpu *vcpu, unsigned long request, void *arg, const char *what, struct err *err)
{
	if (kvm_ioctl(vcpu->fd, request, arg, what, err) < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	return 0;
}

#define set get

/* ---- boot ---- */

/* LINT0 takes the PIC's interrupts, LINT1 is NMI, as firmware would leave them. */
static int init_lapic(struct vcpu *vcpu, struct err *err)
{
	struct kvm_lapic_state lapic;

	if (get(vcpu, KVM_GET_LAPIC, &lapic, "get the LAPIC", err) < 0)
		return err->num;
	uint32_t lvt0, lvt1;
	memcpy(&lvt0, lapic.regs + APIC_LVT0, 4);
	memcpy(&lvt1, lapic.regs + APIC_LVT1, 4);
	lvt0 = (lvt0 & ~0x700U) | APIC_MODE_EXTINT << 8;
	lvt1 = (lvt1 & ~0x700U) | APIC_MODE_NMI << 8;
	memcpy(lapic.regs + APIC_LVT0, &lvt0, 4);
	memcpy(lapic.regs + APIC_LVT1, &lvt1, 4);
	return set(vcpu, KVM_SET_LAPIC, &lapic, "set the LAPIC", err);
}

int arch_vcpu_init(struct vcpu *vcpu, struct err *err)
{
	struct cpuid_table cpuid = {};

	if (cpuid_for_vcpu(&vcpu_vm(vcpu)->arch.cpuid, &vcpu_vm(vcpu)->config->cpus, vcpu->index, &cpuid, err) < 0)
		return err->num;
	int r = cpuid_set(vcpu->fd, cpuid.entry, cpuid.n_entry, err);
	cpuid_free(&cpuid);
	if (r < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	if (msr_init(vcpu->fd, err) < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	return init_lapic(vcpu, err);
}

bool arch_vcpu_exit(struct vcpu *vcpu)
{
	if (vcpu->run->exit_reason != KVM_EXIT_IOAPIC_EOI)
		return false;
	ioapic_eoi(vcpu_vm(vcpu), vcpu->run->eoi.vector);
	return true;
}

void arch_vcpu_log(struct vcpu *vcpu)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;

	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0 || ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0 ||
	    ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
		return;
	log_guest(LOG_INFO,
		  "vCPU %u: rip 0x%llx rsp 0x%llx rflags 0x%llx cr0 0x%llx cr2 0x%llx cr3 0x%llx cr4 0x%llx "
		  "idt 0x%llx+0x%x exception %u (%s, error 0x%x)",
		  vcpu->index, regs.rip, regs.rsp, regs.rflags, sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4,
		  sregs.idt.base, sregs.idt.limit, events.exception.nr,
		  events.exception.injected  ? "injected"
		  : events.exception.pending ? "pending"
					     : "none",
		  events.exception.error_code);
}

void arch_vcpu_paused(struct vcpu *vcpu)
{
	(void)ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0); /* EINVAL: the guest has no kvmclock */
}

/* ---- save ---- */

static int save_cpuid(struct vcpu *vcpu, struct vcpu_kvm_state *s, struct err *err)
{
	autofree struct kvm_cpuid2 *k = calloc(1, sizeof(*k) + MAX_CPUID_ENTRIES * sizeof(k->entries[0]));

	s->cpuid = calloc(MAX_CPUID_ENTRIES, sizeof(*s->cpuid));
	if (!k || !s->cpuid)
		return err_num(err, ERR_INTERNAL, ENOMEM, "save vCPU %u", vcpu->index);
	k->nent = MAX_CPUID_ENTRIES;
	if (get(vcpu, KVM_GET_CPUID2, k, "get CPUID", err) < 0)
		return err->num;
	for (uint32_t i = 0; i < k->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &k->entries[i];
		s->cpuid[s->n_cpuid++] =
			(struct cpuid_entry){ e->function, e->index, e->flags, e->eax, e->ebx, e->ecx, e->edx };
	}
	return 0;
}

static int save_xsave(struct vcpu *vcpu, struct vcpu_kvm_state *s, struct err *err)
{
	int bytes = kvm_check_cap(&vcpu_vm(vcpu)->kvm, KVM_CAP_XSAVE2);
	uint32_t words = bytes > (int)sizeof(struct kvm_xsave) ? (uint32_t)bytes / 4 : XSAVE_WORDS;

	s->xsave.region = calloc(words, sizeof(uint32_t));
	s->xsave.n_region = words;
	if (!s->xsave.region)
		return err_num(err, ERR_INTERNAL, ENOMEM, "save vCPU %u", vcpu->index);
	return get(vcpu, words > XSAVE_WORDS ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, s->xsave.region, "get the FPU state",
		   err);
}

int arch_vcpu_save(struct vcpu *vcpu, struct vcpu_state *state, struct err *err)
{
	struct vcpu_kvm_state *s = &state->Kvm;

	*state = (struct vcpu_state){};
	if (save_cpuid(vcpu, s, err) < 0)
		return err->num;
	/* mp_state comes first: reading it makes KVM process a pending INIT or SIPI */
	if (get(vcpu, KVM_GET_MP_STATE, &s->mp_state, "get the run state", err) < 0 ||
	    get(vcpu, KVM_GET_REGS, &s->regs, "get registers", err) < 0 ||
	    get(vcpu, KVM_GET_SREGS, &s->sregs, "get system registers", err) < 0 || save_xsave(vcpu, s, err) < 0 ||
	    get(vcpu, KVM_GET_XCRS, &s->xcrs, "get XCR0", err) < 0 ||
	    get(vcpu, KVM_GET_LAPIC, &s->lapic_state, "get the LAPIC", err) < 0 ||
	    get(vcpu, KVM_GET_FPU, &s->fpu, "get the FPU", err) < 0)
		return err->num;
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ);
	s->has_tsc_khz = khz > 0;
	s->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	if (nested_save(&vcpu_vm(vcpu)->kvm, vcpu->fd, &s->nested_state, &s->n_nested_state, err) < 0 ||
	    msr_save(&vcpu_vm(vcpu)->kvm, vcpu->fd, &s->msrs, &s->n_msrs, err) < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	clock_save_vcpu(vcpu, s);
	return get(vcpu, KVM_GET_VCPU_EVENTS, &s->vcpu_events, "get events", err);
}

/* ---- load ---- */

static int load_xsave(struct vcpu *vcpu, const struct vcpu_kvm_state *s, struct err *err)
{
	int bytes = kvm_check_cap(&vcpu_vm(vcpu)->kvm, KVM_CAP_XSAVE2);
	size_t words = bytes > (int)sizeof(struct kvm_xsave) ? (size_t)bytes / 4 : XSAVE_WORDS;

	/* as long as KVM reads, which depends on this host's FPU */
	autofree uint32_t *region = calloc(words > s->xsave.n_region ? words : s->xsave.n_region, sizeof(*region));
	if (!region)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load vCPU %u", vcpu->index);
	memcpy(region, s->xsave.region, s->xsave.n_region * sizeof(*region));
	return set(vcpu, KVM_SET_XSAVE, region, "set the FPU state", err);
}

/* Sets the TSC rate. A rate that the vCPU has anyway is not set: the call is not free. */
static int load_tsc_khz(const struct vcpu *vcpu, const struct vcpu_kvm_state *s, struct err *err)
{
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ);

	if (!s->has_tsc_khz || (uint32_t)khz == s->tsc_khz)
		return 0;
	return ioctl(vcpu->fd, KVM_SET_TSC_KHZ, s->tsc_khz) < 0 ? needs_refuse_tsc(s->tsc_khz, khz, err) : 0;
}

int arch_vcpu_load(struct vcpu *vcpu, const struct vcpu_state *state, struct err *err)
{
	struct vcpu_kvm_state s = state->Kvm; /* a copy: the ioctls take pointers that are not const */

	clock_load_vcpu(vcpu, &s);
	if (cpuid_set(vcpu->fd, s.cpuid, s.n_cpuid, err) < 0)
		return err_wrap(err, "vCPU %u", vcpu->index);
	if (set(vcpu, KVM_SET_MP_STATE, &s.mp_state, "set the run state", err) < 0 ||
	    set(vcpu, KVM_SET_REGS, &s.regs, "set registers", err) < 0 ||
	    set(vcpu, KVM_SET_SREGS, &s.sregs, "set system registers", err) < 0 || load_xsave(vcpu, &s, err) < 0 ||
	    set(vcpu, KVM_SET_XCRS, &s.xcrs, "set XCR0", err) < 0 ||
	    set(vcpu, KVM_SET_LAPIC, &s.lapic_state, "set the LAPIC", err) < 0 || load_tsc_khz(vcpu, &s, err) < 0)
		return err->num;
	uint64_t khz = s.has_tsc_khz ? s.tsc_khz : vcpu_vm(vcpu)->arch.tsc_khz;
	uint64_t ticks = (uint64_t)((__uint128_t)vcpu_vm(vcpu)->arch.elapsed_ns * khz / 1000000);
	if (msr_load(vcpu->fd, vcpu->index, s.msrs, s.n_msrs, ticks, err) < 0 ||
	    (s.nested_state && nested_load(vcpu->fd, s.nested_state, s.n_nested_state, err) < 0))
		return err_wrap(err, "vCPU %u", vcpu->index);
	return set(vcpu, KVM_SET_VCPU_EVENTS, &s.vcpu_events, "set events", err);
}
