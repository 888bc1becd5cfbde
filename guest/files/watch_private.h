// SPDX-License-Identifier: Apache-2.0
/*
 * A tree of watches, as its files see it: watch_node.c has the nodes, watch_tree.c adds directories,
 * watch_events.c reads what the kernel says. The loop's thread.
 */
#ifndef GUEST_FILES_WATCH_PRIVATE_H
#define GUEST_FILES_WATCH_PRIVATE_H

#include <dirent.h>
#include <stdint.h>

#include "common/json64.h"
#include "guest/files/watch_tree.h"

/* A directory that is watched. The root has no parent, and its name is the path. */
struct node {
	int wd; /* first: the key of the search tree */
	struct node *parent, *children, **back, *next;
	struct node *next_new; /* in the list of those that were not looked through */
	bool is_new;           /* in that list */
	bool was_made;         /* while its parent was watched */
	char *name;
};

struct watch_tree {
	int fd;
	bool recursive;
	void *by_wd; /* for tsearch(3) */
	struct node *root, *first_new, **last_new;
	struct node *moving; /* has left its parent, in this batch of events; may come back */
	uint32_t moving_cookie, hidden_cookie;
	bool hidden_is_new;
	void (*report)(void *ctx, enum watch_event event, const char *name);
	void *ctx;
	DIR *dir; /* of the node that is being looked through */
	struct node *looked_at;
	int left; /* of WATCH_TURN in this call */
};

/* watch_node.c */
struct node *watch_find(struct watch_tree *t, int wd);
struct node *watch_find_child(const struct node *parent, const char *name);
/* Directories that all trees watch. */
unsigned watch_count(void);
/* A node in no parent yet. NULL: no memory. */
struct node *watch_node_new(struct watch_tree *t, int wd, const char *name);
/* `parent` NULL: the node is the root. */
void watch_link(struct node *n, struct node *parent);
void watch_unlink(struct node *n);
/* Puts the node into the list of those that are to be looked through. */
void watch_push_new(struct watch_tree *t, struct node *n, bool was_made);
/* The next one of the list; NULL: there is none. */
struct node *watch_pop_new(struct watch_tree *t);
/* Ends the look through t->looked_at. */
void watch_end_look(struct watch_tree *t);
/* Lets go of a directory and of all below it, from the bottom up. */
void watch_free_below(struct watch_tree *t, struct node *top);
/* The path of `name` in the node; relative to the tree's directory, or absolute. */
void watch_path(const struct node *n, const char *name, bool absolute, struct strbuf *out);

/* watch_tree.c */
void watch_report(struct watch_tree *t, const struct node *n, enum watch_event event, const char *name);
/*
 * Watches one more directory; `parent` NULL: the root. -ENOENT, -ENOTDIR …: it is none (any more),
 * which is no error of the tree; err is set for all.
 */
MUST_CHECK int watch_add(struct watch_tree *t, struct node *parent, const char *name, bool was_made, struct err *err);
/* What ends the tree: not that one directory is gone, or may not be watched. */
bool watch_is_fatal(int r, const struct err *err);
/* Looks through new directories, as far as this call goes. 1: some are left. */
MUST_CHECK int watch_look_through(struct watch_tree *t, struct err *err);

#endif
