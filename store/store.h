// SPDX-License-Identifier: Apache-2.0
/*
 * Templates on disk under one root directory. A template appears whole or not at all, is sealed
 * read-only, is described by its manifest.json, and is removed only when nothing refers to it. The
 * store has no thread of its own. Any thread may call every function, but one thread at a time for
 * one struct staged. Nothing here logs but what a clean-up could not remove. A full disk is
 * ERR_INTERNAL with err->num -ENOSPC or -EDQUOT.
 *
 *   ROOT/FORMAT              the store's format version, one number
 *   ROOT/lock                locked by the daemon that uses the store
 *   ROOT/templates/NAME/     config.json memory-ranges state.json manifest.json; files have mode
 *                            0400, the directory 0500
 *   ROOT/images/, ROOT/overlays/   disks, kernels and what clones write: store/images.h
 *   ROOT/staging/RANDOM/     being written; removed at the next start
 *   ROOT/trash/RANDOM/       being removed; likewise
 *
 * Everything is on disk before the rename into templates/. So a template that lacks its manifest
 * was damaged, not interrupted: it is listed, refused by name, and never removed unasked.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdint.h>
#include <sys/stat.h>

#include "common/field.h"
#include "common/host_needs.h"

enum { STORE_FORMAT = 1, STORE_NAME_MAX = 64, STORE_CHUNK_BYTES = 2 << 20, STORE_DIGEST_HEX = 64 };
#define STORE_FILE_MAX_BYTES (1ULL << 40) /* of guest memory, or of a disk's image */
/* The files of a snapshot, in the order of manifest.files. */
enum { STORE_CONFIG, STORE_MEMORY, STORE_STATE, STORE_FILES };

struct store_file {
	char *name;                         /* "config.json", "memory-ranges", "state.json" */
	uint64_t bytes;                     /* length */
	uint64_t allocated_bytes;           /* what the file takes without its holes, when it was sealed */
	uint64_t inode, mtime_ns, ctime_ns; /* when the file was sealed */
	char **sha256; /* hexadecimal, one for each STORE_CHUNK_BYTES (the last one shorter), holes read as zeros */
	uint32_t n_sha256;
};

struct manifest_disk {
	char *id, *path; /* as in config.json */
	uint64_t bytes;  /* as the guest knows it */
	char *image; /* what each clone's own disk begins as (store/images.h); NULL: all clones share the read-only `path` */
};

/* What a clone of the template boots again when its guest resets: images of the store. */
struct manifest_payload {
	char *kernel, *initramfs; /* initramfs NULL: none */
};

/* The agent in the guest, which waits with all other processes frozen. */
struct manifest_agent {
	char *version;
	uint32_t protocol; /* of its private port */
};

struct manifest {
	uint32_t format; /* STORE_FORMAT */
	char *name;
	char *created_at;      /* RFC 3339, UTC */
	char *program_version; /* of the forkd that wrote it */
	char *source;          /* "file:///dir", "vm", "clone:ID" */
	char *parent;          /* the template of the clone that the snapshot was taken from; NULL: it is of no clone */
	bool secrets;          /* it comes from a clone that was given values which nobody else may see */
	uint32_t owner_uid; /* the user with whose rights the paths in its config.json are opened; UINT32_MAX: nobody's here */
	uint64_t ram_bytes;
	uint32_t vcpus;
	char *host_cpu; /* where it was taken, in words: vendor, family/model, TSC rate of the snapshot; NULL: unknown */
	struct host_needs *needs;     /* what a host must have; NULL: made by an older forkd */
	struct manifest_agent *agent; /* NULL: the guest has none, or was not frozen by it */
	struct manifest_disk *disks;  /* all but those that each clone must bring; made by an older forkd: none */
	uint32_t n_disks;
	struct manifest_payload *payload; /* NULL: a clone ends when its guest resets */
	struct store_file *files;
	uint32_t n_files; /* STORE_FILES */
};
extern const struct field manifest_fields[];

struct store;
struct staged; /* a template that is not published yet */

/*
 * Opens a store. Makes ROOT, but not its parents, and the layout when there is none, and removes
 * what a crash left in staging/ and trash/. ERR_BUSY: another daemon has the store. ERR_INVALID:
 * the store has a format that this program does not know, which the message names, or the directory
 * has other things in it.
 */
