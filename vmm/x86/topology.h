// SPDX-License-Identifier: Apache-2.0
/* CPU topology: which APIC id a vCPU has. MADT, MP table, CPUID and KVM must all agree on it. */
#ifndef VMM_X86_TOPOLOGY_H
#define VMM_X86_TOPOLOGY_H

#include <stdint.h>

/* As in VmConfig's cpus.topology. All zero: no topology was given, and APIC ids count up. */
struct cpu_topology {
	unsigned threads_per_core, cores_per_die, dies_per_package;
};

/* Each level takes as many bits of the id as its largest member needs. */
uint32_t cpu_apic_id(const struct cpu_topology *topo, unsigned vcpu);

#endif
