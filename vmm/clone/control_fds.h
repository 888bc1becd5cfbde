// SPDX-License-Identifier: Apache-2.0
/* The descriptors that forkd sends with a restore or a boot (common/ctl.h): files reach a VM process in no other way. */
#ifndef VMM_CLONE_CONTROL_FDS_H
#define VMM_CLONE_CONTROL_FDS_H

#include "common/ctl.h"
#include "vmm/config/config.h"

/*
 * Moves the packet's descriptors to where the configuration wants them, that of the API to *api_fd (-1 before). what[n] says what each
 * is for. Every disk, net and vsock device must have got its own: ERR_INVALID by name. On failure some may have been moved.
 */
MUST_CHECK int clone_take_fds(struct vm_config *c, struct ctl_packet *p, const struct ctl_fd *what, uint32_t n,
			      int *api_fd, struct err *err);

#endif
