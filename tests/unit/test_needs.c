// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/x86/needs and cpu_needs: what a host must have, by name, and whether this host has it. KVM is
 * fake_kvm().
 */
#include "tests/unit/fake_kvm.h"

#include "common/host_needs.h"
#include "vmm/core/arch.h"
#include "vmm/x86/cpu_needs.h"
#include "vmm/x86/nested.h"

enum { INDEXED = 1, HOST_KHZ = 2596080, BELOW_KHZ = 2500104, XSAVE = 4096, LA57 = 1 << 16, NO_NAME = 1U << 15 };

/* The host. */
static struct {
	struct kvm_cpuid_entry2 cpuid[16];
	unsigned n_cpuid, n_vms;
	bool scales;
	int xsave2, without_cap, vm_errno;
} kvm;

static int check_extension(int cap)
{
	if (cap == kvm.without_cap)
		return 0;
	return cap == KVM_CAP_XSAVE2 ? kvm.xsave2 : cap == KVM_CAP_NESTED_STATE ? NESTED_BYTES : 1;
}

/* As KVM: what is near enough is taken as it is, what is above is caught up with. */
static int set_tsc_khz(unsigned long khz)
{
	return kvm.scales || khz > HOST_KHZ - HOST_KHZ / 4000 ? 0 : -EINVAL;
}

static int list_msrs(struct kvm_msr_list *l)
{
	static const uint32_t index[] = { 0x174, 0x10, 0xc0000080 };

	l->nmsrs = ARRAY_LEN(index);
	memcpy(l->indices, index, sizeof(index));
	return 0;
}

static int fake_kvm(unsigned long request, void *arg)
{
	switch (request) {
	case KVM_CHECK_EXTENSION:
		return check_extension((int)(intptr_t)arg);
	case KVM_GET_SUPPORTED_CPUID:
		memcpy(((struct kvm_cpuid2 *)arg)->entries, kvm.cpuid, kvm.n_cpuid * sizeof(kvm.cpuid[0]));
		((struct kvm_cpuid2 *)arg)->nent = kvm.n_cpuid;
		return 0;
	case KVM_GET_MSR_INDEX_LIST:
		return list_msrs(arg);
	case KVM_CREATE_VM:
		kvm.n_vms++;
		return kvm.vm_errno ? -kvm.vm_errno : FAKE_FD;
	case KVM_CREATE_VCPU:
		return FAKE_FD;
	case KVM_GET_TSC_KHZ:
		return HOST_KHZ;
	case KVM_SET_TSC_KHZ:
		return set_tsc_khz((unsigned long)arg);
	default:
		return -ENOTTY;
	}
}

/* ---- a host, and a snapshot that was taken on it ---- */

static struct cpuid_entry told[16];
static struct msr_entry msrs[4];
static uint32_t region[2 * XSAVE / 4];
static struct arch_state state;
static struct vcpu_state cpus[2];

static int make(void **unused)
{
	static const struct kvm_cpuid_entry2 host[] = {
		{ .function = 1, .ecx = 0x5, .edx = 0x3 },
		{ .function = 7, .flags = INDEXED, .eax = 1, .ebx = 0x1, .ecx = 0x2, .edx = 0x10 },
		{ .function = 7, .index = 1, .flags = INDEXED, .eax = 0x10 },
		{ .function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d },
		{ .function = 0x40000001, .eax = 0x1000001 },
		{ .function = 0x80000001, .ecx = 0x1, .edx = 0x20100000 | 0x3ff },
		{ .function = 0x80000008, .eax = 0x302e },
	};

	(void)unused;
	memset(&kvm, 0, sizeof(kvm));
	memcpy(kvm.cpuid, host, sizeof(host));
	kvm.n_cpuid = ARRAY_LEN(host);
	for (unsigned i = 0; i < ARRAY_LEN(host); i++)
		told[i] = (struct cpuid_entry){ host[i].function, host[i].index, host[i].flags, host[i].eax,
						host[i].ebx,      host[i].ecx,   host[i].edx };
	msrs[0] = (struct msr_entry){ 0xc0000080, 0x500 };
	msrs[1] = (struct msr_entry){ 0x10, 77 };
	msrs[2] = (struct msr_entry){ 0x2ff, 6 }; /* one of those that KVM does not list */
	msrs[3] = (struct msr_entry){ 0xdead, 0 };
	state = (struct arch_state){ .common_cpuid = told, .n_common_cpuid = ARRAY_LEN(host) };
	for (unsigned i = 0; i < ARRAY_LEN(cpus); i++)
		cpus[i] = (struct vcpu_state){ .Kvm = { .msrs = msrs,
							.n_msrs = ARRAY_LEN(msrs),
							.xsave = { region, XSAVE / 4 },
							.tsc_khz = HOST_KHZ,
							.has_tsc_khz = true } };
	return 0;
}

