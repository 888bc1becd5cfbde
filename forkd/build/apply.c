// SPDX-License-Identifier: Apache-2.0
/* Puts entries into the tree: files, hard links, and the whiteouts of OCI layers. */
#include <errno.h>
#include <string.h>

#include "forkd/build/limits.h"
#include "forkd/build/tree.h"

#define WHITEOUT ".wh."
#define WHITEOUT_META ".wh..wh." /* of aufs: nothing but the opaque mark means anything */
#define WHITEOUT_OPAQUE ".wh..wh..opq"

static bool is_whiteout(const char *path)
{
	const char *slash = strrchr(path, '/');

	return strncmp(slash ? slash + 1 : path, WHITEOUT, strlen(WHITEOUT)) == 0;
}

/* What is not there need not be taken away: builders write whiteouts for all that was in a directory which is a file now. */
static int whiteout(struct tree *tree, const struct image_entry *e, struct err *err)
{
	char last[IMAGE_NAME_MAX + 1];
	const char *hidden = last + strlen(WHITEOUT);
	struct node *dir;

	if (tree_walk(tree, e->path, false, &dir, last, err) < 0) {
		if (err->code != ERR_NOT_FOUND && err->code != ERR_CONFLICT)
			return err->num;
		*err = (struct err){};
		tree->void_whiteouts++;
		return 0;
	}

	if (strcmp(last, WHITEOUT_OPAQUE) == 0) {
		tree_empty_lower(tree, dir);
		return 0;
	}
	if (strncmp(last, WHITEOUT_META, strlen(WHITEOUT_META)) == 0)
		return 0;
	if (!*hidden || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0)
		return err_set(err, ERR_INVALID, "'%s': a whiteout that names no file", e->path);
	struct name *name = tree_find(dir, hidden);
	if (name)
		tree_remove_lower(tree, dir, name);
	else
		tree->void_whiteouts++;
	return 0;
}

static int link_new(struct tree *tree, struct node *dir, const char *last, const struct image_entry *e, struct err *err)
{
	if (S_ISDIR(e->mode) && dir->depth + 1 > IMAGE_DEPTH_MAX)
		return err_set(err, ERR_INVALID, "'%.60s…': more than %d directories inside each other", e->path,
			       IMAGE_DEPTH_MAX);
	struct node *node = tree_new_node(tree, e->mode, e, err);
	if (!node)
		return err->num;
	if (tree_link(tree, dir, last, node, err) < 0) {
		tree_free_node(tree, node);
		return err->num;
	}
	return 0;
}

/* A directory over a directory is one; whatever else is there goes. */
static int place(struct tree *tree, struct node *dir, const char *last, const struct image_entry *e, struct err *err)
{
	struct name *old = tree_find(dir, last);

	if (old && S_ISDIR(e->mode) && S_ISDIR(old->node->mode)) {
		old->layer = tree->layer;
		return tree_describe(tree, old->node, e, err);
	}
	if (old)
		tree_unlink(tree, dir, old);
	return link_new(tree, dir, last, e, err);
}

static int place_link(struct tree *tree, struct node *dir, const char *last, const struct image_entry *e,
		      struct err *err)
{
	char name[IMAGE_NAME_MAX + 1];
	struct node *there;

	if (tree_walk(tree, e->target, false, &there, name, err) < 0)
		return err_wrap(err, "hard link '%s' to '%s'", e->path, e->target);
	const struct name *to = tree_find(there, name);
	if (!to)
		return err_set(err, ERR_INVALID, "hard link '%s' to '%s': there is no such file", e->path, e->target);
	struct node *node = to->node;
	if (S_ISDIR(node->mode))
		return err_set(err, ERR_INVALID, "hard link '%s' to '%s': a directory", e->path, e->target);
	if (node->n_names >= IMAGE_LINKS_MAX)
		return err_set(err, ERR_INVALID, "hard link '%s' to '%s': a file with more than %d names", e->path,
			       e->target, IMAGE_LINKS_MAX);
	struct name *old = tree_find(dir, last);
	if (old && old->node == node) {
		old->layer = tree->layer;
		return 0;
	}
	if (old && S_ISDIR(old->node->mode)) { /* the file could be below */
		node->n_names++;
		tree_unlink(tree, dir, old);
		if (--node->n_names == 0) {
			tree_free_node(tree, node);
			return err_set(err, ERR_INVALID, "hard link '%s' to '%s', which it replaces", e->path,
				       e->target);
		}
	} else if (old) {
		tree_unlink(tree, dir, old);
	}
	return tree_link(tree, dir, last, node, err);
}

