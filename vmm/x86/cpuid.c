// SPDX-License-Identifier: Apache-2.0
/* CPUID: the guest's table. */
#include "vmm/x86/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "vmm/config/config.h"

enum {
	LEAF1_ECX_VMX = 1 << 5,
	LEAF1_ECX_TSC_DEADLINE = 1 << 24,
	LEAF1_EDX_MTRR = 1 << 12,
	LEAF1_EDX_HTT = 1 << 28,
	EXT1_ECX_SVM = 1 << 2,
	KVM_FEATURE_BIT_EXT_DEST = 1 << 15,
	TOPO_SMT = 1 << 8,
	TOPO_CORE = 2 << 8,
	TOPO_DIE = 5 << 8,
	CPUID_INDEX_SIGNIFICANT = 1,
};
#define LEAF1_ECX_HYPERVISOR (1U << 31)
#define LEAF_AMX_TILE 0x1dU
#define LEAF_AMX_TMUL 0x1eU
#define LEAF_KVM_FEATURES 0x40000001U
#define LEAF_KVM_TIMING 0x40000010U
#define LEAF_EXT1 0x80000001U
#define LEAF_BRAND 0x80000002U
#define LEAF_ADDRESS 0x80000008U
#define LEAF_SVM 0x8000000aU

const struct field cpuid_entry_fields[] = {
	F(struct cpuid_entry, function, .flags = F_REQUIRED), F(struct cpuid_entry, index, .flags = F_REQUIRED),
	F(struct cpuid_entry, flags, .flags = F_REQUIRED),    F(struct cpuid_entry, eax, .flags = F_REQUIRED),
	F(struct cpuid_entry, ebx, .flags = F_REQUIRED),      F(struct cpuid_entry, ecx, .flags = F_REQUIRED),
	F(struct cpuid_entry, edx, .flags = F_REQUIRED),      F_END,
};

struct cpuid_entry *cpuid_find(const struct cpuid_table *t, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < t->n_entry; i++) {
		struct cpuid_entry *e = &t->entry[i];
		bool indexed = e->flags & CPUID_INDEX_SIGNIFICANT;
		if (e->function == function && (!indexed || e->index == index))
			return e;
	}
	return NULL;
}

uint32_t cpuid_register(const struct cpuid_entry *e, enum cpuid_reg reg)
{
	return reg == CPUID_EAX ? e->eax : reg == CPUID_EBX ? e->ebx : reg == CPUID_ECX ? e->ecx : e->edx;
}

/* Finds an entry or appends it; the table has room for MAX_CPUID_ENTRIES. */
static struct cpuid_entry *entry(struct cpuid_table *t, uint32_t function, uint32_t index, uint32_t flags)
{
	struct cpuid_entry *e = cpuid_find(t, function, index);

	if (!e && t->n_entry < MAX_CPUID_ENTRIES) {
		e = &t->entry[t->n_entry++];
		*e = (struct cpuid_entry){ .function = function, .index = index, .flags = flags };
	}
	return e;
}

void cpuid_free(struct cpuid_table *t)
{
	free(t->entry);
	*t = (struct cpuid_table){};
}

static int read_supported(const struct kvm *kvm, struct cpuid_table *t, struct err *err)
{
	autofree struct kvm_cpuid2 *k = calloc(1, sizeof(*k) + MAX_CPUID_ENTRIES * sizeof(k->entries[0]));

	t->entry = calloc(MAX_CPUID_ENTRIES, sizeof(*t->entry));
	t->n_entry = 0;
	if (!k || !t->entry)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the supported CPUID");
	k->nent = MAX_CPUID_ENTRIES;
	if (kvm_ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, k, "get the supported CPUID", err) < 0)
		return err->num;
	for (uint32_t i = 0; i < k->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &k->entries[i];
		t->entry[t->n_entry++] =
			(struct cpuid_entry){ e->function, e->index, e->flags, e->eax, e->ebx, e->ecx, e->edx };
	}
	return 0;
}

