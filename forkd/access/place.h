// SPDX-License-Identifier: Apache-2.0
/*
 * Places: the directories of clones and of builds under the runtime directory, with their sockets and logs. Files in a place belong
 * to its caller. Any thread, one at a time for one place.
 */
#ifndef FORKD_ACCESS_PLACE_H
#define FORKD_ACCESS_PLACE_H

#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "forkd/registry/record.h"

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
/* Of a place that is there already: its path on the heap (NULL: no memory), its descriptor, a connection to its control socket. */
char *place_path(const struct forkd *d, const char *parent, const char *name);
MUST_CHECK int place_open(const struct forkd *d, const char *parent, const char *name, int *ret_fd, struct err *err);
MUST_CHECK int place_connect(const struct forkd *d, const char *parent, const char *name, int *ret_fd, struct err *err);
/* Removes it with everything in it. */
void place_clear(const struct forkd *d, const char *parent, const char *name);
/* A clone's directory, and its vsock socket where the caller wanted it, unless another one is there by now. */
void place_clear_clone(const struct forkd *d, const struct record *r);

/* A listening socket `name` in the place, for its owner alone. Control sockets stay the daemon's. */
MUST_CHECK int place_listen(const struct place *p, const char *name, int type, int *ret_fd, struct err *err);
/* Listens at a path, mode 0600. ERR_CONFLICT: something is there. `ret_file` says which file it became; NULL: nobody asks. */
MUST_CHECK int place_listen_at(const char *path, int type, struct sock_file *ret_file, int *ret_fd, struct err *err);
/* Gives a file of the place to its caller, where the daemon makes files for him. */
MUST_CHECK int place_give(const struct place *p, const char *name, struct err *err);

#endif
