/* SPDX-License-Identifier: Apache-2.0 */
/* The common part of the freestanding test guests, all of it at CPL 3: see lib.h and start.S. */
#include "lib.h"

#define LAPIC 0xfee00000ul
#define TRAMPOLINE 0x10000ul
#define HEAP_MIN (16 * MIB) /* below it: the image and what the loader left */

struct start_info { /* PVH */
	uint32_t magic, version, flags, n_modules;
	uint64_t modules, command_line, rsdp, memmap;
	uint32_t n_memmap, pad;
};

struct memmap_entry {
	uint64_t start, bytes;
	uint32_t type, pad;
};

extern uint32_t boot_info;
extern volatile uint32_t ap_number;
extern uint64_t pml4[512];
extern uint64_t idt[512];
extern volatile uint64_t fault_info[4];
extern const uint8_t vector_entries[256][64];
extern const uint8_t ap_trampoline[], ap_trampoline_end[];

void cpu_main(unsigned cpu) __attribute__((noreturn));
void fault_report(void) __attribute__((noreturn));

struct ram_range ram[16];
unsigned n_ram;
static char options[2048];
static uint64_t heap_next, heap_end;
static struct lock print_lock;
static volatile bool failed;
static uint64_t table_pool[64][512] __attribute__((aligned(4096)));
static unsigned table_pool_used;
static unsigned next_vector = 0x30;
static struct {
	void (*run)(unsigned cpu, void *arg);
	void *arg;
	volatile bool running;
} cpus[MAX_CPUS];

uint64_t mmio_read(uintptr_t addr, unsigned bytes)
{
	switch (bytes) {
	case 1:
		return read8(addr);
	case 2:
		return read16(addr);
	case 4:
		return read32(addr);
	default:
		return read64(addr);
	}
}

void mmio_write(uintptr_t addr, uint64_t value, unsigned bytes)
{
	switch (bytes) {
	case 1:
		write8(addr, (uint8_t)value);
		break;
	case 2:
		write16(addr, (uint16_t)value);
		break;
	case 4:
		write32(addr, (uint32_t)value);
		break;
	default:
		write64(addr, value);
	}
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *d = to;
	asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void *memset(void *to, int byte, size_t n)
{
	void *d = to;
	asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(byte) : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;
	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

void lock_take(struct lock *l)
{
	while (__atomic_exchange_n(&l->taken, 1, __ATOMIC_ACQUIRE))
		relax();
}

void lock_drop(struct lock *l)
{
	__atomic_store_n(&l->taken, 0, __ATOMIC_RELEASE);
}

static void put(char c)
{
	outb(COM1, (uint8_t)c);
}

static void put_number(uint64_t v, unsigned base, unsigned width, char fill)
{
	char digits[24];
	unsigned n = 0;
	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	for (; width > n; width--)
		put(fill);
	while (n)
		put(digits[--n]);
}

static void put_signed(int64_t v, unsigned width, char fill)
{
	if (v < 0)
		put('-');
	put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, width, fill);
}

static void put_string(const char *s)
{
	while (*s)
		put(*s++);
}

static void vprint(const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		char fill = *++fmt == '0' ? '0' : ' ';
		unsigned width = 0, longs = 0;
		for (; *fmt >= '0' && *fmt <= '9'; fmt++)
			width = width * 10 + (unsigned)(*fmt - '0');
		for (; *fmt == 'l' || *fmt == 'z'; fmt++)
			longs++;
		switch (*fmt) {
		case 's':
			put_string(va_arg(ap, const char *));
			break;
		case 'c':
			put((char)va_arg(ap, int));
			break;
		case 'd':
			put_signed(longs ? va_arg(ap, long) : va_arg(ap, int), width, fill);
			break;
		case 'u':
		case 'x':
			put_number(longs ? va_arg(ap, unsigned long) : va_arg(ap, unsigned), *fmt == 'x' ? 16 : 10,
				   width, fill);
			break;
		default:
			put(*fmt);
		}
	}
}

void print(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	lock_take(&print_lock);
	if (failed)
		cpu_stop();
	vprint(fmt, ap);
	lock_drop(&print_lock);
	va_end(ap);
}