static struct arch_needs needs_of(void)
{
	struct arch_needs n;
	struct err err = {};

	if (arch_needs_of(&state, cpus, ARRAY_LEN(cpus), &n, &err) < 0)
		fail_msg("%s", err.msg);
	return n;
}

static struct cpuid_entry *leaf(uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < state.n_common_cpuid; i++)
		if (told[i].function == function && told[i].index == index)
			return &told[i];
	fail_msg("no leaf 0x%x.%u", function, index);
	return NULL;
}

/* "" when there is nothing missing; else what comes behind the beginning, which is always the same. */
static const char *lacks(const struct arch_needs *n, bool tsc)
{
	static const char begin[] = "this host lacks what the guest needs: ";
	static char text[ERR_MSG_BYTES];
	struct err err = {};

	if (arch_needs_check(FAKE_FD, n, tsc, &err) == 0)
		return "";
	assert_int_equal(err.code, ERR_HOST);
	snprintf(text, sizeof(text), "%s", err.msg);
	assert_int_equal(strncmp(text, begin, sizeof(begin) - 1), 0);
	return text + sizeof(begin) - 1;
}

/* ---- tests ---- */

static void same_host(void **unused)
{
	struct arch_needs n = needs_of();

	(void)unused;
	assert_string_equal(lacks(&n, true), "");
	assert_int_equal(kvm.n_vms, 1);
	assert_string_equal(lacks(&n, false), "");
	assert_int_equal(kvm.n_vms, 1); /* none is made for what can be had without */
}

static void change_cpu(unsigned i)
{
	switch (i) {
	case 0:
		leaf(7, 0)->ecx |= LA57;
		break;
	case 1:
		leaf(7, 0)->ecx |= NO_NAME;
		break;
	case 2:
		leaf(1, 0)->ecx |= 1 << 28 | 1 << 12;
		break;
	case 3:
		leaf(7, 1)->eax |= 1 << 5;
		leaf(7, 0)->eax = 2;
		break;
	case 4:
		leaf(0x80000008, 0)->eax = 0x3030;
		break;
	case 5:
		leaf(0x40000000, 0)->ebx = 0x12345678;
		break;
	case 6:
		leaf(0x40000001, 0)->eax |= 1 << 5;
		leaf(0x40000000, 0)->eax++;
		break;
	case 7:
		leaf(0x80000001, 0)->ecx |= 1 << 2;
		leaf(0x80000001, 0)->edx |= 1 << 11;
		break;
	default:
		leaf(1, 0)->eax = leaf(1, 0)->ebx = 77; /* family and model, APIC id */
		leaf(0x80000001, 0)->edx |= 1 << 23;    /* AMD's copy of a bit of leaf 1 */
		leaf(0x80000008, 0)->eax = 0x392d;      /* linear addresses do not count; one physical bit less */
	}
}

static void cpu_by_name(void **unused)
{
	static const char *const expected[] = {
		"la57",
		"cpuid_7_0_ecx_bit_15",
		"fma, avx",
		"avx512_bf16, cpuid_7_subleaves=2",
		"phys_bits=48",
		"hypervisor_other_than_kvm",
		"kvm_steal_time, kvm_leaves=2",
		"syscall, svm",
		"",
	};

	for (unsigned i = 0; i < ARRAY_LEN(expected); i++) {
		make(unused);
		change_cpu(i);
		struct arch_needs n = needs_of();
		if (strcmp(lacks(&n, false), expected[i]) != 0)
			fail_msg("case %u: '%s', not '%s'", i, lacks(&n, false), expected[i]);
	}
	make(unused); /* what the host has more */
	struct arch_needs n = needs_of();
	kvm.cpuid[0].ecx |= 1 << 28;
	assert_string_equal(lacks(&n, false), "");
	kvm.n_cpuid = 1; /* leaves that it has not at all */
	assert_non_null(strstr(lacks(&n, false), "fsgsbase"));
	assert_non_null(strstr(lacks(&n, false), "kvm, kvm_clocksource"));
}

static void tsc_rate(void **unused)
{
	static const struct {
		uint32_t khz;
		bool scales, lacks;
	} cases[] = {
		{ BELOW_KHZ, false, true },     { BELOW_KHZ, true, false },    { HOST_KHZ - 100, false, false },
		{ HOST_KHZ + 1, false, false }, { 2 * HOST_KHZ, true, false }, { 0, false, false },
	};
	const char *text = "tsc_khz=2500104 (it has 2596080 and cannot scale that)";

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		make(unused);
		kvm.scales = cases[i].scales;
		cpus[0].Kvm.tsc_khz = cpus[1].Kvm.tsc_khz = cases[i].khz;
		cpus[0].Kvm.has_tsc_khz = cpus[1].Kvm.has_tsc_khz = cases[i].khz != 0;
		struct arch_needs n = needs_of();
		assert_string_equal(lacks(&n, true), cases[i].lacks ? text : "");
		assert_string_equal(lacks(&n, false), "");
	}
	/* whoever cannot have something else hears of the rate, too */
	make(unused);
	leaf(7, 0)->ecx |= LA57;
	cpus[0].Kvm.tsc_khz = cpus[1].Kvm.tsc_khz = BELOW_KHZ;
	struct arch_needs n = needs_of();
	assert_string_equal(lacks(&n, false), "la57, tsc_khz=2500104 (it has 2596080 and cannot scale that)");
}

