/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test guest that notices that it was resumed, since KVM rewrites the kvmclock page at the first
 * entry of a new VM: it dirties `warm` MiB, writes byte 2 to COM1 when it is ready to be snapshotted, and
 * polls that page; at the change it writes byte 1 and halts, so it burns no CPU.
 *
 * Options: warm=32
 */
#include "lib.h"

void guest_main(void)
{
	uint64_t n_pages = option_number("warm", 32) * MIB / PAGE;
	uint64_t *pages = ram_alloc(MAX(n_pages, 1ul) * PAGE, PAGE);
	for (uint64_t i = 0; i < n_pages; i++)
		pages[i * PAGE / 8] = i + 1;
	for (unsigned i = 0; i < 3000000; i++) /* let the first clock updates pass */
		relax();
	uint64_t before = pvclock[0].tsc_timestamp;
	outb(COM1, 2);
	while (pvclock[0].tsc_timestamp == before)
		;
	outb(COM1, 1);
	cpu_stop();
}
