// SPDX-License-Identifier: Apache-2.0
/* vCPU threads: run, dispatch exits, park on request. */
#include "vmm/core/vcpu.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/log.h"
#include "vmm/core/arch.h"
#include "vmm/core/bus.h"
#include "vmm/core/kvm.h"

#define KICK_SIGNAL SIGRTMIN

enum { HOST_CPUS_MAX = 8192 }; /* the most that Linux can be built for */

/*
 * The shared page of this thread's vCPU, for the signal handler: KVM_RUN must return even when the
 * signal comes just before it.
 */
static _Thread_local struct kvm_run *volatile own_run;

static void on_kick(int sig)
{
	(void)sig;
	if (own_run)
		own_run->immediate_exit = 1;
}

static int vcpu_create(struct vcpus *vs, struct vcpu *vcpu, unsigned index, struct err *err)
{
	*vcpu = (struct vcpu){ .set = vs, .index = index, .fd = -1 };
	vcpu->fd = kvm_ioctl(vs->env.kvm->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)index, "create a vCPU", err);
	if (vcpu->fd < 0)
		return err_wrap(err, "vCPU %u", index);
	void *run = mmap(NULL, vs->env.kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return err_sys(err, ERR_INTERNAL, "map the area of vCPU %u", index);
	vcpu->run = run;
	return 0;
}

int vcpus_create(struct vcpus *vs, const struct vcpu_env *env, unsigned n, struct err *err)
{
	*vs = (struct vcpus){ .env = *env, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
	vs->vcpu = calloc(n, sizeof(*vs->vcpu));
	if (!vs->vcpu)
		return err_num(err, ERR_INTERNAL, ENOMEM, "create %u vCPUs", n);
	for (unsigned i = 0; i < n; i++)
		vs->vcpu[i].fd = -1;
	vs->n = n;
	for (unsigned i = 0; i < n; i++)
		if (vcpu_create(vs, &vs->vcpu[i], i, err) < 0)
			return err->num;
	return 0;
}

static void io_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT)
			bus_write(vcpu->set->env.pio, run->io.port, data, run->io.size);
		else
			bus_read(vcpu->set->env.pio, run->io.port, data, run->io.size);
	}
}

