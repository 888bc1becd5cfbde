// SPDX-License-Identifier: Apache-2.0
/*
 * What a guest was told about its CPU, as what a host must have: a word for each register of CPUID
 * that counts, and a name for each bit of the word, as in Linux's /proc/cpuinfo.
 */
#ifndef VMM_X86_CPU_NEEDS_H
#define VMM_X86_CPU_NEEDS_H

#include "vmm/x86/arch_types.h"

enum { CPU_NEED_NAME = 32 };

void cpu_needs_of(const struct cpuid_table *t, uint32_t ret_need[CPU_NEEDS]);
/*
 * Calls `each` with every name of `need` that `host` has not, in the table's order. host NULL: with
 * every name of `need`.
 */
void cpu_needs_names(const uint32_t need[CPU_NEEDS], const uint32_t *host, void (*each)(void *arg, const char *name),
		     void *arg);
/* Adds what the name means; false: there is none like that. */
bool cpu_needs_add(uint32_t need[CPU_NEEDS], const char *name);

#endif
