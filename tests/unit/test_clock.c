// SPDX-License-Identifier: Apache-2.0
/*
 * The clocks of a guest over a pause and a restore, against a model of KVM with two vCPUs: this
 * program's own ioctl() and time of day.
 */
#include "vmm/x86/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "tests/unit/unit.h"
#include "vmm/machine/machine.h"

enum { VM_FD = 1000, CPU_FD, CPUS = 2, KHZ = 1000000, TSC = 0x10, DEADLINE = 0x6e0 }; /* a tick is a ns */
enum { LVT_TIMER = 0x320, INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0, BY_1 = 0xb };
#define SEC 1000000000ULL
#define WALL (1700000000ULL * SEC)

static struct {
	uint64_t wall_ns, clock_ns, host_tsc;
	struct {
		uint64_t offset, deadline, deadline_set_at; /* the last: the TSC then */
		uint32_t lvt, initial, current;
		unsigned lapic_sets, warnings;
	} cpu[CPUS];
	bool no_offset_attr; /* Linux before 5.16 */
	bool tsc_fixed;      /* a KVM in software */
	int fail_lapic;      /* of the next KVM_GET_LAPIC */
	unsigned clock_sets;
} kvm;

int clock_gettime(clockid_t id, struct timespec *t)
{
	*t = (struct timespec){ .tv_sec = (time_t)(kvm.wall_ns / SEC), .tv_nsec = (long)(kvm.wall_ns % SEC) };
	return id == CLOCK_REALTIME ? 0 : -1; /* the log asks for another one */
}

static uint64_t tsc(unsigned cpu)
{
	return kvm.host_tsc + kvm.cpu[cpu].offset;
}

static void move_tsc(unsigned cpu, uint64_t offset)
{
	if (!kvm.tsc_fixed)
		kvm.cpu[cpu].offset = offset;
}

static int get_msrs(unsigned cpu, struct kvm_msrs *m)
{
	for (unsigned i = 0; i < m->nmsrs; i++)
		m->entries[i].data = m->entries[i].index == TSC ? tsc(cpu) : kvm.cpu[cpu].deadline;
	return (int)m->nmsrs;
}

static int set_msrs(unsigned cpu, const struct kvm_msrs *m)
{
	for (unsigned i = 0; i < m->nmsrs; i++) {
		if (m->entries[i].index == TSC) {
			move_tsc(cpu, m->entries[i].data - kvm.host_tsc);
			continue;
		}
		kvm.cpu[cpu].deadline = m->entries[i].data;
		kvm.cpu[cpu].deadline_set_at = tsc(cpu);
	}
	return (int)m->nmsrs;
}

static void put(void *regs, unsigned at, uint32_t value)
{
	memcpy((char *)regs + at, &value, sizeof(value));
}

static int lapic(unsigned cpu, bool set, struct kvm_lapic_state *l)
{
	if (set) {
		memcpy(&kvm.cpu[cpu].current, l->regs + CURRENT, 4);
		kvm.cpu[cpu].lapic_sets++;
		return 0;
	}
	put(l->regs, LVT_TIMER, kvm.cpu[cpu].lvt);
	put(l->regs, INITIAL, kvm.cpu[cpu].initial);
	put(l->regs, CURRENT, kvm.cpu[cpu].current);
	put(l->regs, DIVIDE, BY_1);
	return kvm.fail_lapic;
}

static int cpu_ioctl(unsigned cpu, unsigned long request, void *arg)
{
	const struct kvm_device_attr *attr = arg;

	switch (request) {
	case KVM_GET_MSRS:
		return get_msrs(cpu, arg);
	case KVM_SET_MSRS:
		return set_msrs(cpu, arg);
	case KVM_GET_LAPIC:
	case KVM_SET_LAPIC:
		return lapic(cpu, request == KVM_SET_LAPIC, arg);
	case KVM_GET_DEVICE_ATTR:
		if (!kvm.no_offset_attr)
			*(uint64_t *)(uintptr_t)attr->addr = kvm.cpu[cpu].offset;
		return kvm.no_offset_attr ? -ENXIO : 0;
	case KVM_SET_DEVICE_ATTR:
		move_tsc(cpu, *(uint64_t *)(uintptr_t)attr->addr);
		return kvm.no_offset_attr ? -ENXIO : 0;
	case KVM_KVMCLOCK_CTRL:
		kvm.cpu[cpu].warnings++;
		return 0;
	default:
		return -ENOTTY;
	}
}

