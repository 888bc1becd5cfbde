// SPDX-License-Identifier: Apache-2.0
/*
 * The descriptors that a VM process gets with its first request: sockets and files in its directory, disks, taps. Made by the daemon,
 * listed in the order in which they are sent, and closed here afterwards.
 */
#ifndef FORKD_ACCESS_HANDOVER_H
#define FORKD_ACCESS_HANDOVER_H

#include "common/ctl.h"
#include "forkd/access/place.h"
#include "forkd/access/policy.h"

struct handover {
	struct ctl_fd kinds[SOCK_FDS_MAX]; /* ids are borrowed */
	int fds[SOCK_FDS_MAX];
	bool borrowed[SOCK_FDS_MAX]; /* not to be closed here */
	uint32_t n;
};
void handover_done(struct handover *h);
#define autohandover __attribute__((cleanup(handover_done)))

MUST_CHECK int handover_add(struct handover *h, enum ctl_fd_kind kind, char *id, int fd, bool borrowed,
			    struct err *err);
/* A listening socket `name` in the place, its owner's. Its path is returned on the heap, unless ret_path is NULL. */
MUST_CHECK int handover_socket(struct handover *h, enum ctl_fd_kind kind, const struct place *p, const char *name,
			       char **ret_path, struct err *err);
/* The clone's vsock socket, at a path that the caller names, who must be trusted. It is in the record, to be removed with the clone. */
MUST_CHECK int handover_vsock_at(struct handover *h, const char *path, struct record *r, struct err *err);
/* A new file `name` in the place for output, its owner's. */
MUST_CHECK int handover_log(struct handover *h, enum ctl_fd_kind kind, const struct place *p, const char *name,
			    char **ret_path, struct err *err);
/* Whether it can be a disk at all, and is as long as the guest knows it (bytes 0: whatever it is). `path` is for messages. */
MUST_CHECK int handover_check_disk(int fd, const char *path, uint64_t bytes, struct err *err);
/* A disk, opened twice, as `who` may: the caller for what the request names, the template's owner for what it brings. */
MUST_CHECK int handover_disk(struct handover *h, const struct policy *policy, const struct caller *who,
			     const struct ctl_disk *disk, const char *path, struct err *err);

#endif
