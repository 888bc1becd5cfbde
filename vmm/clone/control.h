// SPDX-License-Identifier: Apache-2.0
/*
 * The life of a VM process that belongs to forkd. forkd says over the control socket (common/ctl.h)
 * what the process is to run; then the process serves that socket and the VM's API until the VM ends.
 * All in the main thread, except that the thread of a vsock device asks forkd for the guest's
 * connections.
 */
#ifndef VMM_CLONE_CONTROL_H
#define VMM_CLONE_CONTROL_H

#include "vmm/clone/template_host.h"

/* What a VM process begins with. */
struct clone_start {
	char *id;               /* the VM's name; NULL: the name comes with the control socket */
	int control_fd;         /* listening; taken over. -1: comes over wait_fd, in the request "fork" */
	int wait_fd;            /* taken over; -1: none. End of file ends a clone that nobody wanted */
	int report_fd;          /* taken over; -1: none. The clone sends a list of its own pages once it is ready */
	struct template *tmpl;  /* the template of a clone, moved from; NULL: the request "boot" says what to run */
	enum restore_mode mode; /* with tmpl */
};

/* Runs until the end of the VM. Returns the exit code, or < 0. */
MUST_CHECK int clone_run(struct clone_start *start, struct err *err);

#endif
