// SPDX-License-Identifier: Apache-2.0
/*
 * What state.json says of the vCPUs and of the machine as a whole, as plain structs. state.json is
 * read once: by a thread beside a restore, or by a template host for all clones of the template.
 */
#ifndef VMM_STATE_SAVED_H
#define VMM_STATE_SAVED_H

#include "vmm/core/arch.h"
#include "vmm/state/snapshot_read.h"

struct saved {
	struct arch_state arch;
	struct vcpu_state *cpu; /* n_cpus */
	unsigned n_cpus;
	struct arch_needs needs;
};

/*
 * Fills the zeroed *s. arch_needs_check() says whether this host has what s->needs names. Release:
 * saved_done(), also after a failure.
 */
MUST_CHECK int saved_read(struct saved *s, const struct snapshot *snap, unsigned n_cpus, struct err *err);
void saved_done(struct saved *s);

#endif
