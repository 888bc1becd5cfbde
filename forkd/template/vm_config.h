// SPDX-License-Identifier: Apache-2.0
/*
 * The VmConfig of a request, as far as the VmConfig names things of the host. These are opened here
 * with the rights of the caller, and the VM process gets the descriptors. forkd-vmm judges all else
 * in the VmConfig.
 */
#ifndef FORKD_TEMPLATE_VM_CONFIG_H
#define FORKD_TEMPLATE_VM_CONFIG_H

#include "forkd/access/handover.h"

struct vm_needs {
	struct strbuf config; /* JSON */
	struct handover fds;
	bool has_serial, has_console, has_vsock;
	uint64_t ram_bytes; /* as the VmConfig says; forkd-vmm refuses wrong values */
	uint32_t vcpus;
	char **ids; /* "#0", …: the strings that the ids in `fds` point to; heap */
	unsigned n_ids;
};

/*
 * Loads the VmConfig and opens what it names. `id`: taps that are made are named after this id.
 * `agent`: the guest has an agent, so it gets a generation id (platform.vmgenid) unless the VmConfig
 * says otherwise. vm_needs_done() frees *ret, also after a failure.
 */
MUST_CHECK int vm_needs_load(const struct json_node *vm, const struct place *place, const char *id, bool agent,
			     struct vm_needs *ret, struct err *err);
void vm_needs_done(struct vm_needs *n);

#endif
