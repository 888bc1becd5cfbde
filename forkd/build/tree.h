// SPDX-License-Identifier: Apache-2.0
/*
 * The image's tree of files in memory, without their content: what the layers, one over the other, come to. All
 * paths of an image are checked and resolved here, and never on the host. One thread.
 */
#ifndef FORKD_BUILD_TREE_H
#define FORKD_BUILD_TREE_H

#include "forkd/build/entry.h"

/* One file, which has one or more names. */
struct node {
	uint32_t mode, uid, gid, major, minor, mtime_ns;
	int64_t mtime;
	uint64_t size, data_bytes;
	uint32_t n_names;       /* a directory has one; the root none */
	uint32_t n_xattrs, ino; /* ino: for who writes the file system */
	char *target;
	struct xattr *xattrs;
	uint64_t content; /* which content of the source it has */
	bool is_written;  /* for who writes the file system, of a file that has no content */
	/* of a directory */
	struct node *parent; /* the root's is the root */
	uint32_t depth, n_children, n_dirs;
	void *children; /* of tsearch(): struct name, in order of its bytes */
};

struct name {
	const char *text;
	struct node *node;
	uint32_t layer; /* the last layer that has an entry of this name */
	char bytes[];
};

struct tree {
	struct node *root;
	struct node **contents; /* [n]: the file with the source's n-th content; NULL: no file has it in the end */
	uint64_t n_contents, room_contents;
	uint64_t n_entries, held, data_bytes; /* data_bytes: of all entries, with what later ones replace */
	uint64_t data_max;                    /* bound for data_bytes of the files that are there */
	uint32_t layer;
	bool has_whiteouts;
	uint64_t void_whiteouts; /* whiteouts of what no layer below has */
};

/* Zeroed before. `data_max`: how many bytes all files may have. */
MUST_CHECK int tree_init(struct tree *tree, uint64_t data_max, struct err *err);
void tree_done(struct tree *tree);
#define autotree __attribute__((cleanup(tree_done)))
/* What comes now lies over what came before. `has_whiteouts`: names that begin with .wh. take away what is below. */
void tree_next_layer(struct tree *tree, bool has_whiteouts);
/* Puts an entry into the tree. ERR_INVALID: the entry cannot be, or a bound is reached; the message names it. */
MUST_CHECK int tree_apply(struct tree *tree, const struct image_entry *e, struct err *err);

/* For the modules of the tree. */

/* The child of that name, or NULL. */
struct name *tree_find(const struct node *dir, const char *text);
/* A new file; with attributes and target of the entry when there is one. NULL: the error is set. */
struct node *tree_new_node(struct tree *tree, uint32_t mode, const struct image_entry *e, struct err *err);
/* What the entry says about the file's owner, mode, time and attributes. */
MUST_CHECK int tree_describe(struct tree *tree, struct node *node, const struct image_entry *e, struct err *err);
/* Gives the file one more name, and takes it over when it has no other. */
MUST_CHECK int tree_link(struct tree *tree, struct node *dir, const char *text, struct node *node, struct err *err);
/* Takes the name away, and with the last name the file and all below it. */
void tree_unlink(struct tree *tree, struct node *dir, struct name *name);
/* Takes away what layers below the present one put there. */
void tree_remove_lower(struct tree *tree, struct node *dir, struct name *name);
void tree_empty_lower(struct tree *tree, struct node *dir);
/* A file's memory, which no name has. */
void tree_free_node(struct tree *tree, struct node *node);
/*
 * Calls fn(arg, name) for each child, in order of the names' bytes. 0, or what the first fn() returned that was not
 * 0. The directory may change meanwhile.
 */
int tree_each(const struct node *dir, int (*fn)(void *arg, struct name *name), void *arg);

/* Resolution of paths (path.c). */

/*
 * Goes to the directory of `path`'s last part, as a process whose root is the image's would: through symbolic links,
 * whose ".." does not leave the root. Missing directories are made when `make` says so. *ret_last has
 * IMAGE_NAME_MAX + 1 bytes, and is empty when the path is the root. ERR_NOT_FOUND: a directory is missing.
 * ERR_CONFLICT: another file is where a directory should be.
 */
MUST_CHECK int tree_walk(struct tree *tree, const char *path, bool make, struct node **ret_dir, char *ret_last,
			 struct err *err);

#endif