static int vm_ioctl(unsigned long request, struct kvm_clock_data *data)
{
	if (request == KVM_SET_CLOCK) {
		kvm.clock_ns = data->clock;
		kvm.clock_sets++;
		return 0;
	}
	assert_int_equal(request, KVM_GET_CLOCK);
	*data = (struct kvm_clock_data){ .clock = kvm.clock_ns };
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;

	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	int r = fd == VM_FD ? vm_ioctl(request, arg) : cpu_ioctl((unsigned)fd - CPU_FD, request, arg);
	if (r < 0)
		errno = -r;
	return r < 0 ? -1 : r;
}

/* The host goes on; KVM's LAPIC timers count, and stop at 0. */
static void pass(uint64_t ns)
{
	kvm.wall_ns += ns;
	kvm.clock_ns += ns;
	kvm.host_tsc += ns;
	for (unsigned i = 0; i < CPUS; i++)
		kvm.cpu[i].current = ns < kvm.cpu[i].current ? kvm.cpu[i].current - (uint32_t)ns : 0;
}

static struct vm_config config;
static struct vcpu cpus[CPUS];
static struct vm vm;

static int begin(void **state)
{
	struct err err = {};

	(void)state;
	memset(&kvm, 0, sizeof(kvm));
	kvm.wall_ns = WALL;
	kvm.clock_ns = 70 * SEC;
	kvm.host_tsc = 9000 * SEC;
	kvm.cpu[0].offset = 100 * SEC - kvm.host_tsc; /* TSCs of 100 s and, as the guest has set it, 101 s */
	kvm.cpu[1].offset = 101 * SEC - kvm.host_tsc;
	kvm.cpu[0].lvt = 2 << 17; /* a deadline 3 s ahead; the other one is periodic, 2 of 4 s are left */
	kvm.cpu[0].deadline = 103 * SEC;
	kvm.cpu[1] = (typeof(kvm.cpu[1])){ kvm.cpu[1].offset, .lvt = 1 << 17, .initial = 4 * SEC, .current = 2 * SEC };
	config.cpus.boot_vcpus = CPUS;
	vm = (struct vm){ .config = &config, .kvm.vm_fd = VM_FD, .arch.tsc_khz = KHZ };
	vm.vcpus.vcpu = cpus;
	vm.vcpus.n = CPUS;
	for (unsigned i = 0; i < CPUS; i++)
		cpus[i] = (struct vcpu){ .set = &vm.vcpus, .index = i, .fd = CPU_FD + (int)i };
	return clock_init(&vm, &err);
}

static int finish(void **state)
{
	(void)state;
	clock_done(&vm);
	return 0;
}

static void pause_for(uint64_t ns)
{
	struct err err = {};

	assert_int_equal(arch_clock_pause(&vm, &err), 0);
	pass(ns);
	assert_int_equal(arch_clock_resume(&vm, false, &err), 0);
}

/* All as at the pause. */
static void assert_rewound(void)
{
	assert_int_equal(kvm.clock_ns, 70 * SEC);
	assert_int_equal(tsc(0), 100 * SEC);
	assert_int_equal(tsc(1), 101 * SEC);
	assert_int_equal(kvm.cpu[0].deadline, 103 * SEC);
	assert_int_equal(kvm.cpu[0].deadline_set_at, 100 * SEC);
	assert_int_equal(kvm.cpu[0].lapic_sets, 0);
	assert_int_equal(kvm.cpu[1].current, 2 * SEC);
	assert_int_equal(kvm.cpu[1].lapic_sets, 1);
	assert_int_equal(kvm.cpu[1].warnings, 1);
}

static void pause_continues(void **state)
{
	(void)state;
	vm.clock = CLOCK_CONTINUE;
	pause_for(15 * SEC);
	assert_rewound();
	pass(5 * SEC);
	assert_int_equal(clock_guest_ns(&vm), 75 * SEC);
}

static void pause_advances(void **state)
{
	(void)state;
	pause_for(15 * SEC);
	assert_int_equal(kvm.clock_sets, 0);
	assert_int_equal(kvm.clock_ns, 85 * SEC);
	assert_int_equal(tsc(0), 115 * SEC);
	assert_int_equal(kvm.cpu[0].deadline_set_at, 0);
	assert_int_equal(kvm.cpu[1].lapic_sets, 0);
	assert_int_equal(kvm.cpu[1].warnings, 1);
}

