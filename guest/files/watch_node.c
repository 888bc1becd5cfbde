// SPDX-License-Identifier: Apache-2.0
/* The nodes of a tree of watches: a node for each directory, found by its watch descriptor. */
#include <search.h>
#include <string.h>
#include <sys/inotify.h>

#include "guest/files/path.h"
#include "guest/files/watch_private.h"

/* Of all trees. */
static unsigned watched;

static int by_wd(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

unsigned watch_count(void)
{
	return watched;
}

struct node *watch_find(struct watch_tree *t, int wd)
{
	struct node *const *found = tfind(&wd, &t->by_wd, by_wd);

	return found ? *found : NULL;
}

struct node *watch_find_child(const struct node *parent, const char *name)
{
	for (struct node *n = parent->children; n; n = n->next)
		if (strcmp(n->name, name) == 0)
			return n;
	return NULL;
}

void watch_link(struct node *n, struct node *parent)
{
	n->parent = parent;
	if (!parent)
		return;
	n->next = parent->children;
	n->back = &parent->children;
	if (n->next)
		n->next->back = &n->next;
	parent->children = n;
}

void watch_unlink(struct node *n)
{
	if (n->back)
		*n->back = n->next;
	if (n->next)
		n->next->back = n->back;
	n->parent = n->next = NULL;
	n->back = NULL;
}

struct node *watch_node_new(struct watch_tree *t, int wd, const char *name)
{
	autofree struct node *n = calloc(1, sizeof(*n));
	autofree char *copy = strdup(name);

	if (!n || !copy)
		return NULL;
	n->wd = wd;
	if (!tsearch(n, &t->by_wd, by_wd))
		return NULL;
	n->name = steal_ptr(&copy);
	watched++;
	return steal_ptr(&n);
}

void watch_push_new(struct watch_tree *t, struct node *n, bool was_made)
{
	n->is_new = true;
	n->was_made = was_made;
	*t->last_new = n;
	t->last_new = &n->next_new;
}

struct node *watch_pop_new(struct watch_tree *t)
{
	for (struct node *n; (n = t->first_new);) {
		t->first_new = n->next_new;
		if (!t->first_new)
			t->last_new = &t->first_new;
		n->next_new = NULL;
		n->is_new = false;
		if (n->name)
			return n;
		free(n);
	}
	return NULL;
}

void watch_end_look(struct watch_tree *t)
{
	closedir(t->dir);
	t->dir = NULL;
	t->looked_at = NULL;
}

static void free_node(struct watch_tree *t, struct node *n)
{
	watch_unlink(n);
	tdelete(n, &t->by_wd, by_wd);
	if (t->root == n)
		t->root = NULL;
	if (t->moving == n)
		t->moving = NULL;
	if (t->looked_at == n)
		watch_end_look(t);
	watched--;
	free(n->name);
	n->name = NULL;
	if (!n->is_new) /* else watch_pop_new() frees the node */
		free(n);
}

void watch_free_below(struct watch_tree *t, struct node *top)
{
	for (struct node *n = top; n;) {
		while (n->children)
			n = n->children;
		struct node *up = n == top ? NULL : n->parent;
		inotify_rm_watch(t->fd, n->wd);
		free_node(t, n);
		n = up;
	}
}

/* ---- paths ---- */

void watch_path(const struct node *n, const char *name, bool absolute, struct strbuf *out)
{
	const struct node *chain[PATH_BYTES_MAX / 2 + 1];
	size_t depth = 0;

	out->len = 0;
	for (; n && (absolute || n->parent) && depth < ARRAY_LEN(chain); n = n->parent)
		chain[depth++] = n;
	while (depth-- > 0) {
		strbuf_puts(out, chain[depth]->name);
		if (out->len > 0 && out->text[out->len - 1] != '/')
			strbuf_putc(out, '/');
	}
	strbuf_puts(out, name);
	if (name[0] == '\0' && out->len > 1)
		out->text[--out->len] = '\0';
}
