/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test guest that shows its clocks: a line every 20 ms of its own time, and one when its timer fires.
 * timer=deadline|oneshot|periodic after=MS: which timer it starts; one that has fired is started
 * again, except a periodic one. With several CPUs all watch that no CPU's TSC is behind what another
 * one has read.
 */
#include "lib.h"

#define PM_TIMER 0x608
enum { LINE_NS = 20000000 };

static struct lock tsc_lock;
static uint64_t last_tsc;

static uint64_t kvmclock(void)
{
	for (;;) {
		uint32_t version = pvclock[0].version;
		uint64_t ns = pvclock[0].system_time + cycles_to_ns(rdtsc() - pvclock[0].tsc_timestamp);
		if (!(version & 1) && version == pvclock[0].version)
			return ns;
	}
}

static void check_tsc(unsigned cpu)
{
	lock_take(&tsc_lock);
	uint64_t now = rdtsc();
	if (now < last_tsc)
		fail("the TSC of CPU %u is %lu behind", cpu, last_tsc - now);
	last_tsc = now;
	lock_drop(&tsc_lock);
}

static void watch_tsc(unsigned cpu, void *arg)
{
	(void)arg;
	for (;;)
		check_tsc(cpu);
}

static unsigned cmos(unsigned index)
{
	outb(0x70, (uint8_t)index);
	return inb(0x71);
}

static void show(void)
{
	print("now kvm %lu tsc %lu pm %u rtc %02x%02x-%02x-%02x %02x:%02x:%02x\n", kvmclock(), cycles_to_ns(rdtsc()),
	      inl(PM_TIMER), cmos(0x32), cmos(9), cmos(8), cmos(7), cmos(4), cmos(2), cmos(0));
}

/* Starts the timer; returns when that was. */
static uint64_t arm(uint64_t after_ns)
{
	uint64_t now = kvmclock();
	if (option_is("timer", "periodic"))
		timer_start(0, (unsigned)(after_ns / 1000000));
	else if (option_is("timer", "oneshot"))
		timer_once(0, (unsigned)(after_ns / 1000000));
	else if (option_is("timer", "deadline"))
		timer_deadline(0, rdtsc() + ns_to_cycles(after_ns));
	print("armed\n");
	return now;
}

void guest_main(void)
{
	uint64_t after_ns = option_number("after", 1000) * 1000000, last = kvmclock(), shown = 0, fired = 0;

	for (unsigned cpu = 1; cpu < option_number("cpus", 1); cpu++)
		if (!cpu_start(cpu, watch_tsc, NULL))
			fail("CPU %u does not start", cpu);
	uint64_t armed = arm(after_ns);
	for (;;) {
		uint64_t irqs = irq_count[TIMER_VECTOR], now = kvmclock();
		if (now < last)
			fail("kvmclock went back by %lu ns", last - now);
		if (now - last > 10000000000ul)
			print("jump of %lu ns\n", now - last);
		last = now;
		check_tsc(0);
		if (irqs != fired) {
			fired = irqs;
			print("fired after %lu ns\n", now - armed);
			armed = option_is("timer", "periodic") ? now : arm(after_ns);
		}
		if (now - shown < LINE_NS)
			continue;
		shown = now;
		show();
	}
}
