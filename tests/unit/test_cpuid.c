// SPDX-License-Identifier: Apache-2.0
/* vmm/x86/cpuid and topology: what a guest is told, and each vCPU's own leaves. KVM is fake_kvm(). */
#include "vmm/x86/cpuid.h"

#include "tests/unit/fake_kvm.h"

#include <cpuid.h>
#include <errno.h>

#include "vmm/config/config.h"

enum { INDEXED = 1 };

static struct kvm_cpuid_entry2 supported[16], set_entries[16];
static unsigned n_supported, n_set;
static int supported_errno;
static bool has_tsc_deadline;

static int fake_kvm(unsigned long request, void *arg)
{
	if (request == KVM_CHECK_EXTENSION)
		return (uintptr_t)arg == KVM_CAP_TSC_DEADLINE_TIMER && has_tsc_deadline;
	struct kvm_cpuid2 *k = arg;
	if (request == KVM_SET_CPUID2) {
		n_set = k->nent;
		memcpy(set_entries, k->entries, k->nent * sizeof(k->entries[0]));
		return 0;
	}
	assert_int_equal(request, KVM_GET_SUPPORTED_CPUID);
	assert_true(k->nent >= n_supported);
	memcpy(k->entries, supported, n_supported * sizeof(supported[0]));
	k->nent = n_supported;
	return -supported_errno;
}

static const struct kvm kvm = { .fd = FAKE_FD, .vm_fd = -1 };

static int make(void **state)
{
	static const struct kvm_cpuid_entry2 host[] = {
		{ .function = 0, .eax = 0x1f },
		{ .function = 1, .eax = 0x806f8, .ebx = 0x11222233, .ecx = 0x1, .edx = 0x1 },
		{ .function = 7, .index = 0, .flags = INDEXED, .eax = 2, .ebx = 0xf, .edx = UINT32_MAX },
		{ .function = 7, .index = 1, .flags = INDEXED, .eax = 0x30, .edx = UINT32_MAX },
		{ .function = 0xb, .index = 0, .flags = INDEXED, .eax = 9, .edx = 99 },
		{ .function = 0xd, .index = 0, .flags = INDEXED, .eax = 0x602e7 },
		{ .function = 0x1d, .index = 1, .flags = INDEXED, .eax = 1, .ebx = 2, .ecx = 3, .edx = 4 },
		{ .function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d },
		{ .function = 0x40000001, .eax = 0x10 },
		{ .function = 0x80000008, .eax = 0x3039 | 0x550000, .ebx = 7 },
		{ .function = 0x8000001e, .eax = 77 },
	};

	(void)state;
	memcpy(supported, host, sizeof(host));
	n_supported = ARRAY_LEN(host);
	supported_errno = 0;
	has_tsc_deadline = true;
	return 0;
}

static const struct cpuid_entry *leaf(const struct cpuid_table *t, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < t->n_entry; i++)
		if (t->entry[i].function == function && t->entry[i].index == index)
			return &t->entry[i];
	fail_msg("no leaf 0x%x.%u", function, index);
	return NULL;
}

static void host_table(void **state)
{
	struct cpuid_table t = {};
	struct err err = {};

	(void)state;
	assert_int_equal(cpuid_host(&kvm, &t, &err), 0);
	assert_int_equal(t.n_entry, n_supported);
	assert_int_equal(leaf(&t, 1, 0)->ecx, 1 | 1 << 24 | 1U << 31);
	assert_int_equal(leaf(&t, 1, 0)->edx, 1 | 1 << 12);
	assert_int_equal(leaf(&t, 0x40000001, 0)->eax, 0x10 | 1 << 15);
	assert_int_equal(leaf(&t, 7, 0)->edx, UINT32_MAX);
	assert_int_equal(cpuid_phys_bits(&t), 0x39);
	cpuid_free(&t);
	assert_null(t.entry);
	has_tsc_deadline = false;
	assert_int_equal(cpuid_host(&kvm, &t, &err), 0);
	assert_int_equal(leaf(&t, 1, 0)->ecx, 1 | 1U << 31);
	cpuid_free(&t);
	supported_errno = E2BIG;
	assert_int_equal(cpuid_host(&kvm, &t, &err), -E2BIG);
	assert_non_null(strstr(err.msg, "KVM: get the supported CPUID"));
	assert_null(t.entry);
	assert_int_equal(cpuid_phys_bits(&t), 36);
}