/* A timer that the guest did not start stays off, and a deadline that it does not have is not set. */
static void no_timers(void **state)
{
	(void)state;
	kvm.cpu[0].deadline = 0;
	kvm.cpu[1].current = kvm.cpu[1].initial = 0;
	vm.clock = CLOCK_CONTINUE;
	pause_for(SEC);
	assert_int_equal(kvm.cpu[0].deadline_set_at, 0);
	assert_int_equal(kvm.cpu[1].lapic_sets, 0);
	assert_int_equal(tsc(1), 101 * SEC);
}

static void old_kernel(void **state)
{
	(void)state;
	kvm.no_offset_attr = true;
	vm.clock = CLOCK_CONTINUE;
	pause_for(15 * SEC);
	assert_rewound();
}

/* What was 3 s ahead is 3 s ahead. */
static void fixed_tsc(void **state)
{
	(void)state;
	kvm.tsc_fixed = true;
	vm.clock = CLOCK_CONTINUE;
	pause_for(15 * SEC);
	assert_int_equal(kvm.clock_ns, 70 * SEC);
	assert_int_equal(tsc(0), 115 * SEC);
	assert_int_equal(kvm.cpu[0].deadline, 118 * SEC);
}

/* After half a stamp the clocks go on as they are: those of an earlier pause would set them back too far. */
static void no_stamp_no_rewind(void **state)
{
	struct err err = {};

	(void)state;
	vm.clock = CLOCK_CONTINUE;
	pause_for(SEC);
	pass(50 * SEC);
	kvm.fail_lapic = -EIO;
	assert_int_equal(arch_clock_pause(&vm, &err), -EIO);
	assert_int_equal(arch_clock_resume(&vm, false, &err), 0);
	assert_int_equal(kvm.clock_ns, 120 * SEC);
	assert_int_equal(tsc(0), 150 * SEC);
}

/* ---- snapshots ---- */

static struct msr_entry msrs[CPUS][2];

/* A snapshot of the guest as it begins, with this stamp, is loaded now, as if by arch_vcpu_load(). */
static void load(uint64_t realtime_ns, struct vcpu_kvm_state s[CPUS])
{
	struct kvm_clock_data saved = { .clock = 70 * SEC, .realtime = realtime_ns };

	saved.flags = realtime_ns ? KVM_CLOCK_REALTIME : 0;
	clock_load(&vm, &saved);
	for (unsigned i = 0; i < CPUS; i++) {
		msrs[i][0] = (struct msr_entry){ TSC, (100 + i) * SEC };
		msrs[i][1] = (struct msr_entry){ DEADLINE, kvm.cpu[i].deadline };
		s[i] = (struct vcpu_kvm_state){ .msrs = msrs[i], .n_msrs = 2 };
		put(s[i].lapic_state.regs, LVT_TIMER, kvm.cpu[i].lvt);
		put(s[i].lapic_state.regs, INITIAL, kvm.cpu[i].initial);
		put(s[i].lapic_state.regs, CURRENT, kvm.cpu[i].current);
		put(s[i].lapic_state.regs, DIVIDE, BY_1);
		clock_load_vcpu(&cpus[i], &s[i]);
		kvm.cpu[i].offset = (100 + i) * SEC + vm.arch.elapsed_ns - kvm.host_tsc;
		memcpy(&kvm.cpu[i].current, s[i].lapic_state.regs + CURRENT, 4);
	}
}

static void restored_continues(void **state)
{
	struct vcpu_kvm_state s[CPUS];
	struct err err = {};

	(void)state;
	load(WALL - 3600 * SEC, s);
	pass(20 * SEC); /* parked */
	vm.clock = CLOCK_CONTINUE;
	assert_int_equal(arch_clock_resume(&vm, true, &err), 0);
	assert_int_equal(kvm.clock_ns, 70 * SEC);
	assert_int_equal(tsc(0), 100 * SEC);
	assert_int_equal(tsc(1), 100 * SEC); /* those of a restored guest agree */
	assert_int_equal(kvm.cpu[0].deadline, 103 * SEC);
	assert_int_equal(kvm.cpu[1].current, 2 * SEC);
}