static void mmio_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->mmio.is_write)
		bus_write(vcpu->set->env.mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		bus_read(vcpu->set->env.mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

static void guest_event(const struct vcpu *vcpu, enum guest_event event)
{
	vcpu->set->env.guest_event(vcpu->set->env.opaque, event);
}

static void system_event_exit(struct vcpu *vcpu)
{
	uint32_t type = vcpu->run->system_event.type;

	guest_event(vcpu, type == KVM_SYSTEM_EVENT_SHUTDOWN ? GUEST_POWEROFF
			  : type == KVM_SYSTEM_EVENT_RESET  ? GUEST_RESET
							    : GUEST_FAULT);
}

static void dispatch_exit(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		io_exit(vcpu);
		return;
	case KVM_EXIT_MMIO:
		mmio_exit(vcpu);
		return;
	case KVM_EXIT_SYSTEM_EVENT:
		system_event_exit(vcpu);
		return;
	case KVM_EXIT_INTR:
		return;
	case KVM_EXIT_SHUTDOWN: /* triple fault: the guest resets */
		log_guest(LOG_INFO, "vCPU %u: triple fault, the guest resets", vcpu->index);
		arch_vcpu_log(vcpu);
		guest_event(vcpu, GUEST_RESET);
		return;
	default:
		if (arch_vcpu_exit(vcpu))
			return;
		log_error("vCPU %u: KVM exit %u (%s), sub-error %u: the guest cannot go on", vcpu->index,
			  run->exit_reason,
			  run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? "internal error"
			  : run->exit_reason == KVM_EXIT_FAIL_ENTRY   ? "entry failed"
								      : "unknown",
			  run->internal.suberror);
		arch_vcpu_log(vcpu);
		guest_event(vcpu, GUEST_FAULT);
	}
}

static _Thread_local uint64_t exit_cost_ns = UINT64_MAX;

uint64_t vcpu_exit_cost_ns(void)
{
	return exit_cost_ns;
}

/* One entry into the guest. */
static void run_once(struct vcpu *vcpu)
{
	uint64_t begin = monotonic_ns();

	if (ioctl(vcpu->fd, KVM_RUN, NULL) == 0) {
		uint64_t took = monotonic_ns() - begin;
		exit_cost_ns = took < exit_cost_ns ? took : exit_cost_ns;
		dispatch_exit(vcpu);
	} else if (errno == EINTR || errno == EAGAIN) {
		vcpu->run->immediate_exit = 0; /* the caller looks at the goal next; whoever kicked has set it before */
	} else {
		log_error("vCPU %u: KVM_RUN: errno %d", vcpu->index, errno);
		guest_event(vcpu, GUEST_FAULT);
	}
}

static bool must_park(const struct vcpu *vcpu)
{
	return vcpu->set->goal != VCPUS_RUN || vcpu->set->guest_ended;
}

/*
 * KVM finishes the port or memory access of the last exit only at the next KVM_RUN. Lets KVM do so,
 * without a guest instruction.
 */
static void complete_exit(struct vcpu *vcpu)
{
	vcpu->run->immediate_exit = 1;
	while (ioctl(vcpu->fd, KVM_RUN, NULL) == 0)
		dispatch_exit(vcpu);
	vcpu->run->immediate_exit = 0;
}

/* Parks until the goal is another one; false: the thread ends. */
static bool wait_parked(struct vcpu *vcpu)
{
	struct vcpus *vs = vcpu->set;

	pthread_mutex_lock(&vs->lock);
	vs->n_parked++;
	pthread_cond_broadcast(&vs->changed);
	while (vs->goal == VCPUS_PARK || (vs->goal == VCPUS_RUN && vcpu->set->guest_ended))
		pthread_cond_wait(&vs->changed, &vs->lock);
	vs->n_parked--;
	bool run = vs->goal == VCPUS_RUN;
	pthread_mutex_unlock(&vs->lock);
	return run;
}

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;
	bool ran = false;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	log_thread_name(name);
	own_run = vcpu->run;
	if (vcpu->set->prepare && vcpu->set->prepare(vcpu, vcpu->set->prepare_arg, &vcpu->err) < 0)
		log_debug("vCPU %u: not prepared", vcpu->index);
	else
		complete_exit(vcpu); /* the first KVM_RUN starts a thread in KVM: now, while nobody waits */
	for (;;) {
		if (must_park(vcpu)) {
			if (ran)
				complete_exit(vcpu);
			if (!wait_parked(vcpu))
				break;
			continue;
		}
		ran = true;
		run_once(vcpu);
	}
	own_run = NULL;
	return NULL;
}

static int start_thread(struct vcpu *vcpu, struct err *err)
{
	int r = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);

	vcpu->has_thread = r == 0;
	return r ? err_num(err, ERR_INTERNAL, r, "start the thread of vCPU %u", vcpu->index) : 0;
}

int vcpu_pin(const struct vcpu *vcpu, const uint32_t *host_cpus, uint32_t n, struct err *err)
{
	cpu_set_t cpus[HOST_CPUS_MAX / CPU_SETSIZE];

	memset(cpus, 0, sizeof(cpus));
	for (uint32_t i = 0; i < n; i++) {
		if (host_cpus[i] >= HOST_CPUS_MAX)
			return err_set(err, ERR_INVALID, "affinity of vCPU %u: there is no host CPU %u", vcpu->index,
				       host_cpus[i]);
		CPU_SET_S(host_cpus[i], sizeof(cpus), cpus);
	}
	if (n == 0)
		return err_set(err, ERR_INVALID, "affinity of vCPU %u names no host CPU", vcpu->index);
	int r = pthread_setaffinity_np(vcpu->thread, sizeof(cpus), cpus);
	return r ? err_num(err, ERR_INVALID, r, "affinity of vCPU %u: run on host CPU %u%s", vcpu->index, host_cpus[0],
			   n > 1 ? " or the others named" : "")
		 : 0;
}

