// SPDX-License-Identifier: Apache-2.0
/*
 * The descriptors that a VM process gets with its first request: sockets and files in its
 * directory, disks, taps. The daemon makes the descriptors and lists them in the order in which
 * they are sent. handover_done() closes them.
 */
#ifndef FORKD_ACCESS_HANDOVER_H
#define FORKD_ACCESS_HANDOVER_H

#include "common/ctl.h"
#include "forkd/access/place.h"
#include "forkd/access/policy.h"
#include "store/images.h"

struct handover {
	struct ctl_fd kinds[SOCK_FDS_MAX]; /* the strings `id` are borrowed */
	int fds[SOCK_FDS_MAX];
	bool borrowed[SOCK_FDS_MAX]; /* handover_done() does not close these */
	uint32_t n;
};
void handover_done(struct handover *h);
#define autohandover __attribute__((cleanup(handover_done)))

/*
 * Adds a descriptor. A descriptor that is not borrowed is closed by handover_done(), and when
 * handover_add() fails.
 */
MUST_CHECK int handover_add(struct handover *h, enum ctl_fd_kind kind, char *id, int fd, bool borrowed,
			    struct err *err);
/*
 * Adds a new listening socket `name` in the place, which belongs to the place's caller. The
 * socket's path is returned on the heap, unless ret_path is NULL.
 */
MUST_CHECK int handover_socket(struct handover *h, enum ctl_fd_kind kind, const struct place *p, const char *name,
			       char **ret_path, struct err *err);
/*
 * Adds the clone's vsock socket, at a path that a trusted caller named; trust is not checked here.
 * The record gets the path and the file, so that the socket is removed with the clone.
 */
MUST_CHECK int handover_vsock_at(struct handover *h, const char *path, struct record *r, struct err *err);
/*
 * Adds a new file `name` for output in the place, which belongs to the place's caller. ret_path: as
 * for handover_socket().
 */
MUST_CHECK int handover_log(struct handover *h, enum ctl_fd_kind kind, const struct place *p, const char *name,
			    char **ret_path, struct err *err);
/*
 * Checks that fd can be a disk (a file or a block device) and has at least the `bytes` that the
 * guest knows. bytes 0: any size will do. `path` is for messages. E_INVALID: fd fails the check.
 */
MUST_CHECK int handover_check_disk(int fd, const char *path, uint64_t bytes, struct err *err);
/* An image of the store that the VM process writes, or an overlay. */
struct handover_image {
	int fd;                              /* stays the caller's */
	bool qcow2;                          /* else raw, with nothing behind it */
	char *path;                          /* borrowed: what the VM process calls it; NULL: as configured */
	const struct record_overlay *frozen; /* the overlay behind a qcow2 file; NULL: none */
	const struct store_chain *behind;    /* the images behind it; NULL: none */
};
/* Adds the image twice, the second time with locks of its own, and the files behind it. */
MUST_CHECK int handover_image(struct handover *h, struct store *store, char *id, const struct handover_image *image,
			      struct err *err);
/* Adds the images of a chain, in order. `id` NULL: of no disk. */
MUST_CHECK int handover_chain(struct handover *h, struct store *store, char *id, const struct store_chain *chain,
			      struct err *err);
/*
 * Adds a disk as two descriptors: one for I/O, one for the lock. The path is opened with the rights
 * of `who`: the caller for a path of the request, the template's owner for a path of the template.
 * E_CONFLICT: another VM has locked the disk.
 */
MUST_CHECK int handover_disk(struct handover *h, const struct policy *policy, const struct caller *who,
			     const struct ctl_disk *disk, const char *path, struct err *err);

#endif