void fail(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	lock_take(&print_lock);
	if (failed)
		cpu_stop();
	failed = true;
	put_string("FAIL ");
	vprint(fmt, ap);
	put('\n');
	va_end(ap);
	lock_drop(&print_lock);
	if (option_is("onfail", "end"))
		end();
	cpu_stop();
}

void fault_report(void)
{
	fail("exception: vector %lu, error %lx, rip %lx, address %lx", fault_info[0], fault_info[1], fault_info[2],
	     fault_info[3]);
}

void end(void)
{
	if (option_is("end", "reset"))
		outb(0x64, 0xfe);
	else if (option_is("end", "acpi-reset"))
		outb(0x600, 1);
	else if (!option_is("end", "halt"))
		outb(0x600, 0x34); /* SLEEP_EN | S5 << 2 */
	cpu_stop();
}

const char *command_line(void)
{
	return options;
}

const char *option(const char *name)
{
	size_t n = strlen(name);
	for (const char *p = options; *p;) {
		if (memcmp(p, name, n) == 0 && p[n] == '=')
			return p + n + 1;
		while (*p && *p != ' ')
			p++;
		while (*p == ' ')
			p++;
	}
	return NULL;
}

uint64_t option_number(const char *name, uint64_t otherwise)
{
	const char *p = option(name);
	if (!p)
		return otherwise;
	unsigned base = p[0] == '0' && p[1] == 'x' ? 16 : 10;
	uint64_t v = 0;
	for (p += base == 16 ? 2 : 0;; p++) {
		unsigned char lower = (unsigned char)(*p | 0x20);
		if (*p >= '0' && *p <= '9')
			v = v * base + (unsigned)(*p - '0');
		else if (base == 16 && lower >= 'a' && lower <= 'f')
			v = v * base + lower - 'a' + 10;
		else
			break;
	}
	switch (*p) {
	case 'K':
		return v << 10;
	case 'M':
		return v << 20;
	case 'G':
		return v << 30;
	default:
		return v;
	}
}

bool option_is(const char *name, const char *value)
{
	const char *p = option(name);
	size_t n = strlen(value);
	return p && memcmp(p, value, n) == 0 && (p[n] == 0 || p[n] == ' ');
}

void *ram_alloc(size_t bytes, size_t align)
{
	uint64_t start = (heap_next + align - 1) & ~(align - 1);
	if (start + bytes > heap_end)
		fail("out of memory: wanted %lu bytes, %lu left", bytes, heap_end - heap_next);
	heap_next = start + bytes;
	return memset((void *)start, 0, bytes);
}

size_t ram_left(void)
{
	return heap_end - heap_next;
}

static uint64_t *table_below(uint64_t *entry)
{
	if (!(*entry & 1)) {
		if (table_pool_used == ARRAY_LEN(table_pool))
			fail("out of page tables");
		*entry = (uint64_t)table_pool[table_pool_used++] | 7;
	}
	return (uint64_t *)(*entry & ~0xffful);
}

void map_range(uint64_t start, uint64_t bytes)
{
	if (start + bytes <= 4ul << 30)
		return;
	for (uint64_t a = start & ~(2 * MIB - 1); a < start + bytes; a += 2 * MIB) {
		uint64_t *pdpt = table_below(&pml4[a >> 39 & 511]);
		uint64_t *pd = table_below(&pdpt[a >> 30 & 511]);
		pd[a >> 21 & 511] = a | 0x87;
	}
	barrier();
}

uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

uint64_t random64(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15;
	return mix64(*state);
}

uint64_t cycles_to_ns(uint64_t cycles)
{
	int shift = pvclock[0].tsc_shift;
	cycles = shift < 0 ? cycles >> -shift : cycles << shift;
	return (uint64_t)((unsigned __int128)cycles * pvclock[0].tsc_to_system_mul >> 32);
}

uint64_t ns_to_cycles(uint64_t ns)
{
	uint64_t khz = 1000000000000ul / MAX(cycles_to_ns(1000000), 1ul); /* cycles in 1 ms */
	return ns / 1000 * khz / 1000;
}

void stopwatch_start(struct stopwatch *w)
{
	*w = (struct stopwatch){ .last = rdtsc() };
}

