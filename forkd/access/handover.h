// SPDX-License-Identifier: Apache-2.0
/*
 * The descriptors that a VM process gets with its first request: sockets and files in its directory, disks, taps. Made by the daemon,
 * listed in the order in which they are sent, and closed here afterwards.
 */
#ifndef FORKD_ACCESS_HANDOVER_H
#define FORKD_ACCESS_HANDOVER_H

#include "common/ctl.h"
#include "forkd/access/policy.h"
#include "forkd/forkd.h"
#include "forkd/registry/record.h"

struct handover {
	struct ctl_fd kinds[SOCK_FDS_MAX]; /* ids are borrowed */
	int fds[SOCK_FDS_MAX];
	bool borrowed[SOCK_FDS_MAX]; /* not to be closed here */
	uint32_t n;
};
void handover_done(struct handover *h);
#define autohandover __attribute__((cleanup(handover_done)))

/* A directory under the runtime directory and who its files belong to. */
struct place {
	struct forkd *d;
	const struct caller *caller;
	char *path; /* heap */
	int fd;
	bool gives; /* its files are made the caller's */
};
/* Makes RUNTIME/parent/name. E_OTHER_USER for a caller to whom the daemon can give no files. */
MUST_CHECK int place_make(struct forkd *d, const struct caller *caller, const char *parent, const char *name,
			  struct place *ret, struct err *err);
void place_done(struct place *p); /* the directory stays */
#define autoplace __attribute__((cleanup(place_done)))
/* One that is there already: its path in heap, NULL without memory; itself; its control socket; and its end, with everything in it. */
char *place_path(const struct forkd *d, const char *parent, const char *name);
MUST_CHECK int place_open(const struct forkd *d, const char *parent, const char *name, int *ret_fd, struct err *err);
MUST_CHECK int place_connect(const struct forkd *d, const char *parent, const char *name, int *ret_fd, struct err *err);
void place_clear(const struct forkd *d, const char *parent, const char *name);
/* A clone's directory, and its vsock socket where the caller wanted it, unless another one is there by now. */
void place_clear_clone(const struct forkd *d, const struct record *r);

MUST_CHECK int handover_add(struct handover *h, enum ctl_fd_kind kind, char *id, int fd, bool borrowed,
			    struct err *err);
/* A listening socket `name` in the place, for its owner alone. Control sockets stay the daemon's. */
MUST_CHECK int place_listen(const struct place *p, const char *name, int type, int *ret_fd, struct err *err);
/* The same, as one of the descriptors; its path is returned in heap unless NULL. */
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
