// SPDX-License-Identifier: Apache-2.0
/*
 * What an image's source (a layer, an archive, a directory) says about one file, and who listens to it. All
 * pointers are the source's, and are there until the listener returns.
 */
#ifndef FORKD_BUILD_ENTRY_H
#define FORKD_BUILD_ENTRY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/err.h"

struct xattr {
	char *name; /* with its prefix: "user.x" */
	void *value;
	uint32_t bytes;
};

struct image_entry {
	const char *path;   /* as the source writes it: not checked yet */
	const char *target; /* text of a symbolic link; path of the file that a hard link is to */
	bool is_hard_link;
	uint32_t mode; /* with the type; of a hard link it means nothing */
	uint32_t uid, gid, major, minor;
	int64_t mtime;
	uint32_t mtime_ns;
	uint64_t size;       /* of a regular file */
	uint64_t data_bytes; /* those of them that are in no hole */
	const struct xattr *xattrs;
	uint32_t n_xattrs;
};

/* Whether the entry has content of its own. Both passes count these, and so find the same ones. */
static inline bool entry_has_content(const struct image_entry *e)
{
	return !e->is_hard_link && S_ISREG(e->mode);
}

struct listener {
	void *arg;
	/* What comes now lies over what came before; `has_whiteouts`: as a layer of OCI. */
	void (*layer)(void *arg, bool has_whiteouts);
	/* 1: its content is wanted, and data() and end() follow; 0: it is not. */
	int (*entry)(void *arg, const struct image_entry *e, struct err *err);
	/* Offsets grow; what is left out is a hole. */
	int (*data)(void *arg, const void *bytes, uint64_t len, uint64_t off, struct err *err);
	int (*end)(void *arg, struct err *err);
};

#endif
