// SPDX-License-Identifier: Apache-2.0
/*
 * What a host must have to run a guest: read from the guest's saved state, compared with this host,
 * and turned into names and back.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/host_needs.h"
#include "vmm/core/arch.h"
#include "vmm/x86/cpu_needs.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/msr.h"
#include "vmm/x86/needs.h"
#include "vmm/x86/nested.h"

enum { SHOWN_BYTES = 1500 };

/* What KVM must offer; a bit of arch_needs.kvm each. */
static const struct {
	int cap;
	const char *name;
	bool always; /* for every guest */
} caps[] = {
	{ KVM_CAP_USER_MEMORY, "user_memory", true },
	{ KVM_CAP_SET_TSS_ADDR, "set_tss_addr", true },
	{ KVM_CAP_SET_IDENTITY_MAP_ADDR, "set_identity_map_addr", true },
	{ KVM_CAP_SPLIT_IRQCHIP, "split_irqchip", true },
	{ KVM_CAP_SIGNAL_MSI, "signal_msi", true },
	{ KVM_CAP_IRQFD, "irqfd", true },
	{ KVM_CAP_IOEVENTFD, "ioeventfd", true },
	{ KVM_CAP_IMMEDIATE_EXIT, "immediate_exit", true },
	{ KVM_CAP_ADJUST_CLOCK, "adjust_clock", true },
	{ KVM_CAP_MP_STATE, "mp_state", true },
	{ KVM_CAP_VCPU_EVENTS, "vcpu_events", true },
	{ KVM_CAP_XSAVE, "xsave", true },
	{ KVM_CAP_XCRS, "xcrs", true },
	{ KVM_CAP_NESTED_STATE, "nested_state", false },
};
enum { CAP_NESTED_STATE = ARRAY_LEN(caps) - 1 };

/* ---- of a snapshot ---- */

static void add_msrs(struct arch_needs *n, const struct vcpu_kvm_state *s)
{
	for (uint32_t i = 0; i < s->n_msrs; i++) {
		uint32_t at = 0, index = s->msrs[i].index;
		if (!s->msrs[i].data)
			continue; /* what a CPU without it shows */
		while (at < n->n_msrs && n->msrs[at] < index)
			at++;
		if ((at < n->n_msrs && n->msrs[at] == index) || n->n_msrs == ARRAY_LEN(n->msrs))
			continue;
		memmove(n->msrs + at + 1, n->msrs + at, (n->n_msrs - at) * sizeof(*n->msrs));
		n->msrs[at] = index;
		n->n_msrs++;
	}
}

static int add_vcpu(struct arch_needs *n, const struct vcpu_kvm_state *s, struct err *err)
{
	if (s->xsave.n_region < XSAVE_WORDS)
		return err_set(err, ERR_INVALID, "xsave.region has %u words, expected %d or more", s->xsave.n_region,
			       XSAVE_WORDS);
	if (s->nested_state && nested_check(s->nested_state, s->n_nested_state, err) < 0)
		return err->num;
	if (s->nested_state)
		n->kvm |= 1U << CAP_NESTED_STATE;
	if (s->xsave.n_region * sizeof(uint32_t) > n->xsave_bytes)
		n->xsave_bytes = s->xsave.n_region * (uint32_t)sizeof(uint32_t);
	if (s->has_tsc_khz && n->tsc_khz && s->tsc_khz != n->tsc_khz)
		return err_set(err, ERR_INVALID, "tsc_khz: %u, but another vCPU has %u", s->tsc_khz, n->tsc_khz);
	if (s->has_tsc_khz)
		n->tsc_khz = s->tsc_khz;
	add_msrs(n, s);
	return 0;
}

int arch_needs_of(const struct arch_state *state, const struct vcpu_state *cpus, unsigned n_cpus,
		  struct arch_needs *ret, struct err *err)
{
	const struct cpuid_table told = { .entry = state->common_cpuid, .n_entry = state->n_common_cpuid };

	*ret = (struct arch_needs){};
	cpu_needs_of(&told, ret->cpu);
	for (unsigned i = 0; i < ARRAY_LEN(caps); i++)
		ret->kvm |= (uint32_t)caps[i].always << i;
	for (unsigned i = 0; i < n_cpus; i++)
		if (add_vcpu(ret, &cpus[i].Kvm, err) < 0)
			return err_wrap(err, "vCPU %u", i);
	return 0;
}