uint64_t stopwatch_ms(struct stopwatch *w)
{
	uint64_t now = rdtsc();
	int64_t delta = (int64_t)(now - w->last);
	if (delta > 0)
		w->active += MIN((uint64_t)delta, ns_to_cycles(10000000));
	w->last = now;
	return cycles_to_ns(w->active) / 1000000;
}

unsigned vector_alloc(void)
{
	if (next_vector == TIMER_VECTOR)
		fail("out of interrupt vectors");
	return next_vector++;
}

static void lapic_enable(void)
{
	write32(LAPIC + 0xf0, 0x1ff);
	write32(LAPIC + 0x80, 0);
}

enum { TIMER_ONCE, TIMER_PERIODIC, TIMER_DEADLINE };

static void timer_mode(unsigned cpu, unsigned mode)
{
	write32(LAPIC + 0x3e0, 0xa); /* divide by 128 */
	write32(LAPIC + 0x320, mode << 17 | (TIMER_VECTOR + cpu));
}

/* KVM's LAPIC clock is 1 GHz. */
static void timer_count(unsigned ms)
{
	write32(LAPIC + 0x380, (uint32_t)(ms * 1000000ul / 128));
}

void timer_start(unsigned cpu, unsigned period_ms)
{
	timer_mode(cpu, TIMER_PERIODIC);
	timer_count(period_ms);
}

void timer_once(unsigned cpu, unsigned ms)
{
	timer_mode(cpu, TIMER_ONCE);
	timer_count(ms);
}

void timer_deadline(unsigned cpu, uint64_t tsc)
{
	timer_mode(cpu, TIMER_DEADLINE);
	msr_write(0x6e0, tsc); /* IA32_TSC_DEADLINE */
}

static void delay_ms(unsigned ms)
{
	struct stopwatch w;
	stopwatch_start(&w);
	while (stopwatch_ms(&w) < ms)
		relax();
}

static void send_ipi(unsigned apic_id, uint32_t command)
{
	write32(LAPIC + 0x310, apic_id << 24);
	write32(LAPIC + 0x300, command);
}

bool cpu_start(unsigned cpu, void (*run)(unsigned cpu, void *arg), void *arg)
{
	if (cpu >= MAX_CPUS)
		return false;
	cpus[cpu].run = run;
	cpus[cpu].arg = arg;
	ap_number = cpu;
	memcpy((void *)TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
	barrier();
	send_ipi(cpu, 0x4500); /* INIT */
	delay_ms(1);
	send_ipi(cpu, 0x4600 | TRAMPOLINE >> 12); /* SIPI */
	struct stopwatch w;
	stopwatch_start(&w);
	while (!cpus[cpu].running)
		if (stopwatch_ms(&w) > 5000)
			return false;
	return true;
}

static void vectors_init(void)
{
	for (unsigned n = 0; n < 256; n++) {
		uint64_t entry = (uint64_t)vector_entries[n];
		idt[n * 2] = (entry & 0xffff) | 0x10ul << 16 | 0x8eul << 40 | (entry >> 16 & 0xffff) << 48;
		idt[n * 2 + 1] = entry >> 32;
	}
	barrier();
}

static void boot_info_read(void)
{
	const struct start_info *info = (const void *)(uintptr_t)boot_info;
	const char *line = (const char *)info->command_line;
	for (size_t i = 0; line && line[i] && i < sizeof(options) - 1; i++)
		options[i] = line[i];
	const struct memmap_entry *map = (const void *)info->memmap;
	for (unsigned i = 0; i < info->n_memmap && n_ram < ARRAY_LEN(ram); i++) {
		if (map[i].type != 1)
			continue;
		ram[n_ram++] = (struct ram_range){ map[i].start, map[i].bytes };
		uint64_t stop = map[i].start + map[i].bytes;
		if (map[i].start >= 4ul << 30 || stop <= HEAP_MIN)
			continue;
		heap_next = MAX(map[i].start, HEAP_MIN);
		heap_end = MIN(stop, 4ul << 30);
	}
}

void cpu_main(unsigned cpu)
{
	if (cpu > 0) {
		lapic_enable();
		cpus[cpu].running = true;
		cpus[cpu].run(cpu, cpus[cpu].arg);
		cpu_stop();
	}
	vectors_init();
	boot_info_read();
	lapic_enable();
	guest_main();
	end();
}