static void no_vm_for_the_rate(void **unused)
{
	struct arch_needs n = needs_of();
	struct err err = {};

	(void)unused;
	kvm.vm_errno = ENOMEM;
	assert_int_equal(arch_needs_check(FAKE_FD, &n, true, &err), -ENOMEM);
	assert_int_equal(err.code, ERR_INTERNAL);
}

static void xsave_size(void **unused)
{
	(void)unused;
	cpus[1].Kvm.xsave.n_region = 2 * XSAVE / 4;
	struct arch_needs n = needs_of();
	assert_int_equal(n.xsave_bytes, 2 * XSAVE);
	assert_string_equal(lacks(&n, false), "xsave_bytes=8192 (it has 4096)");
	kvm.xsave2 = 2 * XSAVE - 4;
	assert_string_equal(lacks(&n, false), "xsave_bytes=8192 (it has 8188)");
	kvm.xsave2 = 2 * XSAVE;
	assert_string_equal(lacks(&n, false), "");
}

static void msr(void **unused)
{
	(void)unused;
	msrs[3].data = 1;
	struct arch_needs n = needs_of();
	assert_string_equal(lacks(&n, false), "MSR 0xdead");
	assert_int_equal(n.n_msrs, 4); /* of both vCPUs, each once */
	for (uint32_t i = 1; i < n.n_msrs; i++)
		assert_true(n.msrs[i - 1] < n.msrs[i]);
}

static void kvm_capability(void **unused)
{
	uint8_t nested[NESTED_BYTES] = { [4] = 128 };

	(void)unused;
	struct arch_needs n = needs_of();
	kvm.without_cap = KVM_CAP_NESTED_STATE;
	assert_string_equal(lacks(&n, false), "");
	cpus[1].Kvm.nested_state = nested;
	cpus[1].Kvm.n_nested_state = sizeof(nested);
	n = needs_of();
	assert_string_equal(lacks(&n, false), "KVM's nested_state");
	kvm.without_cap = KVM_CAP_SPLIT_IRQCHIP;
	assert_string_equal(lacks(&n, false), "KVM's split_irqchip");
}

static void wrong_state(void **unused)
{
	uint8_t nested[NESTED_BYTES] = { [4] = 127 };
	struct arch_needs n;
	struct err err = {};

	(void)unused;
	cpus[1].Kvm.xsave.n_region--;
	assert_int_equal(arch_needs_of(&state, cpus, 2, &n, &err), -EINVAL);
	assert_string_equal(err.msg, "vCPU 1\nxsave.region has 1023 words, expected 1024 or more");
	cpus[1].Kvm.xsave.n_region++;
	cpus[1].Kvm.tsc_khz--;
	assert_int_equal(arch_needs_of(&state, cpus, 2, &n, &err), -EINVAL);
	assert_string_equal(err.msg, "vCPU 1\ntsc_khz: 2596079, but another vCPU has 2596080");
	cpus[0].Kvm.nested_state = nested;
	cpus[0].Kvm.n_nested_state = sizeof(nested);
	assert_int_equal(arch_needs_of(&state, cpus, 2, &n, &err), -EINVAL);
	assert_string_equal(err.msg, "vCPU 0\nnested_state of 8320 bytes says that it has 127");
}

