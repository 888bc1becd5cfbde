// SPDX-License-Identifier: Apache-2.0
/*
 * The template host is a process that reads and checks a snapshot once and then only forks: one VM
 * process for each request of forkd (common/ctl.h). Before a clone is forked, everything is checked
 * that could make the clone fail, except the state of single devices. The template host has one
 * thread, never maps guest memory and never runs a guest. The children have what the template host
 * read, by copy-on-write.
 */
#ifndef VMM_CLONE_TEMPLATE_HOST_H
#define VMM_CLONE_TEMPLATE_HOST_H

#include "vmm/core/kvm.h"
#include "vmm/state/own_pages.h"
#include "vmm/state/saved.h"

struct template
{
	struct snapshot snap;
	struct vm_config config;
	struct saved saved;
	struct own_pages ahead; /* what clones make their own while they are parked */
	struct kvm kvm;         /* children inherit /dev/kvm; a VM's descriptor would be of no use after a fork */
};

struct clone_start;

/*
 * Serves forkd on `control_fd` (taken over). Returns 0 when forkd hangs up, and 1 in a child. In a
 * child *ret_child is filled and points to *t; only the descriptors of *ret_child and *t, and 0 to 2,
 * are open there. Release of *t: template_done().
 */
MUST_CHECK int template_serve(int control_fd, struct template *t, struct clone_start *ret_child, struct err *err);
void template_done(struct template *t);

#endif
