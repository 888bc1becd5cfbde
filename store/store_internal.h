// SPDX-License-Identifier: Apache-2.0
/* What the files of store/ share, and nobody else sees. */
#ifndef STORE_STORE_INTERNAL_H
#define STORE_STORE_INTERNAL_H

#include "store/store.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>

struct store_ref; /* a template in use */

struct store {
	char *root; /* absolute */
	int root_fd, lock_fd, templates_fd, staging_fd, trash_fd;
	pthread_mutex_t mutex;  /* guards refs; held from a look at them until the rename that depends on it */
	struct store_ref *refs; /* a list */
};

static inline void auto_closedir(DIR **d)
{
	if (*d)
		closedir(*d);
}
#define autodir __attribute__((cleanup(auto_closedir)))

/* ---- layout.c ---- */

/* Opens the directory `name`, never through a symlink. Returns -errno, without a message. */
MUST_CHECK int layout_open_dir(int parent_fd, const char *name);
/*
 * Opens a stream of its own over the directory's entries, without "." and "..", for layout_next().
 * NULL: errno.
 */
DIR *layout_list(int dir_fd);
struct dirent *layout_next(DIR *d);
enum { RANDOM_NAME = 17 };
MUST_CHECK int layout_random_name(char name[RANDOM_NAME], struct err *err);
/* Removes a file or a directory with all that is in it, read-only directories too. */
MUST_CHECK int layout_remove(int parent_fd, const char *name, struct err *err);
MUST_CHECK int layout_write(int fd, const void *bytes, size_t len, uint64_t off, const char *what, struct err *err);

/* ---- manifest.c ---- */

extern const struct field store_file_fields[];
/*
 * Checks that this is what a snapshot file must be. ERR_INVALID: no regular file, empty, too long,
 * or no multiple of a page.
 */
MUST_CHECK int snapshot_check_file(unsigned index, const struct stat *st, struct err *err);
static inline uint64_t timespec_ns(struct timespec t)
{
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
MUST_CHECK int manifest_write(int dir_fd, const struct manifest *m, struct err *err);
/*
 * Reads a manifest, checks it, and compares its name with `name`. -ENOENT (ERR_NOT_FOUND): there is
 * no manifest.
 */
MUST_CHECK int manifest_read(int dir_fd, const char *name, struct manifest *ret, struct err *err);

/* ---- digest.c ---- */

uint32_t digest_chunks(uint64_t bytes);
/*
 * Fills f->sha256 from f->bytes bytes of fd; holes are not read. copy_fd >= 0: an empty file, which
 * gets the same data on the way. ERR_CONFLICT: fd is shorter than that.
 */
MUST_CHECK int digest_file(int fd, int copy_fd, struct store_file *f, struct err *err);
/* How many bytes of the file are no hole. */
uint64_t digest_allocated(int fd);

#endif