/* ---- to and from names ---- */

struct names {
	char **name;
	uint32_t n;
	bool failed;
};

static void add_name(void *arg, const char *name)
{
	struct names *l = arg;

	l->failed = !names_add(&l->name, &l->n, name) || l->failed;
}

static void names_done(struct names *l)
{
	for (uint32_t i = 0; i < l->n; i++)
		free(l->name[i]);
	free(l->name);
}
#define autonames __attribute__((cleanup(names_done)))

static void steal_names(struct names *from, char ***list, uint32_t *n)
{
	*list = steal_ptr(&from->name);
	*n = from->n;
	from->n = 0;
}

int arch_needs_save(const struct arch_needs *n, struct host_needs *ret, struct err *err)
{
	autonames struct names cpu = {}, msrs = {}, kvm = {};
	char text[16];

	cpu_needs_names(n->cpu, NULL, add_name, &cpu);
	for (uint32_t i = 0; i < n->n_msrs; i++) {
		snprintf(text, sizeof(text), "0x%x", n->msrs[i]);
		add_name(&msrs, text);
	}
	for (unsigned i = 0; i < ARRAY_LEN(caps); i++)
		if (n->kvm >> i & 1)
			add_name(&kvm, caps[i].name);
	if (cpu.failed || msrs.failed || kvm.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "list what a host must have");
	*ret = (struct host_needs){ .tsc_khz = n->tsc_khz, .xsave_bytes = n->xsave_bytes };
	steal_names(&cpu, &ret->cpu, &ret->n_cpu);
	steal_names(&msrs, &ret->msrs, &ret->n_msrs);
	steal_names(&kvm, &ret->kvm, &ret->n_kvm);
	return 0;
}

static bool load_cap(struct arch_needs *n, const char *name)
{
	for (unsigned i = 0; i < ARRAY_LEN(caps); i++)
		if (strcmp(caps[i].name, name) == 0) {
			n->kvm |= 1U << i;
			return true;
		}
	return false;
}

static bool load_msr(struct arch_needs *n, const char *name)
{
	char *end = NULL;
	unsigned long index = strtoul(name, &end, 16);

	if (end == name || *end || index > UINT32_MAX || n->n_msrs == ARRAY_LEN(n->msrs))
		return false;
	n->msrs[n->n_msrs++] = (uint32_t)index;
	return true;
}

int arch_needs_load(const struct host_needs *from, struct arch_needs *ret, struct err *err)
{
	*ret = (struct arch_needs){ .tsc_khz = from->tsc_khz, .xsave_bytes = from->xsave_bytes };
	for (uint32_t i = 0; i < from->n_cpu; i++)
		if (!cpu_needs_add(ret->cpu, from->cpu[i]))
			return err_set(err, ERR_HOST, "this program does not know the CPU feature '%.64s'",
				       from->cpu[i]);
	for (uint32_t i = 0; i < from->n_msrs; i++)
		if (!load_msr(ret, from->msrs[i]))
			return err_set(err, ERR_INVALID, "'%.64s' is no MSR", from->msrs[i]);
	for (uint32_t i = 0; i < from->n_kvm; i++)
		if (!load_cap(ret, from->kvm[i]))
			return err_set(err, ERR_HOST, "this program does not know the KVM capability '%.64s'",
				       from->kvm[i]);
	return 0;
}

/* ---- this host ---- */

static void lack_caps(const struct kvm *kvm, uint32_t need, struct names *lacks)
{
	char text[64];

	for (unsigned i = 0; i < ARRAY_LEN(caps); i++) {
		if (!(need >> i & 1) || kvm_check_cap(kvm, caps[i].cap))
			continue;
		snprintf(text, sizeof(text), "KVM's %s", caps[i].name);
		add_name(lacks, text);
	}
}

static int lack_cpu(const struct kvm *kvm, const uint32_t need[CPU_NEEDS], struct names *lacks, struct err *err)
{
	struct cpuid_table t = {};
	uint32_t host[CPU_NEEDS];

	if (cpuid_host(kvm, &t, err) < 0)
		return err->num;
	cpu_needs_of(&t, host);
	cpuid_free(&t);
	cpu_needs_names(need, host, add_name, lacks);
	return 0;
}