MUST_CHECK int store_open(const char *root, struct store **ret_store, struct err *err);
void store_close(struct store *store); /* after the last staged and the last reference; NULL is fine */

/*
 * ERR_INVALID unless the name has 1 to STORE_NAME_MAX of [A-Za-z0-9._-], the first a letter or
 * digit.
 */
MUST_CHECK int store_check_name(const char *name, struct err *err);

/*
 * Makes an empty directory to write a snapshot into. staged_discard() removes the directory, unless
 * it was published.
 */
MUST_CHECK int store_stage(struct store *store, struct staged **ret, struct err *err);
int staged_dir(const struct staged *s); /* its descriptor, which belongs to the struct */
const char *staged_path(const struct staged *s);
/* A file that is to be copied, open for reading, and how it was when it was opened. */
struct store_source {
	int fd;
	struct stat st;
};
/* "config.json", …: in the order of manifest.files. */
extern const char *const snapshot_files[STORE_FILES];
/*
 * Copies the three files of a snapshot into the staged directory: by reflink where the file system
 * can; else holes stay holes and pages of zeros become holes. ERR_INVALID: a file is no regular
 * file, empty or too long, or memory-ranges is no multiple of 4096 bytes. ERR_CONFLICT: a file has
 * changed since it was opened (size, mtime, ctime). `source` is for messages. On failure discard
 * the staged directory.
 */
MUST_CHECK int staged_import(struct staged *s, const struct store_source files[STORE_FILES], const char *source,
			     struct err *err);
/*
 * Seals the snapshot: digests, manifest, modes, fsync. The caller has initialised *m with
 * fields_init() and filled name, source, parent, owner_uid, ram_bytes, vcpus and host_cpu; the rest
 * is filled here. Checks the files as staged_import() does. ERR_CONFLICT: a file is still open for
 * writing after five seconds. On failure discard the staged directory. The caller releases *m:
 * fields_free(manifest_fields, m).
 */
MUST_CHECK int staged_seal(struct staged *s, struct manifest *m, struct err *err);
/*
 * Renames the staged directory into templates/, with fsync. `name` is the manifest's. ERR_CONFLICT:
 * the name exists. On success *s is freed and becomes NULL.
 */
MUST_CHECK int staged_publish(struct staged **s, const char *name, struct err *err);
void staged_discard(struct staged *s); /* NULL is fine */

/*
 * The names of all templates, sorted: a NULL-terminated array on the heap. Release:
 * store_names_free().
 */
MUST_CHECK int store_names(struct store *store, char ***ret_names, struct err *err);
void store_names_free(char **names);
/*
 * Reads and checks a manifest. Release: fields_free(manifest_fields, ret). ERR_NOT_FOUND: there is
 * no such template. ERR_INTERNAL: the manifest is damaged, or has a format that this program does
 * not know, which the message names.
 */
MUST_CHECK int store_manifest(struct store *store, const char *name, struct manifest *ret, struct err *err);
/*
 * Opens a template's directory for use, and takes a reference until store_release(). ERR_INTERNAL:
 * inode, size and times of its files are not those that were sealed. The descriptor is the
 * caller's.
 */
MUST_CHECK int store_acquire(struct store *store, const char *name, int *ret_dir_fd, struct err *err);
void store_release(struct store *store, const char *name);
/*
 * Deletes a template. ERR_CONFLICT: references exist; a running store_verify() is one.
 * ERR_NOT_FOUND: there is no such template. On return the template is gone for every other call,
 * and for the next start. Its files are removed then; what cannot be removed is logged, and tried
 * again at the next start.
 */
MUST_CHECK int store_delete(struct store *store, const char *name, struct err *err);
/*
 * Gives the disks of a template other images with the same bytes, in one rename: images[i] is an id for
 * m->disks[i], or NULL. `m` is what store_manifest() said; its images are changed, too. The caller keeps its references.
 */
MUST_CHECK int store_change_images(struct store *store, struct manifest *m, const char *const *images, struct err *err);
/*
 * Reads a template again and compares digests. ERR_INTERNAL: they differ; the message names the
 * file and the first bad chunk.
 */
MUST_CHECK int store_verify(struct store *store, const char *name, struct err *err);

#endif
