// SPDX-License-Identifier: Apache-2.0
/*
 * One file that comes from a client: it appears under its name when all of it is there, and not
 * before. Until then it has no name at all (O_TMPFILE), or a hidden one beside its place, where the
 * file system has no files without names. One thread; lives as long as the request.
 */
#ifndef GUEST_FILES_UPLOAD_H
#define GUEST_FILES_UPLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/files/path.h"

/*
 * How the hidden names begin: of a file that is new, and of one that takes the place of another.
 * Who watches the directory is told of neither (guest/files/watch_events.c).
 */
#define UPLOAD_NEW ".forkd-new-"
#define UPLOAD_PUT ".forkd-put-"

struct upload {
	int dir_fd, fd;
	char *name;      /* in dir_fd */
	char hidden[40]; /* in dir_fd; "": the file has no name yet */
	mode_t mode;
	bool replaces; /* there was such a file at upload_begin() */
	uint64_t size;
	struct owner_ids owner;
};

/* One attribute to set: its name has METADATA_PREFIX in front of `key`. */
struct metadata {
	char *key, *value;
};

/*
 * Opens a file for the absolute path. Missing directories are made, a symbolic link is followed, as
 * open() would. A file that is there already passes its mode on, a new one has 0644; the owner is
 * `owner` in both cases. ERR_INVALID: a directory or another thing that is no regular file is at the
 * path. The error's num is -ENOSPC or -EDQUOT where the disk is full, here and below.
 */
MUST_CHECK int upload_begin(struct upload *up, const char *path, const struct owner_ids *owner, struct err *err);
MUST_CHECK int upload_write(struct upload *up, const char *data, size_t len, struct err *err);
/* Gives the file its owner, mode, attributes and, last, its name. */
MUST_CHECK int upload_commit(struct upload *up, const struct metadata *metadata, unsigned n_metadata, struct err *err);
/* Closes, and removes what was not committed. The upload may be zeroed. */
void upload_done(struct upload *up);

#endif
