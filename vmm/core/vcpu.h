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

struct vm;

struct vcpu {
	struct vm *vm;
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
	struct vcpu *vcpu; /* array of n */
	unsigned n;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* goal or n_parked */
	_Atomic int goal;       /* enum vcpu_goal: read without the lock between two runs */
	unsigned n_parked;
	vcpu_prepare_fn prepare; /* NULL: nothing */
	void *prepare_arg;
};

MUST_CHECK int vcpus_create(struct vm *vm, unsigned n, struct err *err);
/* Starts the threads, on the host CPUs that the configuration names; they prepare and park. */
MUST_CHECK int vcpus_start(struct vm *vm, vcpu_prepare_fn prepare, void *arg, struct err *err);
/* Returns when all have parked; the error of the first that could not prepare. */
MUST_CHECK int vcpus_wait(struct vm *vm, struct err *err);
/* Returns when every vCPU has left KVM with no operation half done. Not for vCPU threads. */
void vcpus_park(struct vm *vm);
void vcpus_run(struct vm *vm);
/* Parks them for a moment, if they run: what it answers goes to vcpus_go_on(). */
bool vcpus_hold(struct vm *vm);
void vcpus_go_on(struct vm *vm, bool held);
/* A non-maskable interrupt for each, whether they run or are parked. Main thread. */
MUST_CHECK int vcpus_nmi(struct vm *vm, struct err *err);
/* The least time that this thread's vCPU needed from KVM_RUN to an exit by the guest, ns: what an exit costs on this host. */
uint64_t vcpu_exit_cost_ns(void);
/* Ends the threads, closes the vCPUs. */
void vcpus_destroy(struct vm *vm);

#endif
