// SPDX-License-Identifier: Apache-2.0
/*
 * What the passing of time does to a guest's processes: four that are always busy, and two that
 * sleep, for 1 s and for 5 s, again and again. Four times a second a line says how far all are:
 *   UPTIME_MS TIME_OF_DAY_S BUSY BUSY BUSY BUSY SLEPT_1S SLEPT_5S
 * BUSY counts rounds of a loop, SLEPT sleeps that have ended. No process has another priority than
 * the others: with one that has, the scheduler moves the busy ones from CPU to CPU, which hides what
 * a jump of the clock does to them.
 */
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BUSY = 4, SLEEPERS = 2, LINE_MS = 250 };
static const unsigned sleeps_s[SLEEPERS] = { 1, 5 };

static volatile uint64_t *count; /* shared: BUSY, then SLEEPERS */

static void work(unsigned i)
{
	for (;;)
		count[i]++;
}

static void rest(unsigned i)
{
	for (;; count[BUSY + i]++)
		sleep(sleeps_s[i]);
}

static void start(void (*run)(unsigned), unsigned i)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid == 0) {
		run(i);
		_exit(0);
	}
}

int main(void)
{
	const struct timespec pause = { .tv_nsec = LINE_MS * 1000000L };
	struct timespec up, wall;

	count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (count == MAP_FAILED)
		err(1, "mmap");
	for (unsigned i = 0; i < BUSY; i++)
		start(work, i);
	for (unsigned i = 0; i < SLEEPERS; i++)
		start(rest, i);
	for (;; nanosleep(&pause, NULL)) {
		clock_gettime(CLOCK_MONOTONIC, &up);
		clock_gettime(CLOCK_REALTIME, &wall);
		printf("%lld %lld", (long long)up.tv_sec * 1000 + up.tv_nsec / 1000000, (long long)wall.tv_sec);
		for (unsigned i = 0; i < BUSY + SLEEPERS; i++)
			printf(" %llu", (unsigned long long)count[i]);
		printf("\n");
		fflush(stdout);
	}
}
