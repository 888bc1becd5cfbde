// SPDX-License-Identifier: Apache-2.0
/*
 * The table of CPUID registers that count at a restore, and the names of their bits. Cloud Hypervisor
 * compares the same registers.
 */
#include "vmm/x86/cpu_needs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/auto.h"
#include "vmm/x86/cpuid.h"

#define LEAF_HYPERVISOR 0x40000000U
/* Bits of 0x80000001 edx that AMD has in leaf 1, too. */
#define AMD_COPIES 0x0183f3ffU

/*
 * A register. Its bits have names, and the host must have each bit that the guest was told of; or the
 * register is a number, which must not be lower on the host.
 */
static const struct need {
	uint32_t function, index;
	enum cpuid_reg reg;
	uint32_t mask; /* what of the register counts */
	const char *number;
	const char *bits[32];
} needs[CPU_NEEDS] = {
	{ 1, 0, CPUID_EDX, UINT32_MAX, NULL, { "fpu",  "vme",   "de",   "pse",     "tsc",  "msr", "pae",  "mce",
					       "cx8",  "apic",  NULL,   "sep",     "mtrr", "pge", "mca",  "cmov",
					       "pat",  "pse36", "pn",   "clflush", NULL,   "dts", "acpi", "mmx",
					       "fxsr", "sse",   "sse2", "ss",      "ht",   "tm",  "ia64", "pbe" } },
	{ 1, 0, CPUID_ECX, UINT32_MAX, NULL, { "pni",    "pclmulqdq", "dtes64",  "monitor", "ds_cpl",
					       "vmx",    "smx",       "est",     "tm2",     "ssse3",
					       "cid",    "sdbg",      "fma",     "cx16",    "xtpr",
					       "pdcm",   NULL,        "pcid",    "dca",     "sse4_1",
					       "sse4_2", "x2apic",    "movbe",   "popcnt",  "tsc_deadline_timer",
					       "aes",    "xsave",     "osxsave", "avx",     "f16c",
					       "rdrand", "hypervisor" } },
	{ 0x80000001,
	  0,
	  CPUID_EDX,
	  ~AMD_COPIES,
	  NULL,
	  { [11] = "syscall",
	    [19] = "mp",
	    [20] = "nx",
	    [22] = "mmxext",
	    [25] = "fxsr_opt",
	    [26] = "pdpe1gb",
	    [27] = "rdtscp",
	    [29] = "lm",
	    [30] = "3dnowext",
	    [31] = "3dnow" } },
	{ 0x80000001,
	  0,
	  CPUID_ECX,
	  UINT32_MAX,
	  NULL,
	  { "lahf_lm",       "cmp_legacy", "svm",   "extapic",    "cr8_legacy",  "abm",   "sse4a",   "misalignsse",
	    "3dnowprefetch", "osvw",       "ibs",   "xop",        "skinit",      "wdt",   NULL,      "lwp",
	    "fma4",          "tce",        NULL,    "nodeid_msr", NULL,          "tbm",   "topoext", "perfctr_core",
	    "perfctr_nb",    NULL,         "bpext", "ptsc",       "perfctr_llc", "mwaitx" } },
	{ 7,
	  0,
	  CPUID_EBX,
	  UINT32_MAX,
	  NULL,
	  { "fsgsbase",   "tsc_adjust", "sgx",        "bmi1",     "hle",      "avx2",     "fdp_excptn_only",
	    "smep",       "bmi2",       "erms",       "invpcid",  "rtm",      "cqm",      "zero_fcs_fds",
	    "mpx",        "rdt_a",      "avx512f",    "avx512dq", "rdseed",   "adx",      "smap",
	    "avx512ifma", "pcommit",    "clflushopt", "clwb",     "intel_pt", "avx512pf", "avx512er",
	    "avx512cd",   "sha_ni",     "avx512bw",   "avx512vl" } },
	{ 7,
	  0,
	  CPUID_ECX,
	  UINT32_MAX,
	  NULL,
	  { "prefetchwt1", "avx512vbmi",   "umip",          "pku",       "ospke",
	    "waitpkg",     "avx512_vbmi2", "shstk",         "gfni",      "vaes",
	    "vpclmulqdq",  "avx512_vnni",  "avx512_bitalg", "tme",       "avx512_vpopcntdq",
	    NULL,          "la57",         [22] = "rdpid",  "kl",        "bus_lock_detect",
	    "cldemote",    NULL,           "movdiri",       "movdir64b", "enqcmd",
	    "sgx_lc",      "pks" } },
	{ 7,
	  0,
	  CPUID_EDX,
	  UINT32_MAX,
	  NULL,
	  { NULL,
	    "sgx_keys",
	    "avx512_4vnniw",
	    "avx512_4fmaps",
	    "fsrm",
	    "uintr",
	    NULL,
	    NULL,
	    "avx512_vp2intersect",
	    "srbds_ctrl",
	    "md_clear",
	    "rtm_always_abort",
	    NULL,
	    "tsx_force_abort",
	    "serialize",
	    "hybrid_cpu",
	    "tsxldtrk",
	    NULL,
	    "pconfig",
	    "arch_lbr",
	    "ibt",
	    NULL,
	    "amx_bf16",
	    "avx512_fp16",
	    "amx_tile",
	    "amx_int8",
	    "spec_ctrl",
	    "intel_stibp",
	    "flush_l1d",
	    "arch_capabilities",
	    "core_capabilities",
	    "spec_ctrl_ssbd" } },
	{ 7, 1, CPUID_EAX, UINT32_MAX, NULL, { "sha512",      "sm3",    "sm4",       "rao_int",          "avx_vnni",
					       "avx512_bf16", "lass",   "cmpccxadd", "arch_perfmon_ext", NULL,
					       "fzrm",        "fsrs",   "fsrc",      [17] = "fred",      "lkgs",
					       "wrmsrns",     NULL,     "amx_fp16",  "hreset",           "avx_ifma",
					       [26] = "lam",  "msrlist" } },
	{ 7, 1, CPUID_ECX, UINT32_MAX, NULL, {} },
	{ 7,
	  1,
	  CPUID_EDX,
	  UINT32_MAX,
	  NULL,
	  { [4] = "avx_vnni_int8",
	    "avx_ne_convert",
	    [8] = "amx_complex",
	    [10] = "avx_vnni_int16",
	    [14] = "prefetchiti",
	    "user_msr",
	    [21] = "apx" } },
	{ 7,
	  2,
	  CPUID_EDX,
	  UINT32_MAX,
	  NULL,
	  { "intel_psfd", "ipred_ctrl", "rrsba_ctrl", "ddpd_u", "bhi_ctrl", "mcdt_no", "uclock_disable" } },
	/* which hypervisor the leaves are of: see value() */
	{ LEAF_HYPERVISOR, 0, CPUID_EBX, 3, NULL, { "kvm", "hypervisor_other_than_kvm" } },
	{ 0x40000001,
	  0,
	  CPUID_EAX,
	  UINT32_MAX,
	  NULL,
	  { "kvm_clocksource", "kvm_nop_io_delay", "kvm_mmu_op", "kvm_clocksource2", "kvm_async_pf", "kvm_steal_time",
	    "kvm_pv_eoi", "kvm_pv_unhalt", NULL, "kvm_pv_tlb_flush", "kvm_async_pf_vmexit", "kvm_pv_send_ipi",
	    "kvm_poll_control", "kvm_pv_sched_yield", "kvm_async_pf_int", "kvm_msi_ext_dest_id", "kvm_hc_map_gpa_range",
	    "kvm_migration_control", [24] = "kvm_clocksource_stable" } },
	{ LEAF_HYPERVISOR, 0, CPUID_EAX, 0xffff, "kvm_leaves", {} },
	{ 7, 0, CPUID_EAX, UINT32_MAX, "cpuid_7_subleaves", {} },
	{ 0x1d, 0, CPUID_EAX, UINT32_MAX, "amx_palettes", {} },
	{ 0x1e, 0, CPUID_EBX, 0xff, "amx_tmul_rows", {} },
	{ 0x1e, 0, CPUID_EBX, 0xffff00, "amx_tmul_columns", {} },
	{ 0x80000008, 0, CPUID_EAX, 0xff, "phys_bits", {} },
};

