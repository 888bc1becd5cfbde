// SPDX-License-Identifier: Apache-2.0
/* Maps vCPU numbers to APIC ids, as Cloud Hypervisor does. */
#include "vmm/x86/topology.h"

static unsigned bits_for(unsigned n)
{
	return n > 1 ? 32 - (unsigned)__builtin_clz(n - 1) : 0;
}

uint32_t cpu_apic_id(const struct cpu_topology *topo, unsigned vcpu)
{
	const unsigned levels[] = { topo->threads_per_core, topo->cores_per_die, topo->dies_per_package };
	uint32_t id = 0;
	unsigned shift = 0, rest = vcpu;

	if (!topo->threads_per_core || !topo->cores_per_die || !topo->dies_per_package)
		return vcpu;
	for (unsigned i = 0; i < 3; i++) {
		id |= rest % levels[i] << shift;
		rest /= levels[i];
		shift += bits_for(levels[i]);
	}
	return id | rest << shift;
}
