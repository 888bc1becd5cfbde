/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test guest that never sleeps: it dirties `warm` MiB, then every `tick` cycles it writes one more
 * page and a byte "." on COM1.
 *
 * Options: warm=32  tick=2000000000
 */
#include "lib.h"

void guest_main(void)
{
	uint64_t tick = option_number("tick", 2000000000);
	uint64_t n_pages = option_number("warm", 32) * MIB / PAGE;
	uint64_t *pages = ram_alloc(MAX(n_pages, 1ul) * PAGE, PAGE);
	for (uint64_t i = 0; i < n_pages; i++)
		pages[i * PAGE / 8] = i + 1;
	for (uint64_t count = 0;; count++) {
		uint64_t start = rdtsc();
		while (rdtsc() - start < tick)
			;
		pages[(n_pages ? count % n_pages : 0) * PAGE / 8] = count;
		outb(COM1, '.');
	}
}