static void common_table(void **state)
{
	const struct cpus_config cfg = { .max_vcpus = 1, .max_phys_bits = 46 };
	unsigned brand[4];
	struct cpuid_table t = {};
	struct err err = {};

	(void)state;
	assert_int_equal(cpuid_common(&kvm, &cfg, 2400000, &t, &err), 0);
	assert_int_equal(leaf(&t, 0x40000010, 0)->eax, 2400000);
	assert_int_equal(leaf(&t, 0x40000010, 0)->ebx, 1000000);
	assert_int_equal(leaf(&t, 0x80000008, 0)->eax, 46 | 0x3000 | 46 << 16);
	assert_int_equal(leaf(&t, 0x80000008, 0)->ebx, 7);
	assert_int_equal(leaf(&t, 7, 0)->edx, ~(1U << 22 | 1U << 24 | 1U << 25));
	assert_int_equal(leaf(&t, 7, 1)->edx, UINT32_MAX);
	assert_int_equal(leaf(&t, 0xd, 0)->eax, 0x2e7);
	assert_int_equal(
		leaf(&t, 0x1d, 1)->eax | leaf(&t, 0x1d, 1)->ebx | leaf(&t, 0x1d, 1)->ecx | leaf(&t, 0x1d, 1)->edx, 0);
	if (__get_cpuid(0x80000003, &brand[0], &brand[1], &brand[2], &brand[3]))
		assert_int_equal(leaf(&t, 0x80000003, 0)->ebx, brand[1]);
	cpuid_free(&t);
	assert_int_equal(cpuid_common(&kvm, &(struct cpus_config){ .max_vcpus = 1, .max_phys_bits = 64 }, 0, &t, &err),
			 0);
	assert_int_equal(leaf(&t, 0x80000008, 0)->eax, 0x39 | 0x3000 | 0x39 << 16);
	assert_int_equal(leaf(&t, 0x40000010, 0)->eax, 0);
	cpuid_free(&t);
}

static void nested(void **state)
{
	struct cpus_config cfg = { .max_vcpus = 1, .max_phys_bits = 46, .nested = true };
	struct err err = {};

	(void)state;
	supported[1].ecx = UINT32_MAX;
	supported[n_supported++] = (struct kvm_cpuid_entry2){ .function = 0x80000001, .ecx = UINT32_MAX, .edx = 5 };
	supported[n_supported++] =
		(struct kvm_cpuid_entry2){ .function = 0x8000000a, .eax = 1, .ebx = 2, .ecx = 3, .edx = 4 };
	for (unsigned on = 0; on < 2; on++) {
		struct cpuid_table t = {};
		cfg.nested = on;
		assert_int_equal(cpuid_common(&kvm, &cfg, 0, &t, &err), 0);
		assert_int_equal(leaf(&t, 1, 0)->ecx, on ? UINT32_MAX : ~(1U << 5));          /* VMX */
		assert_int_equal(leaf(&t, 0x80000001, 0)->ecx, on ? UINT32_MAX : ~(1U << 2)); /* SVM */
		assert_int_equal(leaf(&t, 0x80000001, 0)->edx, 5);
		const struct cpuid_entry *svm = leaf(&t, 0x8000000a, 0);
		assert_int_equal(svm->eax | svm->ebx | svm->ecx | svm->edx, on ? 7 : 0);
		cpuid_free(&t);
	}
}

