// SPDX-License-Identifier: Apache-2.0
/*
 * Writes an ext4 file system into a regular file, through libext2fs: nothing is mounted, and no privilege is needed.
 * The same tree with the same contents, size and seed becomes the same bytes. One thread.
 */
#ifndef FORKD_BUILD_EXT4_H
#define FORKD_BUILD_EXT4_H

#include <ext2fs/ext2fs.h>

#include "forkd/build/tree.h"

enum { EXT4_BLOCK = 4096, EXT4_SEED = 32, EXT4_LIST = 340 };

/* What the file system needs room for, and what it is to be. */
struct ext4_plan {
	uint64_t blocks; /* of the files, their directories and attributes */
	uint64_t inodes;
	uint64_t bytes;                /* of the file system */
	unsigned char seed[EXT4_SEED]; /* UUID and hash seed come from it */
};

struct ext4 {
	ext2_filsys fs;
	uint64_t bytes;
	ext2_ino_t next_ino;
	/* the file that is being written */
	ext2_file_t file;
	struct node *node;
};
#define autoext4 __attribute__((cleanup(ext4_abort)))

/*
 * Counts what the tree needs. `bytes` is the size of the file system; 0: what is needed, with a quarter more, and 256 MiB at
 * least. ERR_INVALID: the tree does not fit, or the size cannot be.
 */
MUST_CHECK int ext4_plan(struct tree *tree, uint64_t bytes, struct ext4_plan *plan, struct err *err);
/* Makes an empty file system in `fd`, an empty regular file that can be read and written; `fd` stays the caller's. */
MUST_CHECK int ext4_create(struct ext4 *e, int fd, const struct ext4_plan *plan, struct err *err);
/* Gives each file of the tree its inode, and writes all but the content of regular files. */
MUST_CHECK int ext4_write_tree(struct ext4 *e, struct tree *tree, struct err *err);
/* The content of one regular file of the tree: begin, data with growing offsets, end. */
MUST_CHECK int ext4_file_begin(struct ext4 *e, struct node *node, struct err *err);
MUST_CHECK int ext4_file_data(struct ext4 *e, const void *bytes, uint64_t len, uint64_t off, struct err *err);
MUST_CHECK int ext4_file_end(struct ext4 *e, struct err *err);
/* Writes what is left and lets go of the file system. */
MUST_CHECK int ext4_finish(struct ext4 *e, struct err *err);
/* Lets go of it as it is. */
void ext4_abort(struct ext4 *e);

/* For the modules of ext4. */

MUST_CHECK int ext4_failed(const struct ext4 *e, errcode_t code, struct err *err, const char *fmt, ...)
	PRINTF_LIKE(4, 5);
/* Writes the node's inode: owner, mode, times, and whatever else of `inode` is set already. */
MUST_CHECK int ext4_put_inode(struct ext4 *e, const struct node *node, struct ext2_inode_large *inode, struct err *err);
MUST_CHECK int ext4_put_xattrs(struct ext4 *e, const struct node *node, struct err *err);
/* Writes the directory's blocks; its children have their inodes. */
MUST_CHECK int ext4_put_directory(struct ext4 *e, const struct node *dir, struct err *err);

#endif
