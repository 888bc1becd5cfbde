// SPDX-License-Identifier: Apache-2.0
/*
 * How a machine is built: tables of steps, the steps that a boot and a restore share, and what
 * steps need. For boot.c and restore.c; life.c frees a machine that is half built. Main thread.
 */
#ifndef VMM_MACHINE_BUILD_H
#define VMM_MACHINE_BUILD_H

#include "vmm/machine/machine.h"
#include "vmm/state/saved.h"

/* What a step may need besides the machine itself. */
struct build {
	struct vm *vm;
	struct snapshot *snap; /* NULL: the machine boots */
	enum restore_mode mode;
	bool prefault;
	struct saved *saved; /* read before by the template host, or &own */
	/* The thread that reads state.json uses these: */
	pthread_t reader;
	bool has_reader;
	unsigned n_cpus;
	int kvm_fd;
	struct saved own;
	struct err reader_err;
};

struct step {
	const char *name;
	int (*run)(struct build *b, struct err *err);
};

/* Makes a machine and its struct build; vm_free() releases both. NULL: no memory. */
struct vm *build_new(struct loop *loop, struct vm_config *config, struct err *err);
MUST_CHECK int build_run(const struct step *steps, struct build *b, struct err *err);
/* After the last step: the machine is complete, and its struct build goes. */
void build_finish(struct vm *vm);
/* Waits for the thread that reads state.json: it uses the machine's descriptors. */
void build_join_reader(struct build *b);
void build_free(struct build *b); /* NULL is fine */

/* The steps that a boot and a restore share. */
MUST_CHECK int step_events(struct build *b, struct err *err);
MUST_CHECK int step_kvm(struct build *b, struct err *err);
MUST_CHECK int step_slots(struct build *b, struct err *err);
MUST_CHECK int step_irqchip(struct build *b, struct err *err);
MUST_CHECK int step_buses(struct build *b, struct err *err);
MUST_CHECK int step_vcpus(struct build *b, struct err *err);
/*
 * Starts the vCPU threads, on the host CPUs that the configuration names. Of several entries for
 * one vCPU the last counts.
 */
MUST_CHECK int build_start_vcpus(struct build *b, vcpu_prepare_fn prepare, struct err *err);

#endif
