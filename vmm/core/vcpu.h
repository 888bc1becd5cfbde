// SPDX-License-Identifier: Apache-2.0
/*
 * vCPUs: one thread each, which does nothing but KVM_RUN and dispatch of its exits. The thread is started parked;
 * the main thread lets all run, or parks all and waits until they are.
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

/* Why the guest stopped by itself, or that it ejected a device. */
enum guest_event { GUEST_POWEROFF = 1, GUEST_RESET = 2, GUEST_FAULT = 4, GUEST_EJECT = 8 };

/* What vCPUs get of their machine, which outlives them. */
struct vcpu_env {
	const struct kvm *kvm;
	struct bus *pio, *mmio;
	/* On a vCPU's thread, which parks next. */
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
	struct err err; /* of the thread's preparation; read by vcpus_wait() */
};

/* What a vCPU's thread does once before it parks: loading saved state, on all vCPUs at once. */
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
/* Starts the threads; they prepare and park. */
MUST_CHECK int vcpus_start(struct vcpus *vs, vcpu_prepare_fn prepare, void *arg, struct err *err);
/* Returns when all have parked; the error of the first that could not prepare. */
MUST_CHECK int vcpus_wait(struct vcpus *vs, struct err *err);
/* Returns when every vCPU has left KVM with no operation half done. Not for vCPU threads. */
void vcpus_park(struct vcpus *vs);
void vcpus_run(struct vcpus *vs);
/* Parks them for a moment, if they run: what it answers goes to vcpus_go_on(). */
bool vcpus_hold(struct vcpus *vs);
void vcpus_go_on(struct vcpus *vs, bool held);
/* A non-maskable interrupt for each, whether they run or are parked. Main thread. */
MUST_CHECK int vcpus_nmi(struct vcpus *vs, struct err *err);
/* The least time that this thread's vCPU needed from KVM_RUN to an exit by the guest, ns: what an exit costs on this host. */
uint64_t vcpu_exit_cost_ns(void);
/* Where the thread of a started vCPU may run: host CPUs by their numbers. ERR_INVALID: none of them is there. */
MUST_CHECK int vcpu_pin(const struct vcpu *vcpu, const uint32_t *host_cpus, uint32_t n, struct err *err);
/* Ends the threads, closes the vCPUs. */
void vcpus_destroy(struct vcpus *vs);

#endif
