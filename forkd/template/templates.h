// SPDX-License-Identifier: Apache-2.0
/*
 * The names of templates, and who is at work with a template. A name is reserved while the template
 * is built. A template is in use while it is cloned, and TMPL_DELETING while it is deleted. What is
 * on disk belongs to store/; only this daemon changes it.
 */
#ifndef FORKD_TEMPLATE_TEMPLATES_H
#define FORKD_TEMPLATE_TEMPLATES_H

#include "forkd/registry/registry.h"

struct forkd;

/* Adds the names of the templates in the store. */
MUST_CHECK int templates_load(struct registry *r, struct store *store, struct err *err);
/*
 * Reserves a name for a template to be built; tmpl_ready() or tmpl_forget() must follow.
 * E_TEMPLATE_EXISTS, E_TEMPLATE_BUILDING: the name is taken. E_BAD_NAME: the name cannot be a
 * template's.
 */
MUST_CHECK int tmpl_reserve(struct registry *r, const char *name, struct tmpl **ret, struct err *err);
void tmpl_step(struct registry *r, struct tmpl *t, const char *step);
void tmpl_ready(struct registry *r, struct tmpl *t);
/* Removes the name, and frees *t. */
void tmpl_forget(struct registry *r, struct tmpl *t);

/*
 * Takes a template into use; the template stays until tmpl_unuse(). E_NO_TEMPLATE: there is no such
 * template. E_TEMPLATE_BUILDING: the template is not ready yet.
 */
MUST_CHECK int tmpl_use(struct registry *r, const char *name, struct tmpl **ret, struct err *err);
void tmpl_unuse(struct registry *r, struct tmpl *t);
/* The same without a message: NULL for a template that is not ready. */
struct tmpl *tmpl_find(struct registry *r, const char *name);
/*
 * Begins to delete a template that nobody uses: from now on nobody can use the template. The caller
 * deletes and forgets the template, or takes the deletion back with tmpl_ready().
 * E_TEMPLATE_IN_USE: the template has clones or users.
 */
MUST_CHECK int tmpl_begin_delete(struct registry *r, const char *name, struct tmpl **ret, struct err *err);

/*
 * What this machine lacks to run the template's clones, in words. tmpl_set_lacks() copies the text.
 * tmpl_lacks() returns a copy on the heap; NULL: nothing, as far as is known.
 */
void tmpl_set_lacks(struct registry *r, struct tmpl *t, const char *lacks);
char *tmpl_lacks(struct registry *r, const char *name);

/*
 * tmpl_saw_private() tells how much private memory a clone of the template has; the most is kept.
 * tmpl_private_at_least() returns the most that was seen, or `least` if that is more.
 */
void tmpl_saw_private(struct registry *r, const char *name, uint64_t bytes);
uint64_t tmpl_private_at_least(struct registry *r, const struct tmpl *t, uint64_t least);

struct tmpl_info {
	char name[STORE_NAME_MAX + 1];
	enum tmpl_state state;
	const char *step;
	bool lacking; /* tmpl_lacks() says what */
};
/* Lists all templates, sorted by name; *ret is on the heap. */
MUST_CHECK int templates_list(struct registry *r, struct tmpl_info **ret, unsigned *ret_n, struct err *err);

#endif
