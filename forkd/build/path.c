// SPDX-License-Identifier: Apache-2.0
/*
 * Resolves paths of an image inside its own tree. A path of an entry may go through symbolic links of the image, as
 * container runtimes allow: /lib/x is /usr/lib/x where /lib is a link. Nothing ever leaves the root.
 */
#include <errno.h>
#include <string.h>

#include "forkd/build/limits.h"
#include "forkd/build/tree.h"

enum { REST_BYTES = 2 * (IMAGE_PATH_MAX + 1) };

struct walk {
	struct tree *tree;
	struct node *dir;
	const char *path; /* for messages */
	unsigned hops;
	bool make;
	char rest[REST_BYTES]; /* what is still to go */
};

static int check_path(const char *path, struct err *err)
{
	if (strlen(path) > IMAGE_PATH_MAX)
		return err_set(err, ERR_INVALID, "a path of %zu bytes, '%.60s…': more than %d", strlen(path), path,
			       IMAGE_PATH_MAX);
	for (const char *p = path; *p; p += strspn(p, "/")) {
		size_t n = strcspn(p, "/");
		if (n == 2 && p[0] == '.' && p[1] == '.')
			return err_set(err, ERR_INVALID, "'%s': a path with '..'", path);
		if (n > IMAGE_NAME_MAX)
			return err_set(err, ERR_INVALID, "'%.60s…': a name of %zu bytes, more than %d", p, n,
				       IMAGE_NAME_MAX);
		p += n;
	}
	return 0;
}

/* Takes the next part of the rest, and leaves what follows it. */
static int next_part(struct walk *w, char part[IMAGE_NAME_MAX + 1], struct err *err)
{
	const char *from = w->rest + strspn(w->rest, "/");
	size_t n = strcspn(from, "/");

	if (n > IMAGE_NAME_MAX)
		return err_set(err, ERR_INVALID, "'%s': a symbolic link on the way has a name of %zu bytes", w->path,
			       n);
	memcpy(part, from, n);
	part[n] = '\0';
	from += n;
	from += strspn(from, "/");
	memmove(w->rest, from, strlen(from) + 1);
	return 0;
}

static int make_directory(struct walk *w, const char *part, struct err *err)
{
	if (w->dir->depth + 1 > IMAGE_DEPTH_MAX)
		return err_set(err, ERR_INVALID, "'%.60s…': more than %d directories inside each other", w->path,
			       IMAGE_DEPTH_MAX);
	struct node *node = tree_new_node(w->tree, S_IFDIR | 0755, NULL, err);
	if (!node)
		return err->num;
	if (tree_link(w->tree, w->dir, part, node, err) < 0) {
		tree_free_node(w->tree, node);
		return err->num;
	}
	w->dir = node;
	return 0;
}

static int follow(struct walk *w, const char *target, struct err *err)
{
	char joined[REST_BYTES];
	int n = snprintf(joined, sizeof(joined), "%s/%s", target, w->rest);

	if (++w->hops > IMAGE_HOPS_MAX)
		return err_set(err, ERR_INVALID, "'%s': more than %d symbolic links on the way", w->path,
			       IMAGE_HOPS_MAX);
	if (n < 0 || (size_t)n >= sizeof(joined))
		return err_set(err, ERR_INVALID, "'%.60s…': too long, with the symbolic links on the way", w->path);
	if (target[0] == '/')
		w->dir = w->tree->root;
	memcpy(w->rest, joined, (size_t)n + 1);
	return 0;
}

/* One part of the way down, or of a symbolic link's text. */
static int step(struct walk *w, const char *part, struct err *err)
{
	if (!*part || strcmp(part, ".") == 0)
		return 0;
	if (strcmp(part, "..") == 0) {
		w->dir = w->dir->parent;
		return 0;
	}
	const struct name *name = tree_find(w->dir, part);
	if (!name && w->make)
		return make_directory(w, part, err);
	if (!name)
		return err_set(err, ERR_NOT_FOUND, "'%s': there is no '%s' on the way", w->path, part);
	if (S_ISLNK(name->node->mode))
		return follow(w, name->node->target, err);
	if (!S_ISDIR(name->node->mode))
		return err_set(err, ERR_CONFLICT, "'%s': '%s' on the way is no directory", w->path, part);
	w->dir = name->node;
	return 0;
}

/* Cuts the last part off: the way to it, and itself. "." parts at the end are none. */
static void cut_last(char *path, char last[IMAGE_NAME_MAX + 1])
{
	size_t end = strlen(path), start;

	for (;;) {
		while (end > 0 && path[end - 1] == '/')
			end--;
		for (start = end; start > 0 && path[start - 1] != '/';)
			start--;
		if (end - start != 1 || path[start] != '.')
			break;
		end = start;
	}
	memcpy(last, path + start, end - start);
	last[end - start] = '\0';
	path[start] = '\0';
}

int tree_walk(struct tree *tree, const char *path, bool make, struct node **ret_dir, char *ret_last, struct err *err)
{
	struct walk w = { .tree = tree, .dir = tree->root, .path = path, .make = make };
	char part[IMAGE_NAME_MAX + 1], last[IMAGE_NAME_MAX + 1];

	if (check_path(path, err) < 0)
		return err->num;
	memcpy(w.rest, path, strlen(path) + 1);
	cut_last(w.rest, last);
	while (w.rest[0])
		if (next_part(&w, part, err) < 0 || step(&w, part, err) < 0)
			return err->num;
	*ret_dir = w.dir;
	memcpy(ret_last, last, sizeof(last));
	return 0;
}