static void lack_xsave(const struct kvm *kvm, uint32_t need, struct names *lacks)
{
	int bytes = kvm_check_cap(kvm, KVM_CAP_XSAVE2);
	uint32_t has = bytes > (int)sizeof(struct kvm_xsave) ? (uint32_t)bytes : sizeof(struct kvm_xsave);
	char text[64];

	if (need <= has)
		return;
	snprintf(text, sizeof(text), "xsave_bytes=%u (it has %u)", need, has);
	add_name(lacks, text);
}

static int lack_msrs(const struct kvm *kvm, const struct arch_needs *n, struct names *lacks, struct err *err)
{
	autofree uint32_t *host = calloc(MSR_MAX, sizeof(*host));
	uint32_t n_host = 0;
	char text[32];

	if (!host)
		return err_num(err, ERR_INTERNAL, ENOMEM, "list MSRs");
	if (msr_list(kvm, host, &n_host, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < n->n_msrs; i++) {
		uint32_t at = 0;
		while (at < n_host && host[at] != n->msrs[i])
			at++;
		if (at < n_host)
			continue;
		snprintf(text, sizeof(text), "MSR 0x%x", n->msrs[i]);
		add_name(lacks, text);
	}
	return 0;
}

static const char *tsc_text(uint32_t khz, int host_khz, char text[80])
{
	snprintf(text, 80, "tsc_khz=%u (it has %d and cannot scale that)", khz, host_khz);
	return text;
}

/* Asks a vCPU: whether a rate is near enough, is scaled, or is caught up with, only KVM knows. */
static int lack_tsc(const struct kvm *kvm, uint32_t khz, struct names *lacks, struct err *err)
{
	struct kvm own = { .fd = kvm->fd, .vm_fd = -1 };
	char text[80];

	if (!khz)
		return 0;
	if (kvm_create_vm(&own, err) < 0)
		return err->num;
	autoclose int vm_fd = own.vm_fd;
	autoclose int vcpu_fd = kvm_ioctl(vm_fd, KVM_CREATE_VCPU, NULL, "create a vCPU", err);
	if (vcpu_fd < 0)
		return err->num;
	int host_khz = ioctl(vcpu_fd, KVM_GET_TSC_KHZ);
	if ((uint32_t)host_khz != khz && ioctl(vcpu_fd, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0)
		add_name(lacks, tsc_text(khz, host_khz, text));
	return 0;
}

static int refuse(const struct names *lacks, struct err *err)
{
	autostrbuf struct strbuf text = {};
	uint32_t i = 0;

	for (; i < lacks->n && text.len < SHOWN_BYTES; i++)
		strbuf_printf(&text, "%s%s", i ? ", " : "", lacks->name[i]);
	if (i < lacks->n)
		strbuf_printf(&text, " and %u more", lacks->n - i);
	if (text.failed || lacks->failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "list what this host lacks");
	return err_set(err, ERR_HOST, "this host lacks what the guest needs: %s", text.text);
}

int arch_needs_check(int kvm_fd, const struct arch_needs *n, bool tsc, struct err *err)
{
	const struct kvm kvm = { .fd = kvm_fd, .vm_fd = -1 };
	autonames struct names lacks = {};

	lack_caps(&kvm, n->kvm, &lacks);
	if (lack_cpu(&kvm, n->cpu, &lacks, err) < 0 || lack_msrs(&kvm, n, &lacks, err) < 0)
		return err->num;
	lack_xsave(&kvm, n->xsave_bytes, &lacks);
	if ((tsc || lacks.n) && lack_tsc(&kvm, n->tsc_khz, &lacks, err) < 0)
		return err->num;
	return lacks.n ? refuse(&lacks, err) : 0;
}

int needs_check_kvm(const struct kvm *kvm, struct err *err)
{
	autonames struct names lacks = {};
	uint32_t need = 0;

	for (unsigned i = 0; i < ARRAY_LEN(caps); i++)
		need |= (uint32_t)caps[i].always << i;
	lack_caps(kvm, need, &lacks);
	return lacks.n ? refuse(&lacks, err) : 0;
}

int needs_refuse_tsc(uint32_t khz, int host_khz, struct err *err)
{
	autonames struct names lacks = {};
	char text[80];

	add_name(&lacks, tsc_text(khz, host_khz, text));
	return refuse(&lacks, err);
}
