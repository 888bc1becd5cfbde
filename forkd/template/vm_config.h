// SPDX-License-Identifier: Apache-2.0
/*
 * The VmConfig of a request, as far as it names things of the host: opened here by the caller's policy and given to the VM process as
 * descriptors. All else in it is for forkd-vmm to judge.
 */
#ifndef FORKD_TEMPLATE_VM_CONFIG_H
#define FORKD_TEMPLATE_VM_CONFIG_H

#include "forkd/access/handover.h"

struct vm_needs {
	struct strbuf config; /* JSON */
	struct handover fds;
	bool has_serial, has_console, has_vsock;
	uint64_t ram_bytes; /* as far as it says; what is wrong is forkd-vmm's to say */
	uint32_t vcpus;
	char **ids; /* "#0", …: what the descriptors' ids point to */
	unsigned n_ids;
};

/* `id`: names taps that are made. vm_needs_done() also after a failure. */
MUST_CHECK int vm_needs_load(const struct json_node *vm, const struct place *place, const char *id,
			     struct vm_needs *ret, struct err *err);
void vm_needs_done(struct vm_needs *n);

#endif
