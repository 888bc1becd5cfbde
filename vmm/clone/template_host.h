// SPDX-License-Identifier: Apache-2.0
/*
 * The template host: a process that reads and checks a snapshot once and then only forks, one VM process for each request of forkd
 * (common/ctl.h). It has one thread, never maps guest memory and never runs a guest; what it read is the children's
 * by copy-on-write.
 */
#ifndef VMM_CLONE_TEMPLATE_HOST_H
#define VMM_CLONE_TEMPLATE_HOST_H

#include "vmm/core/kvm.h"
#include "vmm/state/saved.h"

struct template
{
	struct snapshot snap;
	struct vm_config config;
	struct saved saved;
	struct kvm kvm; /* children inherit it: a VM's descriptor would not survive a fork, /dev/kvm does */
};

struct clone_start;

/*
 * Serves forkd on `control_fd` (taken over) until it hangs up: 0. In a child: 1, with *ret_child filled, which points to
 * *t; nothing of the host's is open there but what is in *t. Release of *t: template_done().
 */
MUST_CHECK int template_serve(int control_fd, struct template *t, struct clone_start *ret_child, struct err *err);
void template_done(struct template *t);

#endif