int cpuid_host(const struct kvm *kvm, struct cpuid_table *ret, struct err *err)
{
	struct cpuid_table t = {};

	if (read_supported(kvm, &t, err) < 0) {
		cpuid_free(&t);
		return err->num;
	}
	struct cpuid_entry *e = entry(&t, 1, 0, 0);
	if (e) {
		e->ecx |= LEAF1_ECX_HYPERVISOR;
		if (kvm_check_cap(kvm, KVM_CAP_TSC_DEADLINE_TIMER))
			e->ecx |= LEAF1_ECX_TSC_DEADLINE;
		e->edx |= LEAF1_EDX_MTRR;
	}
	e = entry(&t, LEAF_KVM_FEATURES, 0, 0);
	if (e)
		e->eax |= KVM_FEATURE_BIT_EXT_DEST;
	*ret = t;
	return 0;
}

unsigned cpuid_phys_bits(const struct cpuid_table *t)
{
	const struct cpuid_entry *e = cpuid_find(t, LEAF_ADDRESS, 0);

	return e ? e->eax & 0xff : 36;
}

static void clear_amx(struct cpuid_table *t)
{
	for (uint32_t i = 0; i < t->n_entry; i++) {
		struct cpuid_entry *e = &t->entry[i];
		if (e->function == 7 && e->index == 0) /* bf16, tile, int8 */
			e->edx &= ~(1U << 22 | 1U << 24 | 1U << 25);
		if (e->function == 0xd && e->index == 0)
			e->eax &= ~(3U << 17);
		if (e->function == LEAF_AMX_TILE || e->function == LEAF_AMX_TMUL)
			e->eax = e->ebx = e->ecx = e->edx = 0;
	}
}

/* Takes virtualization away from a guest that is to run no virtual machines of its own. */
static void clear_nested(struct cpuid_table *t)
{
	for (uint32_t i = 0; i < t->n_entry; i++) {
		struct cpuid_entry *e = &t->entry[i];
		if (e->function == 1)
			e->ecx &= ~(uint32_t)LEAF1_ECX_VMX;
		if (e->function == LEAF_EXT1)
			e->ecx &= ~(uint32_t)EXT1_ECX_SVM;
		if (e->function == LEAF_SVM)
			e->eax = e->ebx = e->ecx = e->edx = 0;
	}
}

int cpuid_common(const struct kvm *kvm, const struct cpus_config *cfg, uint32_t tsc_khz, struct cpuid_table *ret,
		 struct err *err)
{
	struct cpuid_table t = {};

	if (cpuid_host(kvm, &t, err) < 0)
		return err->num;
	clear_amx(&t);
	if (!cfg->nested)
		clear_nested(&t);
	struct cpuid_entry *e = entry(&t, LEAF_KVM_TIMING, 0, 0);
	if (e && tsc_khz) {
		e->eax = tsc_khz;
		e->ebx = 1000000; /* LAPIC bus, kHz */
	}
	for (uint32_t leaf = LEAF_BRAND; leaf < LEAF_BRAND + 3; leaf++) {
		e = entry(&t, leaf, 0, 0);
		if (e)
			__get_cpuid(leaf, &e->eax, &e->ebx, &e->ecx, &e->edx);
	}
	unsigned bits = cpuid_phys_bits(&t);
	if (bits > cfg->max_phys_bits)
		bits = cfg->max_phys_bits;
	e = entry(&t, LEAF_ADDRESS, 0, 0);
	if (e)
		e->eax = (e->eax & ~0xff00ffU) | bits | bits << 16;
	*ret = t;
	return 0;
}

struct cpu_topology cpuid_topology(const struct cpus_config *cfg)
{
	const struct topology_config *t = cfg->topology;

	return t ? (struct cpu_topology){ t->threads_per_core, t->cores_per_die, t->dies_per_package }
		 : (struct cpu_topology){};
}

static unsigned bits_for(unsigned n)
{
	unsigned bits = 0;

	while (1U << bits < n)
		bits++;
	return bits;
}

