// SPDX-License-Identifier: Apache-2.0
/* The monotonic clock in nanoseconds, and the time of day as text. */
#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

static inline uint64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/*
 * The time of day as "2026-11-22T10:00:00Z" (RFC 3339, UTC); with_ms: "…00.123Z". On the heap;
 * NULL: no memory.
 */
char *time_text(bool with_ms);

#endif
