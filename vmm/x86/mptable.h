// SPDX-License-Identifier: Apache-2.0
/*
 * Intel MP table of the x86 guest, byte for byte Cloud Hypervisor's. Nothing but memory is touched.
 */
#ifndef VMM_X86_MPTABLE_H
#define VMM_X86_MPTABLE_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/x86/topology.h"

/* The MP table follows the SMBIOS tables, on the next multiple of this. */
enum { MPTABLE_ALIGN = 16 };

/*
 * Writes what belongs at `gpa`, for one vCPU or more, and returns its length; when that is above
 * `size`, the table does not fit. 0: there is no MP table, since a vCPU has an APIC id above 253.
 */
size_t mptable_build(unsigned boot_vcpus, const struct cpu_topology *topo, uint64_t gpa, uint8_t *buf, size_t size);

#endif
