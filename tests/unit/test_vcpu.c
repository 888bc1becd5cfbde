// SPDX-License-Identifier: Apache-2.0
/* vmm/vcpu: threads that start parked, run and park, and the host CPUs they are bound to. KVM is fake_kvm(). */
#include "vmm/core/vcpu.h"

#include "tests/unit/fake_kvm.h"

#include <sched.h>
#include <sys/mman.h>

#include "vmm/machine/machine.h"

enum { VCPUS = 2, RUN_BYTES = 8192 };

static struct vm_config config;
static struct vm vm;
static const struct vcpu_env env = { .kvm = &vm.kvm, .pio = &vm.pio, .mmio = &vm.mmio };
static _Atomic unsigned n_runs, n_ahead, n_prepared; /* n_ahead: runs of what is parked */
static _Atomic bool ahead_without_exit;
static const struct kvm_run *area; /* the test's own view: that of a vCPU may be gone while another one still runs */

/* Every vCPU is the same file, its area shared. */
static int fake_kvm(unsigned long request, void *arg)
{
	(void)arg;
	if (request == KVM_CREATE_VCPU)
		return FAKE_FD;
	if (vm.vcpus.goal != VCPUS_RUN) {
		n_ahead++;
		ahead_without_exit = ahead_without_exit || !area->immediate_exit;
		return -EINTR;
	}
	n_runs++;
	usleep(100);
	return -EINTR;
}

static int make_vcpus(unsigned n)
{
	struct err err = {};
	autoclose int fd = unit_file();

	if (ftruncate(fd, RUN_BYTES) < 0 || dup2(fd, FAKE_FD) < 0)
		return -1;
	area = mmap(NULL, RUN_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(area, MAP_FAILED);
	config = (struct vm_config){ .cpus = { .boot_vcpus = n, .max_vcpus = n } };
	vm = (struct vm){ .config = &config, .kvm = { .fd = -1, .vm_fd = FAKE_FD, .run_bytes = RUN_BYTES } };
	n_runs = n_ahead = n_prepared = 0;
	ahead_without_exit = false;
	return vcpus_create(&vm.vcpus, &env, n, &err);
}

static int make(void **state)
{
	(void)state;
	return make_vcpus(VCPUS);
}

static int done(void **state)
{
	(void)state;
	vcpus_destroy(&vm.vcpus);
	vcpus_destroy(&vm.vcpus);
	munmap((void *)(uintptr_t)area, RUN_BYTES);
	return 0;
}

static int prepare(struct vcpu *vcpu, void *arg, struct err *err)
{
	n_prepared++;
	assert_ptr_equal(arg, &vm);
	return vcpu->index == 1 ? err_set(err, ERR_INVALID, "not this one") : 0;
}

static void parks_and_runs(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(vcpus_start(&vm.vcpus, NULL, NULL, &err), 0);
	assert_int_equal(vcpus_wait(&vm.vcpus, &err), 0);
	assert_int_equal(vm.vcpus.n_parked, VCPUS);
	assert_int_equal(n_runs, 0);
	vcpus_run(&vm.vcpus);
	while (n_runs < 10)
		usleep(100);
	vcpus_park(&vm.vcpus);
	assert_int_equal(vm.vcpus.n_parked, VCPUS);
	unsigned before = n_runs;
	usleep(2000);
	assert_int_equal(n_runs, before);
}

/* A first KVM_RUN comes before the guest is to run, and lets no instruction of the guest pass. */
static void runs_ahead(void **state)
{
	struct err err = {};

	(void)state;
	vcpus_destroy(&vm.vcpus);
	munmap((void *)(uintptr_t)area, RUN_BYTES);
	assert_int_equal(make_vcpus(1), 0); /* one: the area is not shared with another */
	assert_int_equal(vcpus_start(&vm.vcpus, NULL, NULL, &err), 0);
	assert_int_equal(vcpus_wait(&vm.vcpus, &err), 0);
	assert_int_equal(n_ahead, 1);
	assert_false(ahead_without_exit);
	assert_int_equal(n_runs, 0);
}

static void error_of_one(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(vcpus_start(&vm.vcpus, prepare, &vm, &err), 0);
	assert_int_equal(vcpus_wait(&vm.vcpus, &err), -EINVAL);
	assert_string_equal(err.msg, "not this one");
	assert_int_equal(n_prepared, VCPUS);
}

/* One host CPU that this process may use. */
static uint32_t some_cpu(cpu_set_t *own)
{
	assert_int_equal(sched_getaffinity(0, sizeof(*own), own), 0);
	for (uint32_t i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, own))
			return i;
	return 0;
}

static void affinity(void **state)
{
	cpu_set_t own, got;
	uint32_t one = some_cpu(&own), both[] = { one, 8191 };
	struct err err = {};

	(void)state;
	assert_int_equal(vcpus_start(&vm.vcpus, NULL, NULL, &err), 0);
	assert_int_equal(vcpus_wait(&vm.vcpus, &err), 0);
	assert_int_equal(vcpu_pin(&vm.vcpus.vcpu[1], both, 2, &err), 0); /* one that exists is enough */
	assert_int_equal(pthread_getaffinity_np(vm.vcpus.vcpu[0].thread, sizeof(got), &got), 0);
	assert_true(CPU_EQUAL(&got, &own));
	assert_int_equal(pthread_getaffinity_np(vm.vcpus.vcpu[1].thread, sizeof(got), &got), 0);
	assert_int_equal(CPU_COUNT(&got), 1);
	assert_true(CPU_ISSET(one, &got));
	assert_int_equal(sched_getaffinity(0, sizeof(got), &got), 0);
	assert_true(CPU_EQUAL(&got, &own)); /* the main thread stays where it was */
}

static void bad_affinity(void **state)
{
	uint32_t none[] = { 8191 }, absurd[] = { 0, UINT32_MAX };
	const struct {
		struct cpu_affinity a;
		const char *msg;
	} cases[] = {
		{ { 0, none, 0 }, "affinity of vCPU 0 names no host CPU" },
		{ { 1, absurd, 2 }, "affinity of vCPU 1: there is no host CPU 4294967295" },
		{ { 1, none, 1 }, "affinity of vCPU 1: run on host CPU 8191\nInvalid argument" },
	};

	struct err start_err = {};

	(void)state;
	assert_int_equal(vcpus_start(&vm.vcpus, NULL, NULL, &start_err), 0);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {};
		struct cpu_affinity a = cases[i].a;
		assert_int_equal(vcpu_pin(&vm.vcpus.vcpu[a.vcpu], a.host_cpus, a.n_host_cpus, &err), -EINVAL);
		assert_non_null(strstr(err.msg, cases[i].msg));
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
	const struct CMUnitTest tests[] = { T(parks_and_runs), T(runs_ahead), T(error_of_one), T(affinity),
					    T(bad_affinity) };

	return cmocka_run_group_tests_name("vcpu", tests, NULL, NULL);
}
