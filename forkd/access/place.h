// SPDX-License-Identifier: Apache-2.0
/*
 * Places: the directories of clones and of builds under the runtime directory, with their sockets
 * and logs. Files in a place belong to its caller. Any thread, one at a time for one place.
 */
#ifndef FORKD_ACCESS_PLACE_H
#define FORKD_ACCESS_PLACE_H

#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "forkd/registry/record.h"

/* A directory under the runtime directory, and the caller whose files are in it. `caller` is borrowed. */
struct place {
	struct forkd *d;
	const struct caller *caller;
	char *path; /* heap */
	int fd;
	bool gives; /* files are given to the caller */
};
/* Makes the directory RUNTIME/parent/name. E_OTHER_USER: the daemon cannot give files to this caller. */
MUST_CHECK int place_make(struct forkd *d, const struct caller *caller, const char *parent, const char *name,
			  struct place *ret, struct err *err);
void place_done(struct place *p); /* the directory stays */
#define autoplace __attribute__((cleanup(place_done)))
/*
 * For a place that exists already: its path on the heap (NULL: no memory), a descriptor of its
 * directory, a connection to its control socket.
 */
char *place_path(const struct forkd *d, const char *parent, const char *name);
MUST_CHECK int place_open(const struct forkd *d, const char *parent, const char *name, int *ret_fd, struct err *err);
MUST_CHECK int place_connect(const struct forkd *d, const char *parent, const char *name, int *ret_fd, struct err *err);
/* Removes a place with all files in it. A failure is logged. */
void place_clear(const struct forkd *d, const char *parent, const char *name);
/*
 * Removes a clone's place, and the clone's vsock socket at the path that the caller named. Another
 * file that is at this path by now stays.
 */
void place_clear_clone(const struct forkd *d, const struct record *r);

/*
 * Makes a listening socket `name` in the place, mode 0600. A SOCK_STREAM socket belongs to the
 * place's caller; a control socket (SOCK_SEQPACKET) stays the daemon's.
 */
MUST_CHECK int place_listen(const struct place *p, const char *name, int type, int *ret_fd, struct err *err);
/*
 * Listens at a path, mode 0600. ERR_CONFLICT: the path exists already. *ret_file identifies the
 * socket's file; ret_file may be NULL.
 */
MUST_CHECK int place_listen_at(const char *path, int type, struct sock_file *ret_file, int *ret_fd, struct err *err);
/* Gives a file of the place to the place's caller, if `gives` is set. */
MUST_CHECK int place_give(const struct place *p, const char *name, struct err *err);

#endif