int vcpus_start(struct vcpus *vs, vcpu_prepare_fn prepare, void *arg, struct err *err)
{
	struct sigaction kick = { .sa_handler = on_kick };
	sigset_t all, old;

	vs->prepare = prepare;
	vs->prepare_arg = arg;
	sigaction(KICK_SIGNAL, &kick, NULL);
	sigfillset(&all);
	sigdelset(&all, KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* the new threads inherit this: only the main thread takes signals */
	int r = 0;
	for (unsigned i = 0; i < vs->n && r == 0; i++)
		r = start_thread(&vs->vcpu[i], err);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

static void set_goal(struct vcpus *vs, enum vcpu_goal goal)
{
	pthread_mutex_lock(&vs->lock);
	vs->goal = goal;
	pthread_cond_broadcast(&vs->changed);
	pthread_mutex_unlock(&vs->lock);
}

static void kick_all(struct vcpus *vs)
{
	for (unsigned i = 0; i < vs->n; i++)
		if (vs->vcpu[i].has_thread)
			pthread_kill(vs->vcpu[i].thread, KICK_SIGNAL);
}

static void wait_all_parked(struct vcpus *vs)
{
	unsigned threads = 0;

	for (unsigned i = 0; i < vs->n; i++)
		threads += vs->vcpu[i].has_thread;
	pthread_mutex_lock(&vs->lock);
	while (vs->n_parked < threads)
		pthread_cond_wait(&vs->changed, &vs->lock);
	pthread_mutex_unlock(&vs->lock);
}

int vcpus_wait(struct vcpus *vs, struct err *err)
{
	wait_all_parked(vs);
	for (unsigned i = 0; i < vs->n; i++) {
		if (vs->vcpu[i].err.code == ERR_NONE)
			continue;
		*err = vs->vcpu[i].err;
		return err->num;
	}
	return 0;
}

void vcpus_park(struct vcpus *vs)
{
	set_goal(vs, VCPUS_PARK);
	kick_all(vs);
	wait_all_parked(vs);
}

void vcpus_run(struct vcpus *vs)
{
	set_goal(vs, VCPUS_RUN);
}

bool vcpus_hold(struct vcpus *vs)
{
	bool running = vs->goal == VCPUS_RUN;

	if (running)
		vcpus_park(vs);
	return running;
}

void vcpus_go_on(struct vcpus *vs, bool held)
{
	if (held)
		vcpus_run(vs);
}

/* A vCPU takes no ioctl while it runs. */
int vcpus_nmi(struct vcpus *vs, struct err *err)
{
	bool ran = vcpus_hold(vs);
	int r = 0;

	for (unsigned i = 0; i < vs->n && r >= 0; i++)
		r = kvm_ioctl(vs->vcpu[i].fd, KVM_NMI, NULL, "inject an NMI", err);
	vcpus_go_on(vs, ran);
	return r < 0 ? r : 0;
}

void vcpus_destroy(struct vcpus *vs)
{
	if (!vs->vcpu)
		return;
	set_goal(vs, VCPUS_QUIT);
	kick_all(vs);
	for (unsigned i = 0; i < vs->n; i++) {
		struct vcpu *vcpu = &vs->vcpu[i];
		if (vcpu->has_thread)
			pthread_join(vcpu->thread, NULL);
		if (vcpu->run)
			munmap(vcpu->run, vs->env.kvm->run_bytes);
		if (vcpu->fd >= 0)
			close(vcpu->fd);
	}
	free(vs->vcpu);
	*vs = (struct vcpus){};
}
