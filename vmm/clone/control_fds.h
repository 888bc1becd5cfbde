// SPDX-License-Identifier: Apache-2.0
/*
 * The descriptors that forkd sends with a restore or a boot (common/ctl.h). A VM process opens no file
 * by its name, except a source of random numbers.
 */
#ifndef VMM_CLONE_CONTROL_FDS_H
#define VMM_CLONE_CONTROL_FDS_H

#include "common/ctl.h"
#include "vmm/config/config.h"

/*
 * Moves the packet's descriptors to their places in the configuration, and the API's descriptor to
 * *api_fd (-1 before). what[i] says what descriptor i is for. A disk, net or vsock device without
 * descriptors is ERR_INVALID, by name. After a failure some descriptors may have been moved.
 */
MUST_CHECK int clone_take_fds(struct vm_config *c, struct ctl_packet *p, const struct ctl_fd *what, uint32_t n,
			      int *api_fd, struct err *err);

/*
 * The same for the disks that come with a request for a snapshot, behind the directory's descriptor. *ret was
 * zeroed, and gets an entry for each of them, with id, path, image_type and descriptors.
 */
MUST_CHECK int clone_take_disks(struct vm_config *ret, struct ctl_packet *p, const struct ctl_fd *what, uint32_t n,
				struct err *err);

#endif
