// SPDX-License-Identifier: Apache-2.0
/*
 * Templates on disk under one root directory. A template appears whole or not at all, is sealed read-only, is described
 * by its manifest.json, and is removed only when nothing refers to it. No thread of its own; every function may be
 * called from any thread (one thread at a time for one struct staged). Nothing here logs but what a clean-up could not
 * remove. A full disk is ERR_INTERNAL with err->num -ENOSPC or -EDQUOT.
 *
 *   ROOT/FORMAT              the store's format version, one number
 *   ROOT/lock                locked by the daemon that uses the store
 *   ROOT/templates/NAME/     config.json memory-ranges state.json manifest.json, files 0400, directory 0500
 *   ROOT/staging/RANDOM/     being written; removed at the next start
 *   ROOT/trash/RANDOM/       being removed; likewise
 *
 * Everything is on disk before the rename into templates/. So a template that lacks its manifest was damaged, not
 * interrupted: it is listed, refused by name, never removed unasked.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdint.h>

#include "common/field.h"

enum { STORE_FORMAT = 1, STORE_NAME_MAX = 64, STORE_CHUNK_BYTES = 2 << 20, STORE_DIGEST_HEX = 64 };
/* Of a snapshot, in the order of manifest.files. */
enum { STORE_CONFIG, STORE_MEMORY, STORE_STATE, STORE_FILES };

struct store_file {
	char *name;                         /* "config.json", "memory-ranges", "state.json" */
	uint64_t bytes;                     /* length */
	uint64_t allocated_bytes;           /* without its holes, as sealed */
	uint64_t inode, mtime_ns, ctime_ns; /* as sealed */
	char **sha256; /* hexadecimal, one for each STORE_CHUNK_BYTES (the last one shorter), holes read as zeros */
	uint32_t n_sha256;
};

struct manifest {
	uint32_t format; /* STORE_FORMAT */
	char *name;
	char *created_at;      /* RFC 3339, UTC */
	char *program_version; /* of the forkd that wrote it */
	char *source;          /* "file:///dir", "vm", "clone:ID" */
	char *parent;          /* template of the clone that it was taken from; NULL: none */
	uint32_t owner_uid; /* with whose rights the paths in its config.json are opened; UINT32_MAX: of nobody here */
	uint64_t ram_bytes;
	uint32_t vcpus;
	char *host_cpu; /* what the host must have, in words: vendor, family/model, TSC rate of the snapshot; NULL: unknown */
	struct store_file *files;
	uint32_t n_files; /* STORE_FILES */
};
extern const struct field manifest_fields[];

struct store;
struct staged; /* a template that is not published yet */

/*
 * Makes ROOT (not its parents) and the layout when there is none, and removes what a crash left in staging/ and
 * trash/. ERR_BUSY: another daemon has it; ERR_INVALID: a format that this program does not know, by number, or a
 * directory with other things in it.
 */
MUST_CHECK int store_open(const char *root, struct store **ret_store, struct err *err);
void store_close(struct store *store); /* after the last staged and the last reference; NULL is fine */

/* ERR_INVALID unless 1..STORE_NAME_MAX of [A-Za-z0-9._-], first a letter or digit. */
MUST_CHECK int store_check_name(const char *name, struct err *err);

/* An empty directory to write a snapshot into. Removed by staged_discard() unless published. */
MUST_CHECK int store_stage(struct store *store, struct staged **ret, struct err *err);
int staged_dir(const struct staged *s); /* its descriptor, owned by it */
const char *staged_path(const struct staged *s);
/*
 * Copies the three files of a snapshot directory into it (reflink where the file system can, holes stay holes, else pages
 * of zeros become holes). Never follows a symlink, takes regular files only. ERR_INVALID: a file is missing, no regular
 * file, empty, too long, memory-ranges no multiple of 4096; ERR_CONFLICT: a file changed meanwhile (inode, size, mtime,
 * ctime). `source` is for messages. On failure discard it.
 */
MUST_CHECK int staged_import(struct staged *s, int source_dir_fd, const char *source, struct err *err);
/*
 * Digests, manifest, modes, fsync. The caller fills name, source, parent, owner_uid, ram_bytes, vcpus, host_cpu of *m, which was
 * fields_init()ed; the rest is filled here. Checks the files as staged_import() does; ERR_CONFLICT when one is still open
 * for writing after five seconds. On failure discard it. The caller releases *m: fields_free(manifest_fields, m).
 */
MUST_CHECK int staged_seal(struct staged *s, struct manifest *m, struct err *err);
/*
 * Renames it into templates/, fsync. `name` is the manifest's. ERR_CONFLICT when it exists. Frees *s on success (sets it
 * NULL).
 */
MUST_CHECK int staged_publish(struct staged **s, const char *name, struct err *err);
void staged_discard(struct staged *s); /* NULL is fine */

/* The names, sorted, as a NULL-terminated heap array of heap strings (store_names_free()). */
MUST_CHECK int store_names(struct store *store, char ***ret_names, struct err *err);
void store_names_free(char **names);
/*
 * Reads and checks the manifest; release with fields_free(manifest_fields, ret). ERR_NOT_FOUND; ERR_INTERNAL: it is
 * damaged or has a format that this program does not know, by number.
 */
MUST_CHECK int store_manifest(struct store *store, const char *name, struct manifest *ret, struct err *err);
/*
 * The directory for use: compares inode, size and times of its files with what was sealed (ERR_INTERNAL when they
 * differ). A reference, until store_release(); the descriptor is the caller's.
 */
MUST_CHECK int store_acquire(struct store *store, const char *name, int *ret_dir_fd, struct err *err);
void store_release(struct store *store, const char *name);
/*
 * ERR_CONFLICT while references exist (a running store_verify() is one), ERR_NOT_FOUND. Gone for every other call, and for the
 * next start, when it returns; its files are removed then (what cannot be is logged, and tried again at the next start).
 */
MUST_CHECK int store_delete(struct store *store, const char *name, struct err *err);
/* Re-reads everything and compares digests: ERR_INTERNAL; the message names the file and the first bad chunk. */
MUST_CHECK int store_verify(struct store *store, const char *name, struct err *err);

#endif