static int check_xattrs(const struct image_entry *e, struct err *err)
{
	uint64_t bytes = 0;

	if (e->n_xattrs > IMAGE_XATTRS_MAX)
		return err_set(err, ERR_INVALID, "'%s': %u extended attributes, more than %d", e->path, e->n_xattrs,
			       IMAGE_XATTRS_MAX);
	for (uint32_t i = 0; i < e->n_xattrs; i++)
		bytes += strlen(e->xattrs[i].name) + e->xattrs[i].bytes;
	if (bytes > IMAGE_XATTR_BYTES_MAX)
		return err_set(err, ERR_INVALID, "'%s': extended attributes of %llu bytes, more than %d", e->path,
			       (unsigned long long)bytes, IMAGE_XATTR_BYTES_MAX);
	return 0;
}

static bool type_is_known(uint32_t mode)
{
	return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISCHR(mode) || S_ISBLK(mode) || S_ISFIFO(mode) ||
	       S_ISSOCK(mode);
}

static int check_entry(const struct image_entry *e, struct err *err)
{
	if ((e->is_hard_link || S_ISLNK(e->mode)) && (!e->target || !*e->target))
		return err_set(err, ERR_INVALID, "'%s': a link to nothing", e->path);
	if (!e->is_hard_link && !type_is_known(e->mode))
		return err_set(err, ERR_INVALID, "'%s': a file of the unknown type 0%o", e->path, e->mode & S_IFMT);
	if (!e->is_hard_link && S_ISLNK(e->mode) && strlen(e->target) > IMAGE_PATH_MAX)
		return err_set(err, ERR_INVALID, "'%s': a symbolic link of %zu bytes, more than %d", e->path,
			       strlen(e->target), IMAGE_PATH_MAX);
	if (entry_has_content(e) && e->size > IMAGE_BYTES_MAX)
		return err_set(err, ERR_INVALID, "'%s' of %llu bytes: a file may have %llu", e->path,
			       (unsigned long long)e->size, IMAGE_BYTES_MAX);
	return check_xattrs(e, err);
}

/* Counts the entry, and gives it a place in the list of contents when it has one. */
static int count_entry(struct tree *tree, const struct image_entry *e, struct err *err)
{
	if (++tree->n_entries > IMAGE_ENTRIES_MAX)
		return err_set(err, ERR_INVALID, "'%s': the image has more than %d entries", e->path,
			       IMAGE_ENTRIES_MAX);
	if (!entry_has_content(e))
		return 0;
	if (tree->n_contents == tree->room_contents) {
		uint64_t room = tree->room_contents ? tree->room_contents * 2 : 1024;
		struct node **more = reallocarray(tree->contents, room, sizeof(struct node *));
		if (!more)
			return err_num(err, ERR_INTERNAL, ENOMEM, "hold %llu files", (unsigned long long)room);
		tree->contents = more;
		tree->room_contents = room;
	}
	tree->contents[tree->n_contents++] = NULL;
	return 0;
}

int tree_apply(struct tree *tree, const struct image_entry *e, struct err *err)
{
	char last[IMAGE_NAME_MAX + 1];
	struct node *dir;

	if (count_entry(tree, e, err) < 0 || check_entry(e, err) < 0)
		return err->num;
	if (tree->has_whiteouts && is_whiteout(e->path))
		return whiteout(tree, e, err);
	if (tree_walk(tree, e->path, true, &dir, last, err) < 0)
		return err->num;
	if (!*last && !e->is_hard_link && S_ISDIR(e->mode))
		return tree_describe(tree, tree->root, e, err);
	if (!*last)
		return err_set(err, ERR_INVALID, "'%s': the root is a directory", e->path);
	if (e->is_hard_link)
		return place_link(tree, dir, last, e, err);
	if (place(tree, dir, last, e, err) < 0)
		return err->num;
	if (tree->data_bytes > tree->data_max)
		return err_set(err, ERR_INVALID,
			       "'%s' of %llu bytes: with it the files have more than the %llu bytes of the image",
			       e->path, (unsigned long long)e->size, (unsigned long long)tree->data_max);
	return 0;
}