static void set_level(struct cpuid_table *t, uint32_t leaf, uint32_t index, uint32_t type, unsigned shift, unsigned n,
		      uint32_t apic_id)
{
	struct cpuid_entry *e = entry(t, leaf, index, CPUID_INDEX_SIGNIFICANT);

	if (!e)
		return;
	e->flags = CPUID_INDEX_SIGNIFICANT;
	e->eax = shift;
	e->ebx = n;
	e->ecx = type | index;
	e->edx = apic_id;
}

/*
 * Leaves 0xb and 0x1f: thread, core and die levels of the id, and how many logical CPUs each spans.
 */
static void set_topology(struct cpuid_table *t, const struct cpus_config *cfg, uint32_t apic_id)
{
	struct cpu_topology topo = cpuid_topology(cfg);

	if (!topo.threads_per_core)
		topo = (struct cpu_topology){ 1, cfg->max_vcpus, 1 };
	unsigned thread = bits_for(topo.threads_per_core);
	unsigned core = thread + bits_for(topo.cores_per_die);
	unsigned die = core + bits_for(topo.dies_per_package);
	unsigned per_die = topo.threads_per_core * topo.cores_per_die;
	set_level(t, 0xb, 0, TOPO_SMT, thread, topo.threads_per_core, apic_id);
	set_level(t, 0xb, 1, TOPO_CORE, die, per_die * topo.dies_per_package, apic_id);
	set_level(t, 0x1f, 0, TOPO_SMT, thread, topo.threads_per_core, apic_id);
	set_level(t, 0x1f, 1, TOPO_CORE, core, per_die, apic_id);
	set_level(t, 0x1f, 2, TOPO_DIE, die, per_die * topo.dies_per_package, apic_id);
	for (uint32_t i = 0; i < t->n_entry; i++)
		if (t->entry[i].function == 0xb || t->entry[i].function == 0x1f)
			t->entry[i].edx = apic_id;
}

int cpuid_for_vcpu(const struct cpuid_table *common, const struct cpus_config *cfg, unsigned vcpu,
		   struct cpuid_table *ret, struct err *err)
{
	struct cpu_topology topo = cpuid_topology(cfg);
	uint32_t apic_id = cpu_apic_id(&topo, vcpu);
	struct cpuid_table t = { .entry = calloc(MAX_CPUID_ENTRIES, sizeof(*t.entry)), .n_entry = common->n_entry };

	if (!t.entry)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the CPUID of vCPU %u", vcpu);
	memcpy(t.entry, common->entry, common->n_entry * sizeof(*t.entry));
	struct cpuid_entry *e = cpuid_find(&t, 1, 0);
	if (e) {
		unsigned n = cfg->max_vcpus < 255 ? cfg->max_vcpus : 255;
		e->ebx = (e->ebx & 0xff00) | apic_id << 24 | (n > 1 ? n << 16 : 0);
		if (n > 1)
			e->edx |= LEAF1_EDX_HTT;
	}
	e = cpuid_find(&t, 0x8000001e, 0);
	if (e)
		e->eax = apic_id;
	set_topology(&t, cfg, apic_id);
	*ret = t;
	return 0;
}

int cpuid_set(int vcpu_fd, const struct cpuid_entry *list, uint32_t n, struct err *err)
{
	autofree struct kvm_cpuid2 *k = calloc(1, sizeof(*k) + n * sizeof(k->entries[0]));

	if (!k)
		return err_num(err, ERR_INTERNAL, ENOMEM, "set CPUID");
	k->nent = n;
	for (uint32_t i = 0; i < n; i++)
		k->entries[i] = (struct kvm_cpuid_entry2){
			.function = list[i].function,
			.index = list[i].index,
			.flags = list[i].flags,
			.eax = list[i].eax,
			.ebx = list[i].ebx,
			.ecx = list[i].ecx,
			.edx = list[i].edx,
		};
	return kvm_ioctl(vcpu_fd, KVM_SET_CPUID2, k, "set CPUID", err);
}
