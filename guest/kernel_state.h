// SPDX-License-Identifier: Apache-2.0
/* What a clone's kernel must not share with its siblings' or remember of its template: random pool and wall clock. */
#ifndef GUEST_KERNEL_STATE_H
#define GUEST_KERNEL_STATE_H

#include <stdint.h>

#include "common/err.h"

/* Closer than this the wall clock counts as right. */
#define CLOCK_TOLERANCE_NS 10000000

/*
 * Mixes the bytes into the kernel's pool, credited as random, and has the kernel draw its own key
 * from the pool anew: random(4), RNDADDENTROPY and RNDRESEEDCRNG. All that is read from the kernel
 * after the return depends on the bytes.
 */
MUST_CHECK int kernel_reseed(const void *bytes, uint32_t len, struct err *err);
/* Sets CLOCK_REALTIME, when it differs by more than the tolerance. */
MUST_CHECK int wall_clock_set(uint64_t wall_ns, struct err *err);

#endif
