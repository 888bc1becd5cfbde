// SPDX-License-Identifier: Apache-2.0
/*
 * The VmConfig of a request, as far as the VmConfig names things of the host. These are opened here
 * with the rights of the caller, and the VM process gets the descriptors. forkd-vmm judges all else
 * in the VmConfig.
 */
#ifndef FORKD_TEMPLATE_VM_CONFIG_H
#define FORKD_TEMPLATE_VM_CONFIG_H

#include "forkd/access/handover.h"
#include "forkd/template/disk_source.h"

struct vm_disk {
	struct disk_source *source; /* what is to be copied for the VM; NULL: the VM has the file itself */
	char *id;                   /* one of vm_needs.ids */
};

struct vm_needs {
	struct strbuf config; /* JSON */
	struct handover fds;
	bool has_serial, has_console, has_vsock;
	uint64_t ram_bytes; /* as the VmConfig says; forkd-vmm refuses wrong values */
	uint32_t vcpus;
	struct vm_disk *disks; /* in the order of the VmConfig */
	uint32_t n_disks;
	char **ids; /* "#0", …: the strings that the ids in `fds` point to; heap */
	unsigned n_ids;
};

struct vm_wish {
	const char *id; /* taps that are made are named after it */
	bool agent; /* the guest has an agent: it gets a generation id (platform.vmgenid) unless the VmConfig says otherwise */
	bool disks_brought; /* the VM writes the disks that the VmConfig names, not copies */
};
/* Loads the VmConfig and opens what it names. vm_needs_done() frees *ret, also after a failure. */
MUST_CHECK int vm_needs_load(const struct json_node *vm, const struct place *place, const struct vm_wish *wish,
			     struct vm_needs *ret, struct err *err);
void vm_needs_done(struct vm_needs *n);

#endif
