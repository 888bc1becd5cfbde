// SPDX-License-Identifier: Apache-2.0
/*
 * What the Filesystem service says of a file: filesystem.EntryInfo of the Connect API, as JSON. Any
 * thread; a struct names belongs to one.
 */
#ifndef GUEST_FILES_ENTRY_H
#define GUEST_FILES_ENTRY_H

#include <sys/types.h>

#include "common/json64.h"

/* The names of users and groups, as /etc/passwd and /etc/group had them at names_load(). */
struct names {
	struct id_names {
		char *text; /* the file; NULL: there is none, and an id is its own name */
		const char *name;
		size_t name_len; /* of the last id that was asked for; 0: none */
		uint32_t id;
	} users, groups;
};
/* A file that is missing or longer than NAMES_FILE_MAX has no names. */
enum { NAMES_FILE_MAX = 1 << 20 };
void names_load(struct names *names);
void names_done(struct names *names);
#define autonames __attribute__((cleanup(names_done)))

/*
 * Appends the entry of the file at an absolute path as a JSON object. A symbolic link has the type
 * and the mode of what it leads to, or FILE_TYPE_SYMLINK where that is nothing. Returns 0, or -errno
 * of lstat(); then nothing was appended.
 */
MUST_CHECK int entry_json(struct strbuf *out, struct names *names, const char *path);

/* Metadata of files: the extended attributes with this prefix, as many bytes at most in one file. */
#define METADATA_PREFIX "user.e2b."
enum { METADATA_KEY_MAX = 246, METADATA_BYTES_MAX = 4096 };
/* Appends `"metadata":{…},` when the file has any. Does not follow a symbolic link at `path`. */
void entry_metadata(struct strbuf *out, const char *path);
/* Bytes of a file's name as a JSON string; what is no UTF-8 becomes U+FFFD. */
void entry_text(struct strbuf *out, const char *bytes);

#endif
