// SPDX-License-Identifier: Apache-2.0
/*
 * How a machine is built: steps in tables, those that both ways share, and what they need. For boot.c and restore.c; life.c ends what is
 * half built. Main thread.
 */
#ifndef VMM_MACHINE_BUILD_H
#define VMM_MACHINE_BUILD_H

#include "vmm/machine/machine.h"
#include "vmm/state/saved.h"

/* What a step may need besides the machine. */
struct build {
	struct vm *vm;
	struct snapshot *snap; /* NULL: boot */
	enum restore_mode mode;
	bool prefault;
	struct saved *saved; /* ready, or &own */
	/* The reader's: */
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

/* The machine and what builds it; vm_free() releases both. NULL: no memory. */
struct vm *build_new(struct loop *loop, struct vm_config *config, struct err *err);
MUST_CHECK int build_run(const struct step *steps, struct build *b, struct err *err);
/* The last step was done: the machine is there. */
void build_finish(struct vm *vm);
/* Waits for the reader, which uses the machine's descriptors. */
void build_join_reader(struct build *b);
void build_free(struct build *b); /* NULL is fine */

/* The steps of both ways. */
MUST_CHECK int step_events(struct build *b, struct err *err);
MUST_CHECK int step_kvm(struct build *b, struct err *err);
MUST_CHECK int step_slots(struct build *b, struct err *err);
MUST_CHECK int step_irqchip(struct build *b, struct err *err);
MUST_CHECK int step_buses(struct build *b, struct err *err);
MUST_CHECK int step_vcpus(struct build *b, struct err *err);
/* On the host CPUs that the configuration names; of several entries for a vCPU the last one counts. */
MUST_CHECK int build_start_vcpus(struct build *b, vcpu_prepare_fn prepare, struct err *err);

#endif
