// SPDX-License-Identifier: Apache-2.0
/*
 * vCPUs: each has a thread, which does nothing but KVM_RUN and the dispatch of exits. The thread
 * begins parked. The main thread lets all vCPUs run, or parks all and waits until they are parked.
 */
#ifndef VMM_CORE_VCPU_H
#define VMM_CORE_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

struct bus;
struct kvm;
struct vcpus;

/* Why the guest stopped by itself; GUEST_EJECT: it has let go of a device, and runs on. */
enum guest_event { GUEST_POWEROFF = 1, GUEST_RESET = 2, GUEST_FAULT = 4, GUEST_EJECT = 8, GUEST_TAP_LOST = 16 };

/* What vCPUs see of their machine. The machine outlives them. */
struct vcpu_env {
	const struct kvm *kvm;
	struct bus *pio, *mmio;
	/* Called on a vCPU's thread. The thread parks next. */
	void (*guest_event)(void *opaque, enum guest_event event);
	void *opaque;
};

struct vcpu {
	struct vcpus *set;
	unsigned index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool has_thread;
	struct err err; /* what failed in the thread's preparation; vcpus_wait() reads it */
};

/*
 * What each vCPU's thread does once before it parks: all vCPUs load their saved state at the same
 * time.
 */
typedef int (*vcpu_prepare_fn)(struct vcpu *vcpu, void *arg, struct err *err);

/* What the vCPU threads are to do; guarded by lock. */
enum vcpu_goal { VCPUS_PARK, VCPUS_RUN, VCPUS_QUIT };

struct vcpus {
	struct vcpu_env env;
	struct vcpu *vcpu; /* array of n */
	unsigned n;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* goal or n_parked */
	_Atomic int goal;       /* enum vcpu_goal: read without the lock between two runs */
	unsigned n_parked;
	_Atomic bool guest_ended; /* power-off, reset or fault: no vCPU enters the guest any more */
	vcpu_prepare_fn prepare;  /* NULL: nothing */
	void *prepare_arg;
};

MUST_CHECK int vcpus_create(struct vcpus *vs, const struct vcpu_env *env, unsigned n, struct err *err);
/* Starts the threads. Each thread prepares and parks. */
MUST_CHECK int vcpus_start(struct vcpus *vs, vcpu_prepare_fn prepare, void *arg, struct err *err);
/* Waits until all vCPUs have parked. The error is that of the first vCPU that could not prepare. */
MUST_CHECK int vcpus_wait(struct vcpus *vs, struct err *err);
/*
 * Parks all vCPUs: on return each has left KVM with no operation half done. Not to be called by
 * vCPU threads.
 */
void vcpus_park(struct vcpus *vs);
void vcpus_run(struct vcpus *vs);
/* Parks the vCPUs for a moment, if they run. The result goes to vcpus_go_on(). */
bool vcpus_hold(struct vcpus *vs);
void vcpus_go_on(struct vcpus *vs, bool held);
/* Gives each vCPU a non-maskable interrupt, whether the vCPUs run or are parked. Main thread. */
MUST_CHECK int vcpus_nmi(struct vcpus *vs, struct err *err);
/*
 * The least time in ns that this thread's vCPU took from KVM_RUN to an exit by the guest: what an
 * exit costs on this host.
 */
uint64_t vcpu_exit_cost_ns(void);
/*
 * Binds the thread of a started vCPU to host CPUs, given by their numbers. ERR_INVALID: the host
 * has none of them.
 */
MUST_CHECK int vcpu_pin(const struct vcpu *vcpu, const uint32_t *host_cpus, uint32_t n, struct err *err);
/* Ends the threads, closes the vCPUs. */
void vcpus_destroy(struct vcpus *vs);

#endif