static uint32_t value(const struct cpuid_table *t, const struct need *n)
{
	const struct cpuid_entry *e = cpuid_find(t, n->function, n->index);

	if (!e)
		return 0;
	if (n->function == LEAF_HYPERVISOR && n->reg == CPUID_EBX) {
		bool kvm = e->ebx == 0x4b4d564b && e->ecx == 0x564b4d56 && e->edx == 0x4d; /* "KVMKVMKVM" */
		return kvm ? 1 : 2;
	}
	return cpuid_register(e, n->reg) & n->mask;
}

void cpu_needs_of(const struct cpuid_table *t, uint32_t ret_need[CPU_NEEDS])
{
	for (size_t i = 0; i < CPU_NEEDS; i++)
		ret_need[i] = value(t, &needs[i]);
}

/* A bit that nobody has named yet goes by its place. */
static void name_bit(const struct need *n, unsigned bit, char name[CPU_NEED_NAME])
{
	static const char *const regs[] = { "eax", "ebx", "ecx", "edx" };

	if (n->bits[bit])
		snprintf(name, CPU_NEED_NAME, "%s", n->bits[bit]);
	else
		snprintf(name, CPU_NEED_NAME, "cpuid_%x_%u_%s_bit_%u", n->function, n->index, regs[n->reg], bit);
}

void cpu_needs_names(const uint32_t need[CPU_NEEDS], const uint32_t *host, void (*each)(void *arg, const char *name),
		     void *arg)
{
	char name[CPU_NEED_NAME];

	for (size_t i = 0; i < CPU_NEEDS; i++) {
		const struct need *n = &needs[i];
		uint32_t has = host ? host[i] : 0;
		for (unsigned bit = 0; bit < 32 && !n->number; bit++) {
			if (!((need[i] & ~has) >> bit & 1))
				continue;
			name_bit(n, bit, name);
			each(arg, name);
		}
		if (n->number && need[i] > has) {
			snprintf(name, sizeof(name), "%s=%u", n->number, need[i]);
			each(arg, name);
		}
	}
}

/* true: the name is of this row, and what it means is added. */
static bool add_to_row(const struct need *n, uint32_t *word, const char *name)
{
	char own[CPU_NEED_NAME];

	if (n->number) {
		size_t len = strlen(n->number);
		char *end = NULL;
		if (strncmp(name, n->number, len) != 0 || name[len] != '=')
			return false;
		*word = (uint32_t)strtoul(name + len + 1, &end, 10);
		return end != name + len + 1 && !*end;
	}
	for (unsigned bit = 0; bit < 32; bit++) {
		if (!n->bits[bit] && strncmp(name, "cpuid_", 6) != 0)
			continue;
		name_bit(n, bit, own);
		if (strcmp(own, name) != 0)
			continue;
		*word |= 1U << bit;
		return true;
	}
	return false;
}

bool cpu_needs_add(uint32_t need[CPU_NEEDS], const char *name)
{
	for (size_t i = 0; i < CPU_NEEDS; i++)
		if (add_to_row(&needs[i], &need[i], name))
			return true;
	return false;
}
