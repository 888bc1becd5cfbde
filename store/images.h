// SPDX-License-Identifier: Apache-2.0
/*
 * Images of disks and of what a machine boots, and the overlays that clones write. An image is a file that nobody
 * changes any more. Its id is the digest of what it is, so two equal ones are one. An image may have
 * another one behind it (`backing`), and templates, images and clones refer to images; the last
 * reference gone, the image is removed. Any thread, one at a time for one struct staged_image.
 *
 *   ROOT/images/ID/          data image.json; files have mode 0400, the directory 0500
 *   ROOT/overlays/RANDOM/data   what one clone writes; store_collect() removes what no clone has
 *
 * References are counted in memory alone. store_open() counts those of templates and images again, and
 * the caller those of clones before store_collect().
 */
#ifndef STORE_IMAGES_H
#define STORE_IMAGES_H

#include <stdbool.h>

#include "store/store.h"

enum store_image_type { STORE_IMAGE_RAW, STORE_IMAGE_QCOW2 };
extern const char *const store_image_types[]; /* "raw", "qcow2": also what qcow2 headers say */
enum { STORE_ID_CHARS = STORE_DIGEST_HEX, STORE_CHAIN_MAX = 16, STORE_OVERLAY_CHARS = 16 };

struct store_image {
	uint32_t format; /* STORE_FORMAT */
	uint8_t type;    /* enum store_image_type */
	uint64_t bytes;  /* as a guest sees it */
	char *backing;   /* the id of the image behind it; NULL: none */
	struct store_file data;
};
extern const struct field store_image_fields[];

/* An image, as far as whoever opens it must know it. */
struct store_layer {
	char id[STORE_ID_CHARS + 1];
	enum store_image_type type;
	uint64_t bytes;                                 /* as a guest sees it */
	uint64_t data_bytes, inode, mtime_ns, ctime_ns; /* of the file, when it was sealed */
};
/* An image, and those behind it in their order. */
struct store_chain {
	struct store_layer layers[STORE_CHAIN_MAX];
	unsigned n;
};

/* An image on its way: an empty file that the caller fills, or has filled by a VM process. */
struct staged_image;
MUST_CHECK int store_image_stage(struct store *store, struct staged_image **ret, struct err *err);
/* The file, open for reading and writing. It belongs to the struct. Whatever it has at the seal is the image. */
int staged_image_fd(struct staged_image *s);
/* Copies a file or a block device of `bytes`, by reflink where the file system can. `name` is for messages. */
MUST_CHECK int staged_image_import(struct staged_image *s, int fd, uint64_t bytes, const char *name, struct err *err);
/* Makes the file an empty qcow2 image over the chain. */
MUST_CHECK int staged_image_begin(struct staged_image *s, const struct store_chain *behind, struct err *err);
/*
 * Seals the image and publishes it, or finds that the store has it already. The caller has a reference
 * to `ret_id` then; the one to `backing`, an id or NULL, stays the caller's. ERR_CONFLICT: the file is still open for
 * writing after five seconds. On success *s is freed and becomes NULL.
 */
MUST_CHECK int staged_image_seal(struct staged_image **s, enum store_image_type type, uint64_t bytes,
				 const char *backing, char ret_id[STORE_ID_CHARS + 1], struct err *err);
void staged_image_discard(struct staged_image *s); /* NULL is fine */

/* Reads what an image is. Release: fields_free(store_image_fields, ret). ERR_INTERNAL: it is damaged, or not there. */
MUST_CHECK int store_image_read(struct store *store, const char *id, struct store_image *ret, struct err *err);

MUST_CHECK int store_chain_read(struct store *store, const char *id, struct store_chain *ret, struct err *err);
/* Opens a layer for reading. ERR_INTERNAL: inode, size and times are not those that were sealed. */
MUST_CHECK int store_layer_open(struct store *store, const struct store_layer *layer, int *ret_fd, struct err *err);
/* ERR_INTERNAL: there is no such image. */
MUST_CHECK int store_image_ref(struct store *store, const char *id, struct err *err);
/* The last reference removes the image and lets go of the one behind it. What cannot be removed is logged. */
void store_image_unref(struct store *store, const char *id);

/*
 * A file for one clone to write, which begins as the chain: a reflink of it where the file system can and it
 * is one raw image; else an empty qcow2 file over the chain.
 */
struct store_overlay {
	char name[STORE_OVERLAY_CHARS + 1];
	enum store_image_type type; /* STORE_IMAGE_RAW: a reflink */
	char *path;                 /* absolute, on the heap */
	int fd;                     /* open for reading and writing */
};
/* store_overlay_done() releases *ret; the file stays until store_overlay_remove(). */
MUST_CHECK int store_overlay_make(struct store *store, const struct store_chain *chain, struct store_overlay *ret,
				  struct err *err);
void store_overlay_done(struct store_overlay *o);
/*
 * Makes an empty overlay of `bytes` over another one, which nobody is to write any more, though it may
 * be written until the new one is in use.
 */
MUST_CHECK int store_overlay_over(struct store *store, const char *name, enum store_image_type type, uint64_t bytes,
				  struct store_overlay *ret, struct err *err);
/* Opens an overlay for reading. */
MUST_CHECK int store_overlay_open(struct store *store, const char *name, int *ret_fd, struct err *err);
/* Whether a VM has the overlay as the one that it writes. */
bool store_overlay_is_locked(struct store *store, const char *name);
/*
 * Makes an overlay an image, in two steps, so that its owner can note the id before the overlay is gone.
 * store_overlay_seal() does all but publish it, and may be done again. store_overlay_publish() is
 * the end of staged_image_seal(): there is no overlay of that name any more; who has it open has the image, or an equal one.
 */
struct image_facts {
	enum store_image_type type;
	uint64_t bytes;
	const char *backing; /* an id, or NULL */
};
MUST_CHECK int store_overlay_seal(struct store *store, const char *name, const struct image_facts *facts,
				  char ret_id[STORE_ID_CHARS + 1], struct err *err);
MUST_CHECK int store_overlay_publish(struct store *store, const char *name, const char *id, const char *backing,
				     struct err *err);
void store_overlay_remove(struct store *store, const char *name);

/*
 * Removes the images without a reference, and the overlays for which is_used(arg, name) is false. To be
 * called once, when the references of all clones are counted.
 */
void store_collect(struct store *store, bool (*is_used)(void *arg, const char *name), void *arg);

#endif