static void restored_advances(void **state)
{
	struct vcpu_kvm_state s[CPUS];
	struct err err = {};

	(void)state;
	load(WALL - 3600 * SEC, s);
	assert_int_equal(kvm.cpu[1].current, 1); /* overdue */
	pass(20 * SEC);
	assert_int_equal(arch_clock_resume(&vm, true, &err), 0);
	assert_int_equal(kvm.clock_ns, 3690 * SEC);
	assert_int_equal(tsc(0), 3720 * SEC);
	assert_int_equal(tsc(1), 3720 * SEC);
	assert_int_equal(kvm.cpu[1].lapic_sets, 0);
	kvm.wall_ns = WALL - 3610 * SEC; /* somebody has set the host's clock */
	assert_int_equal(arch_clock_resume(&vm, true, &err), 0);
	assert_int_equal(kvm.clock_ns, 70 * SEC);
}

/* No stamp, and one from the future: both are of now, and time counts from here on. */
static void age_zero(void **state)
{
	static const uint64_t stamps[] = { 0, WALL + 10 * SEC, WALL };
	struct vcpu_kvm_state s[CPUS];
	struct err err = {};

	for (unsigned i = 0; i < ARRAY_LEN(stamps); i++) {
		finish(state);
		begin(state);
		load(stamps[i], s);
		assert_int_equal(vm.arch.elapsed_ns, 0);
		pass(20 * SEC);
		assert_int_equal(arch_clock_resume(&vm, true, &err), 0);
		assert_int_equal(kvm.clock_ns, 90 * SEC);
		assert_int_equal(tsc(0), 120 * SEC);
		assert_int_equal(vm.arch.clock.realtime, WALL);
		assert_int_equal(vm.arch.clock.flags, KVM_CLOCK_REALTIME);
	}
}

/* A snapshot that is taken long after the pause has the clocks of the pause. */
static void saved_as_paused(void **state)
{
	struct msr_entry read_later[2] = { { TSC, 115 * SEC }, { DEADLINE, 0 } };
	struct vcpu_kvm_state s = { .msrs = read_later, .n_msrs = 2 };
	struct err err = {};
	uint32_t left;

	(void)state;
	assert_int_equal(arch_clock_pause(&vm, &err), 0);
	assert_int_equal(vm.arch.clock.realtime, WALL);
	pass(15 * SEC);
	clock_save_vcpu(&cpus[0], &s);
	assert_int_equal(read_later[0].data, 100 * SEC);
	assert_int_equal(read_later[1].data, 103 * SEC);
	put(s.lapic_state.regs, INITIAL, kvm.cpu[1].initial);
	clock_save_vcpu(&cpus[1], &s);
	memcpy(&left, s.lapic_state.regs + CURRENT, 4);
	assert_int_equal(left, 2 * SEC);
}

static void timer_left(void **state)
{
	static const struct {
		uint32_t lvt, initial, current, divide;
		uint64_t ns;
		uint32_t left;
	} cases[] = {
		{ 0, 1000, 600, BY_1, 0, 600 },
		{ 0, 1000, 600, BY_1, 599, 1 },
		{ 0, 1000, 600, BY_1, 600, 1 }, /* overdue */
		{ 1 << 17, 1000, 600, BY_1, 5000, 1 },
		{ 0, 1000, 0, BY_1, 5000, 0 },          /* has fired */
		{ 2 << 17, 1000, 600, BY_1, 100, 600 }, /* does not count */
		{ 0, 0, 600, BY_1, 100, 600 },          /* was not started */
		{ 0, 1000, 600, 0, 100, 550 },          /* divided by 2 */
		{ 0, 1000, 600, 3, 1600, 500 },         /* by 16 */
		{ 0, 1000, 600, 8, 3200, 500 },         /* by 32 */
		{ 0, 1000, 600, 0xa, 12800, 500 },      /* by 128 */
		{ 0, UINT32_MAX, UINT32_MAX, 0xa, 94608000 * SEC, 1 },
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		char regs[KVM_APIC_REG_SIZE] = {};
		put(regs, LVT_TIMER, cases[i].lvt);
		put(regs, INITIAL, cases[i].initial);
		put(regs, CURRENT, cases[i].current);
		put(regs, DIVIDE, cases[i].divide);
		assert_int_equal(clock_timer_left(regs, cases[i].ns), cases[i].left);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
	const struct CMUnitTest tests[] = {
		T(pause_continues), T(pause_advances),     T(no_timers),          T(old_kernel),
		T(fixed_tsc),       T(no_stamp_no_rewind), T(restored_continues), T(restored_advances),
		T(age_zero),        T(saved_as_paused),    T(timer_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
