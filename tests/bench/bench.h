// SPDX-License-Identifier: Apache-2.0
/* What the benchmarks of the agent share: a program that stops when something fails, and its clock. */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline void need(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static inline double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void write_all(int fd, const char *data, size_t len)
{
	for (ssize_t n; len > 0; data += n, len -= (size_t)n)
		need((n = write(fd, data, len)) > 0, "write");
}

/* For qsort(). */
static inline int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

#endif
