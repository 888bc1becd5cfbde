// SPDX-License-Identifier: Apache-2.0
/* What the files of store/ share, and nobody else sees. */
#ifndef STORE_STORE_INTERNAL_H
#define STORE_STORE_INTERNAL_H

#include "store/images.h"
#include "store/store.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>

struct store_ref; /* a template in use */
struct image_ref; /* an image */

/* Compares a file of a directory with what was sealed. */
typedef int check_file_fn(int dir_fd, const struct store_file *sealed, struct err *err);

struct store {
	char *root; /* absolute */
	int root_fd, lock_fd, templates_fd, staging_fd, trash_fd, images_fd, overlays_fd;
	pthread_mutex_t mutex; /* guards refs and images; held from a look at them until the rename that depends on it */
	struct store_ref *refs;   /* a list */
	struct image_ref *images; /* likewise: all images that are there */
	bool images_unsure; /* something could not be read, so nobody knows what it refers to: no image is removed */
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
/* Makes a small file, mode 0400, and writes it to disk. */
MUST_CHECK int layout_write_file(int dir_fd, const char *name, const struct strbuf *text, struct err *err);
/* Reads a small file. *ret_text is on the heap. -ENOENT (ERR_NOT_FOUND): there is none. */
MUST_CHECK int layout_read_file(int dir_fd, const char *name, uint64_t max_bytes, char **ret_text, size_t *ret_len,
				struct err *err);
/* Removes an entry of the trash. A failure is logged; the next start tries again. */
void layout_remove_trash(const struct store *s, const char *name);
/* Makes a directory with a random name, mode 0700. After a failure, too, `name` says what is to be removed. */
MUST_CHECK int layout_make_dir(int parent_fd, char name[RANDOM_NAME], int *ret_dir_fd, struct err *err);
/* Removes a directory of the staging directory. A failure is logged. */
void layout_unstage(const struct store *s, const char *name);

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
/* The same over a manifest that is there already, in one rename. */
MUST_CHECK int manifest_replace(int dir_fd, const struct manifest *m, struct err *err);
/*
 * Reads a manifest, checks it, and compares its name with `name`. -ENOENT (ERR_NOT_FOUND): there is
 * no manifest.
 */
MUST_CHECK int manifest_read(int dir_fd, const char *name, struct manifest *ret, struct err *err);

/* ---- images.c ---- */

/* Lists the images, and counts the references of images and templates. */
MUST_CHECK int images_load(struct store *s, struct err *err);
void images_forget(struct store *s);
/*
 * Renames the directory `staged` of parent_fd to the image `id`, and takes a reference for the
 * caller. 1: the store has the image already; the reference is to that one. `backing` NULL: none.
 */
MUST_CHECK int images_publish(struct store *s, int parent_fd, const char *staged, const char *id, const char *backing,
			      struct err *err);
MUST_CHECK int image_write(int dir_fd, const struct store_image *image, struct err *err);
/* Removes what has no reference. */
void images_collect(struct store *s);
/* Checks the data of an image, and of all that is behind it. */
MUST_CHECK int image_check_chain(struct store *s, const char *id, check_file_fn *check, struct err *err);

/* ---- template_images.c ---- */

/* How many places for images a template has, of its disks and its payload; the id in one of them, or NULL. */
uint32_t images_places(const struct manifest *m);
const char *images_at(const struct manifest *m, uint32_t place);
/* Takes a reference to each of the template's images, or lets go of them. */
MUST_CHECK int images_ref_all(struct store *s, const struct manifest *m, struct err *err);
void images_unref_all(struct store *s, const struct manifest *m);
/* Checks the template's images, and all that is behind them. */
MUST_CHECK int images_check(struct store *s, const struct manifest *m, check_file_fn *check, struct err *err);

/* ---- staged_image.c ---- */

/* As store_overlay_seal() and store_overlay_publish(), of a directory with `data` in it. A failure leaves it where it is. */
MUST_CHECK int image_seal_dir(struct store *store, int parent_fd, const char *name, const struct image_facts *facts,
			      char ret_id[STORE_ID_CHARS + 1], struct err *err);
MUST_CHECK int image_publish_dir(struct store *store, int parent_fd, const char *name, const char *id,
				 const char *backing, struct err *err);

/* ---- overlays.c ---- */

/* Makes the empty file a qcow2 image over the chain. */
MUST_CHECK int overlay_begin(int fd, const struct store_chain *behind, struct err *err);

/* ---- sealed.c ---- */

/* Whether it is one file that did not change in between: size, mtime, ctime. */
bool sealed_same(const struct stat *a, const struct stat *b);
/*
 * Makes the file read-only: from here on only this process and root can change it. ERR_CONFLICT: it is still
 * open for writing after five seconds.
 */
MUST_CHECK int sealed_close_to_others(const struct store_source *in, const char *name, struct err *err);
/* Writes the file to disk, and notes how it is. f->name and f->bytes are there. ERR_CONFLICT: it has another size by now. */
MUST_CHECK int sealed_note(int fd, struct store_file *f, struct err *err);
/* Checks the number of digests and their form. `what` names the file that has them. */
MUST_CHECK int sealed_check_digests(const struct store_file *f, const char *what, struct err *err);
/* Whether the file of the directory is the one that was sealed: by inode, size and times, or by digests. */
MUST_CHECK int sealed_check(int dir_fd, const struct store_file *f, struct err *err);
MUST_CHECK int sealed_check_open(int fd, const struct store_file *f, struct err *err);
MUST_CHECK int sealed_verify(int dir_fd, const struct store_file *sealed, struct err *err);

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
