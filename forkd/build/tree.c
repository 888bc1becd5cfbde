// SPDX-License-Identifier: Apache-2.0
/* The tree's memory: files, their names, and the bounds of both. */
#include "forkd/build/tree.h"

#include <errno.h>
#include <search.h>
#include <string.h>

#include "forkd/build/limits.h"

/* malloc()'s own share of a small block, and the node of tsearch(). */
enum { BLOCK_SHARE = 16, SEARCH_SHARE = 48 };

static int hold(struct tree *tree, uint64_t bytes, struct err *err)
{
	if (bytes > IMAGE_HELD_MAX - tree->held)
		return err_set(err, ERR_INVALID,
			       "the names and attributes of the image need more than %d MiB of memory",
			       IMAGE_HELD_MAX >> 20);
	tree->held += bytes;
	return 0;
}

static int no_memory(struct err *err)
{
	return err_num(err, ERR_INTERNAL, ENOMEM, "hold the image's tree of files");
}

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct name *)a)->text, ((const struct name *)b)->text);
}

struct name *tree_find(const struct node *dir, const char *text)
{
	const struct name key = { .text = text };
	void *found = tfind(&key, &dir->children, compare);

	return found ? *(struct name **)found : NULL;
}

static void free_xattrs(struct tree *tree, struct node *node)
{
	for (uint32_t i = 0; i < node->n_xattrs; i++) {
		tree->held -=
			strlen(node->xattrs[i].name) + node->xattrs[i].bytes + BLOCK_SHARE * 2 + sizeof(struct xattr);
		free(node->xattrs[i].name);
		free(node->xattrs[i].value);
	}
	free(node->xattrs);
	node->xattrs = NULL;
	node->n_xattrs = 0;
}

void tree_free_node(struct tree *tree, struct node *node)
{
	if (!node)
		return;
	free_xattrs(tree, node);
	if (node->target)
		tree->held -= strlen(node->target) + BLOCK_SHARE;
	if (S_ISREG(node->mode) && tree->contents)
		tree->contents[node->content] = NULL;
	tree->data_bytes -= node->data_bytes;
	tree->held -= sizeof(*node) + BLOCK_SHARE;
	free(node->target);
	free(node);
}

static int copy_xattr(struct tree *tree, struct node *node, const struct xattr *from, struct err *err)
{
	if (hold(tree, strlen(from->name) + from->bytes + BLOCK_SHARE * 2 + sizeof(*from), err) < 0)
		return err->num;
	struct xattr *to = &node->xattrs[node->n_xattrs++];
	*to = (struct xattr){ .name = strdup(from->name), .value = malloc(from->bytes + 1), .bytes = from->bytes };
	if (!to->name || !to->value)
		return no_memory(err);
	memcpy(to->value, from->value, from->bytes);
	return 0;
}

int tree_describe(struct tree *tree, struct node *node, const struct image_entry *e, struct err *err)
{
	node->mode = (node->mode & S_IFMT) | (e->mode & 07777);
	node->uid = e->uid;
	node->gid = e->gid;
	node->mtime = e->mtime;
	node->mtime_ns = e->mtime_ns;
	free_xattrs(tree, node);
	node->xattrs = e->n_xattrs ? calloc(e->n_xattrs, sizeof(*node->xattrs)) : NULL;
	if (e->n_xattrs && !node->xattrs)
		return no_memory(err);
	for (uint32_t i = 0; i < e->n_xattrs; i++)
		if (copy_xattr(tree, node, &e->xattrs[i], err) < 0)
			return err->num;
	return 0;
}

static int fill_node(struct tree *tree, struct node *node, const struct image_entry *e, struct err *err)
{
	if (tree_describe(tree, node, e, err) < 0)
		return err->num;
	if (S_ISLNK(node->mode)) {
		if (hold(tree, strlen(e->target) + BLOCK_SHARE, err) < 0)
			return err->num;
		node->target = strdup(e->target);
		if (!node->target)
			return no_memory(err);
		node->size = strlen(e->target);
	}
	if (S_ISBLK(node->mode) || S_ISCHR(node->mode)) {
		node->major = e->major;
		node->minor = e->minor;
	}
	if (!S_ISREG(node->mode))
		return 0;
	node->size = e->size;
	node->data_bytes = e->data_bytes;
	tree->data_bytes += e->data_bytes;
	node->content = tree->n_contents - 1;
	tree->contents[node->content] = node;
	return 0;
}