/* Every bit that counts has a name of its own, and comes back by it. */
static void every_name(void **unused)
{
	struct arch_needs all = { .tsc_khz = 1, .xsave_bytes = XSAVE }, back;
	struct host_needs named = {};
	struct err err = {};

	(void)unused;
	for (unsigned i = 0; i < ARRAY_LEN(told); i++)
		told[i].eax = told[i].ebx = told[i].ecx = told[i].edx = UINT32_MAX;
	static const struct {
		uint32_t function, index;
	} more[] = { { 7, 2 }, { 0x1d, 0 }, { 0x1e, 0 } };
	for (unsigned i = 0; i < ARRAY_LEN(more); i++)
		told[state.n_common_cpuid++] = (struct cpuid_entry){ .function = more[i].function,
								     .index = more[i].index,
								     .flags = INDEXED,
								     .eax = UINT32_MAX,
								     .ebx = UINT32_MAX,
								     .ecx = UINT32_MAX,
								     .edx = UINT32_MAX };
	cpu_needs_of(&(struct cpuid_table){ told, state.n_common_cpuid }, all.cpu);
	for (unsigned i = 0; i < CPU_NEEDS; i++)
		assert_true(all.cpu[i] != 0);
	assert_int_equal(arch_needs_save(&all, &named, &err), 0);
	for (uint32_t i = 0; i < named.n_cpu; i++)
		for (uint32_t k = 0; k < i; k++)
			if (strcmp(named.cpu[i], named.cpu[k]) == 0)
				fail_msg("two are called %s", named.cpu[i]);
	assert_int_equal(arch_needs_load(&named, &back, &err), 0);
	assert_memory_equal(back.cpu, all.cpu, sizeof(all.cpu));
	/* a host that has none of it: the text ends somewhere, and says how many it leaves out */
	kvm.n_cpuid = 0;
	assert_non_null(strstr(lacks(&back, false), " more"));
	fields_free(host_needs_fields, &named);
}

static void through_json(void **unused)
{
	static const char expected[] =
		"{\"cpu\":[\"fpu\",\"vme\",\"pni\",\"dtes64\",\"nx\",\"lm\",\"lahf_lm\",\"fsgsbase\",\"avx512vbmi\",\"fsrm\","
		"\"avx_vnni\",\"kvm\",\"kvm_clocksource\",\"kvm_clocksource_stable\",\"kvm_leaves=1\",\"cpuid_7_subleaves=1\","
		"\"phys_bits=46\"],\"tsc_khz\":2596080,\"xsave_bytes\":4096,\"msrs\":[\"0x10\",\"0x2ff\",\"0xc0000080\"],"
		"\"kvm\":[\"user_memory\",\"set_tss_addr\",\"set_identity_map_addr\",\"split_irqchip\",\"signal_msi\",\"irqfd\","
		"\"ioeventfd\",\"immediate_exit\",\"adjust_clock\",\"mp_state\",\"vcpu_events\",\"xsave\",\"xcrs\"]}";
	struct arch_needs n = needs_of(), back;
	struct host_needs named = {}, loaded;
	autostrbuf struct strbuf json = {};
	autojson struct json parsed = {};
	struct err err = {};

	(void)unused;
	assert_int_equal(arch_needs_save(&n, &named, &err), 0);
	fields_save(host_needs_fields, &named, &json);
	assert_string_equal(json.text, expected);
	fields_init(host_needs_fields, &loaded);
	assert_int_equal(json_parse(&parsed, json.text, json.len, &err), 0);
	assert_int_equal(fields_load(host_needs_fields, &loaded, &parsed.nodes[0], "needs", &err), 0);
	assert_int_equal(arch_needs_load(&loaded, &back, &err), 0);
	assert_memory_equal(&back, &n, sizeof(n));
	fields_free(host_needs_fields, &named);
	fields_free(host_needs_fields, &loaded);
}

static void unknown_names(void **unused)
{
	char *cpu[] = { (char[]){ "telepathy" } }, *msr[] = { (char[]){ "x" } }, *cap[] = { (char[]){ "teleport" } };
	const struct {
		struct host_needs named;
		enum err_code code;
		const char *msg;
	} cases[] = {
		{ { .cpu = cpu, .n_cpu = 1 }, ERR_HOST, "this program does not know the CPU feature 'telepathy'" },
		{ { .msrs = msr, .n_msrs = 1 }, ERR_INVALID, "'x' is no MSR" },
		{ { .kvm = cap, .n_kvm = 1 }, ERR_HOST, "this program does not know the KVM capability 'teleport'" },
	};

	(void)unused;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct arch_needs n;
		struct err err = {};
		assert_true(arch_needs_load(&cases[i].named, &n, &err) < 0);
		assert_int_equal(err.code, cases[i].code);
		assert_string_equal(err.msg, cases[i].msg);
	}
	uint32_t need[CPU_NEEDS] = {};
	assert_false(cpu_needs_add(need, "phys_bits="));
	assert_false(cpu_needs_add(need, "phys_bits=46x"));
	assert_false(cpu_needs_add(need, "cpuid_7_0_ecx_bit_16")); /* that one has a name */
	assert_true(cpu_needs_add(need, "cpuid_7_0_ecx_bit_15"));
}

#define T(f) cmocka_unit_test_setup(f, make)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(same_host),      T(cpu_by_name), T(tsc_rate),   T(no_vm_for_the_rate), T(xsave_size),    T(msr),
		T(kvm_capability), T(wrong_state), T(every_name), T(through_json),       T(unknown_names),
	};

	return cmocka_run_group_tests_name("needs", tests, NULL, NULL);
}
