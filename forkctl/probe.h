// SPDX-License-Identifier: Apache-2.0
/* What the host's KVM can run, found out by a guest of a few bytes, not guessed from names. */
#ifndef FORKCTL_PROBE_H
#define FORKCTL_PROBE_H

#include "common/err.h"

enum probe_result {
	PROBE_LINUX,    /* runs what a Linux kernel needs */
	PROBE_EMULATED, /* a software KVM that cannot run Linux: it emulates kernel mode, and not all of it */
};

/* Runs the guest on an open /dev/kvm: one VM, one vCPU, about a millisecond. enum probe_result, or < 0. */
MUST_CHECK int probe_kvm(int kvm_fd, struct err *err);

#endif
