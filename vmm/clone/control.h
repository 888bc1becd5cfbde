// SPDX-License-Identifier: Apache-2.0
/*
 * The life of a VM process that belongs to forkd: it is told over its control socket (common/ctl.h) what to be, then serves that
 * socket and its own API until the VM ends. All in the main thread.
 */
#ifndef VMM_CLONE_CONTROL_H
#define VMM_CLONE_CONTROL_H

#include "vmm/clone/template_host.h"

/* What such a process begins with. */
struct clone_start {
	char *id; /* names it in the log; NULL: comes with the control socket */
	int control_fd; /* listening; taken over. -1: comes over wait_fd, as op "fork" of common/ctl.h, when the clone is wanted */
	int wait_fd;            /* taken over; -1: none. Its end ends a clone that nobody wanted */
	struct template *tmpl;  /* a parked clone of it; NULL: op "boot" says what to run. Moved from. */
	enum restore_mode mode; /* with tmpl */
};

/* Runs until the end of the VM: the exit code, or < 0. */
MUST_CHECK int clone_run(struct clone_start *start, struct err *err);

#endif