static void apic_ids(void **state)
{
	static const struct {
		struct cpu_topology t;
		unsigned vcpu;
		uint32_t id;
	} cases[] = {
		{ { 0, 0, 0 }, 5, 5 },   { { 1, 1, 1 }, 3, 3 },   { { 2, 2, 1 }, 3, 3 }, { { 2, 3, 1 }, 5, 5 },
		{ { 2, 3, 1 }, 6, 8 },   { { 3, 1, 1 }, 2, 2 },   { { 3, 1, 1 }, 3, 4 }, { { 1, 3, 2 }, 3, 4 },
		{ { 3, 3, 3 }, 26, 42 }, { { 3, 3, 3 }, 27, 64 }, { { 2, 0, 1 }, 9, 9 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		if (cpu_apic_id(&cases[i].t, cases[i].vcpu) != cases[i].id)
			fail_msg("case %zu: %u", i, cpu_apic_id(&cases[i].t, cases[i].vcpu));
}

/* Shift and count of each level, for vCPU n-1. */
static void vcpu_table(void **state)
{
	static const struct {
		unsigned max, threads, cores, dies, vcpu;
		uint32_t apic, smt_shift, smt_n, all_shift, all_n, core_shift, core_n;
	} cases[] = {
		{ 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1 }, { 4, 0, 0, 0, 3, 3, 0, 1, 2, 4, 2, 4 },
		{ 5, 0, 0, 0, 4, 4, 0, 1, 3, 5, 3, 5 }, { 8, 2, 2, 2, 7, 7, 1, 2, 3, 8, 2, 4 },
		{ 6, 2, 3, 1, 5, 5, 1, 2, 3, 6, 3, 6 }, { 12, 2, 3, 2, 11, 13, 1, 2, 4, 12, 3, 6 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct topology_config topo = { (uint16_t)cases[i].threads, (uint16_t)cases[i].cores,
						(uint16_t)cases[i].dies, 1 };
		struct cpus_config cfg = { .max_vcpus = cases[i].max,
					   .max_phys_bits = 46,
					   .topology = cases[i].threads ? &topo : NULL };
		struct cpuid_table common = {}, t = {};
		struct err err = {};
		assert_int_equal(cpuid_common(&kvm, &cfg, 0, &common, &err), 0);
		assert_int_equal(cpuid_for_vcpu(&common, &cfg, cases[i].vcpu, &t, &err), 0);
		uint32_t n = cases[i].max > 1 ? cases[i].max : 0;
		assert_int_equal(leaf(&t, 1, 0)->ebx, 0x2200 | cases[i].apic << 24 | n << 16);
		assert_int_equal(leaf(&t, 1, 0)->edx >> 28 & 1, n > 1);
		assert_int_equal(leaf(&t, 0x8000001e, 0)->eax, cases[i].apic);
		const struct {
			uint32_t leaf, index, type, shift, n;
		} levels[] = {
			{ 0xb, 0, 0x100, cases[i].smt_shift, cases[i].smt_n },
			{ 0xb, 1, 0x201, cases[i].all_shift, cases[i].all_n },
			{ 0x1f, 0, 0x100, cases[i].smt_shift, cases[i].smt_n },
			{ 0x1f, 1, 0x201, cases[i].core_shift, cases[i].core_n },
			{ 0x1f, 2, 0x502, cases[i].all_shift, cases[i].all_n },
		};
		for (size_t k = 0; k < ARRAY_LEN(levels); k++) {
			const struct cpuid_entry *e = leaf(&t, levels[k].leaf, levels[k].index);
			assert_int_equal(e->flags, INDEXED);
			assert_int_equal(e->eax, levels[k].shift);
			assert_int_equal(e->ebx, levels[k].n);
			assert_int_equal(e->ecx, levels[k].type);
			assert_int_equal(e->edx, cases[i].apic);
		}
		assert_int_equal(leaf(&common, 0xb, 0)->edx, 99); /* the common table is as it was */
		cpuid_free(&common);
		cpuid_free(&t);
	}
}

static void many_vcpus(void **state)
{
	struct cpus_config cfg = { .max_vcpus = 300, .max_phys_bits = 46 };
	struct cpuid_table common = {}, t = {};
	struct err err = {};

	(void)state;
	assert_int_equal(cpuid_common(&kvm, &cfg, 0, &common, &err), 0);
	assert_int_equal(cpuid_for_vcpu(&common, &cfg, 257, &t, &err), 0);
	assert_int_equal(leaf(&t, 1, 0)->ebx, 0x2200 | 1 << 24 | 255 << 16); /* eight bits */
	assert_int_equal(leaf(&t, 0xb, 0)->edx, 257);
	cpuid_free(&common);
	cpuid_free(&t);
}

static void writes_to_kvm(void **state)
{
	const struct cpuid_entry e[] = { { 1, 2, 3, 4, 5, 6, 7 }, { 8, 9, 10, 11, 12, 13, 14 } };
	struct err err = {};

	(void)state;
	assert_int_equal(cpuid_set(FAKE_FD, e, 2, &err), 0);
	assert_int_equal(n_set, 2);
	assert_memory_equal(&set_entries[0], &e[0], sizeof(e[0]));
	assert_memory_equal(&set_entries[1], &e[1], sizeof(e[1]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(host_table, make), cmocka_unit_test_setup(common_table, make),
		cmocka_unit_test_setup(nested, make),     cmocka_unit_test(apic_ids),
		cmocka_unit_test_setup(vcpu_table, make), cmocka_unit_test_setup(many_vcpus, make),
		cmocka_unit_test(writes_to_kvm),
	};

	return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
