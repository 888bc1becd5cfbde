// SPDX-License-Identifier: Apache-2.0
/*
 * What a host must have to run the clones of a snapshot, by names that people know: in a template's
 * manifest, in the API, and between the daemon and its template hosts. Only forkd-vmm knows what the
 * names mean on a host (vmm/x86/needs.c).
 */
#ifndef COMMON_HOST_NEEDS_H
#define COMMON_HOST_NEEDS_H

#include "common/field.h"

struct host_needs {
	char **cpu; /* features as in /proc/cpuinfo, "la57"; and what is a number, "phys_bits=46" */
	uint32_t n_cpu;
	uint32_t tsc_khz;     /* the guest's; 0: any will do */
	uint32_t xsave_bytes; /* the FPU state's */
	char **msrs;          /* model-specific registers whose value is not 0: "0x174" */
	uint32_t n_msrs;
	char **kvm; /* KVM_CAP_…, in small letters: "split_irqchip" */
	uint32_t n_kvm;
};
extern const struct field host_needs_fields[];

/* Appends a copy of the name to such a list; false: no memory. */
MUST_CHECK bool names_add(char ***list, uint32_t *n, const char *name);

#endif