struct node *tree_new_node(struct tree *tree, uint32_t mode, const struct image_entry *e, struct err *err)
{
	if (hold(tree, sizeof(struct node) + BLOCK_SHARE, err) < 0)
		return NULL;
	struct node *node = calloc(1, sizeof(*node));
	if (!node) {
		no_memory(err);
		return NULL;
	}
	node->mode = mode;
	if (e && fill_node(tree, node, e, err) < 0) {
		tree_free_node(tree, node);
		return NULL;
	}
	return node;
}

static uint64_t name_bytes(const char *text)
{
	return sizeof(struct name) + strlen(text) + 1 + BLOCK_SHARE + SEARCH_SHARE;
}

int tree_link(struct tree *tree, struct node *dir, const char *text, struct node *node, struct err *err)
{
	if (hold(tree, name_bytes(text), err) < 0)
		return err->num;
	autofree struct name *name = malloc(sizeof(*name) + strlen(text) + 1);
	if (!name)
		return no_memory(err);
	name->text = memcpy(name->bytes, text, strlen(text) + 1);
	name->node = node;
	name->layer = tree->layer;
	if (!tsearch(name, &dir->children, compare))
		return no_memory(err);
	steal_ptr(&name);
	node->n_names++;
	dir->n_children++;
	if (!S_ISDIR(node->mode))
		return 0;
	dir->n_dirs++;
	node->parent = dir;
	node->depth = dir->depth + 1;
	return 0;
}

/* ---- taking away ---- */

struct children {
	struct name **names;
	size_t n;
};

static void collect(const void *found, VISIT visit, void *arg)
{
	struct children *c = arg;

	if (visit == postorder || visit == leaf)
		c->names[c->n++] = *(struct name *const *)found;
}

int tree_each(const struct node *dir, int (*fn)(void *arg, struct name *name), void *arg)
{
	autofree struct name **names = calloc(dir->n_children + 1U, sizeof(struct name *));
	struct children c = { .names = names };

	if (!names)
		return -ENOMEM;
	twalk_r(dir->children, collect, &c);
	for (size_t i = 0; i < c.n; i++) {
		int r = fn(arg, names[i]);
		if (r != 0)
			return r;
	}
	return 0;
}

/* Where names are taken away: the children of one directory. */
struct removal {
	struct tree *tree;
	struct node *dir;
};

static int unlink_one(void *arg, struct name *name)
{
	const struct removal *r = arg;

	tree_unlink(r->tree, r->dir, name);
	return 0;
}

void tree_unlink(struct tree *tree, struct node *dir, struct name *name)
{
	struct node *node = name->node;
	struct removal below = { tree, node };

	if (S_ISDIR(node->mode)) {
		(void)tree_each(node, unlink_one, &below);
		dir->n_dirs--;
	}
	tdelete(name, &dir->children, compare);
	dir->n_children--;
	tree->held -= name_bytes(name->text);
	free(name);
	if (--node->n_names == 0)
		tree_free_node(tree, node);
}

static int remove_lower_one(void *arg, struct name *name)
{
	const struct removal *r = arg;

	tree_remove_lower(r->tree, r->dir, name);
	return 0;
}

void tree_empty_lower(struct tree *tree, struct node *dir)
{
	struct removal below = { tree, dir };

	(void)tree_each(dir, remove_lower_one, &below);
}

void tree_remove_lower(struct tree *tree, struct node *dir, struct name *name)
{
	if (S_ISDIR(name->node->mode))
		tree_empty_lower(tree, name->node);
	if (name->layer < tree->layer && name->node->n_children == 0)
		tree_unlink(tree, dir, name);
}

/* ---- the whole ---- */

int tree_init(struct tree *tree, uint64_t data_max, struct err *err)
{
	tree->data_max = data_max;
	tree->root = tree_new_node(tree, S_IFDIR | 0755, NULL, err);
	if (!tree->root)
		return err->num;
	tree->root->parent = tree->root;
	return 0;
}

void tree_done(struct tree *tree)
{
	struct removal below = { tree, tree->root };

	if (tree->root) {
		(void)tree_each(tree->root, unlink_one, &below);
		tree_free_node(tree, tree->root);
	}
	free(tree->contents);
	*tree = (struct tree){};
}

void tree_next_layer(struct tree *tree, bool has_whiteouts)
{
	tree->layer++;
	tree->has_whiteouts = has_whiteouts;
}
