/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every freestanding test guest needs: ports, MMIO, printing, options, memory, interrupts,
 * time and CPUs.
 */
#ifndef TESTS_GUESTS_LIB_H
#define TESTS_GUESTS_LIB_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MAX_CPUS 4
#define PAGE 4096ul
#define MIB (1ul << 20)
#define COM1 0x3f8

/*
 * Written by the guest itself: called on the first CPU when all below is ready. Returning ends the
 * VM (end=).
 */
void guest_main(void);

static inline void outb(uint16_t port, uint8_t v)
{
	asm volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outw(uint16_t port, uint16_t v)
{
	asm volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outl(uint16_t port, uint32_t v)
{
	asm volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;
	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t v;
	asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;
	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

/* MMIO by plain moves: emulators decode nothing fancier. */
#define MMIO(bits, suffix, reg)                                                          \
	static inline uint##bits##_t read##bits(uintptr_t a)                             \
	{                                                                                \
		uint##bits##_t v;                                                        \
		asm volatile("mov" suffix " (%1), %0" : "=" reg(v) : "r"(a) : "memory"); \
		return v;                                                                \
	}                                                                                \
	static inline void write##bits(uintptr_t a, uint##bits##_t v)                    \
	{                                                                                \
		asm volatile("mov" suffix " %0, (%1)" : : reg(v), "r"(a) : "memory");    \
	}
MMIO(8, "b", "q")
MMIO(16, "w", "r")
MMIO(32, "l", "r")
MMIO(64, "q", "r")

/* Any width, 1, 2, 4 or 8 bytes. */
uint64_t mmio_read(uintptr_t addr, unsigned bytes);
void mmio_write(uintptr_t addr, uint64_t value, unsigned bytes);

static inline void barrier(void)
{
	asm volatile("mfence" : : : "memory");
}
static inline void relax(void)
{
	asm volatile("pause" : : : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;
	asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory"); /* not ahead of earlier loads */
	return (uint64_t)hi << 32 | lo;
}

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);

/* %s %c %d %u %x with l, and zero padding with a width. Whole calls do not mix between CPUs. */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints "FAIL …" and stops this CPU; the others stop at their next print. */
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Ends the VM as the option end= says: poweroff (default), reset or halt. */
void end(void) __attribute__((noreturn));

/*
 * Options are words "name=value" of the kernel command line; numbers may be hex (0x) and end in K,
 * M or G.
 */
const char *option(const char *name); /* NULL: absent; else the value, ended by a space or 0 */
uint64_t option_number(const char *name, uint64_t otherwise);
bool option_is(const char *name, const char *value);
const char *command_line(void);

/* The RAM of the machine as PVH start_info lists it. */
struct ram_range {
	uint64_t start, bytes;
};
extern struct ram_range ram[16];
extern unsigned n_ram;

/*
 * Zeroed memory below 4 GiB, never given back; fails the guest when there is none. align: a power
 * of two.
 */
void *ram_alloc(size_t bytes, size_t align);
/* What is left of that memory. */
size_t ram_left(void);
/* Makes a physical range usable by CPL 3 at the same virtual address. The first 4 GiB are already.
 */
void map_range(uint64_t start, uint64_t bytes);

/* splitmix64: one step of a generator, and a hash of a value. */
uint64_t mix64(uint64_t x);
uint64_t random64(uint64_t *state);

extern volatile uint64_t irq_count[256]; /* interrupts taken, by vector */
/* Sleeps until an interrupt, unless *counter already differs from seen. May return early. */
void cpu_wait(const volatile uint64_t *counter, uint64_t seen);
void cpu_stop(void) __attribute__((noreturn));

/* The kvmclock page of each CPU, as KVM writes it. */
struct pvclock {
	uint32_t version, pad0;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags, pad[2], fill[32];
};
extern volatile struct pvclock pvclock[MAX_CPUS];
uint64_t cycles_to_ns(uint64_t cycles);
uint64_t ns_to_cycles(uint64_t ns);

/* Counts time in which this guest runs: a pause, even one of days, counts as at most 10 ms. */
struct stopwatch {
	uint64_t last, active;
};
void stopwatch_start(struct stopwatch *w);
uint64_t stopwatch_ms(struct stopwatch *w);

/* The LAPIC timer of this CPU on TIMER_VECTOR + cpu: periodic, once, or when the TSC is there. Up to 500 s. */
#define TIMER_VECTOR 0xe0
void timer_start(unsigned cpu, unsigned period_ms);
void timer_once(unsigned cpu, unsigned ms);
void timer_deadline(unsigned cpu, uint64_t tsc);
void msr_write(uint32_t index, uint64_t value);
/* A vector that no one has, from 0x30 on. */
unsigned vector_alloc(void);

/*
 * Starts the next CPU, which calls run(cpu, arg); false: it did not answer within 5 s. When run
 * returns, the CPU stops.
 */
bool cpu_start(unsigned cpu, void (*run)(unsigned cpu, void *arg), void *arg);

struct lock {
	volatile uint32_t taken;
};
void lock_take(struct lock *l);
void lock_drop(struct lock *l);

#endif
