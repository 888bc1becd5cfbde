// SPDX-License-Identifier: Apache-2.0
/*
 * The names of templates and who is at work with them: reserved while one is built, in use while it is cloned, on its way out while it is
 * deleted. What is on disk is store/'s; only this daemon changes it.
 */
#ifndef FORKD_TEMPLATE_TEMPLATES_H
#define FORKD_TEMPLATE_TEMPLATES_H

#include "forkd/registry/registry.h"

struct forkd;

/* Takes the names of the store in. */
MUST_CHECK int templates_load(struct registry *r, struct store *store, struct err *err);
/* A name for a template to be built: E_TEMPLATE_EXISTS, E_TEMPLATE_BUILDING. Ends with tmpl_ready() or tmpl_forget(). */
MUST_CHECK int tmpl_reserve(struct registry *r, const char *name, struct tmpl **ret, struct err *err);
void tmpl_step(struct registry *r, struct tmpl *t, const char *step);
void tmpl_ready(struct registry *r, struct tmpl *t);
/* Removes and frees it. */
void tmpl_forget(struct registry *r, struct tmpl *t);

/* It stays until tmpl_unuse(). E_NO_TEMPLATE; E_TEMPLATE_BUILDING. */
MUST_CHECK int tmpl_use(struct registry *r, const char *name, struct tmpl **ret, struct err *err);
void tmpl_unuse(struct registry *r, struct tmpl *t);
/* The same for one that may be used already, without a message: NULL. */
struct tmpl *tmpl_find(struct registry *r, const char *name);
/* Nobody uses it and nobody will; the caller deletes and forgets it, or takes it back with tmpl_ready(). */
MUST_CHECK int tmpl_begin_delete(struct registry *r, const char *name, struct tmpl **ret, struct err *err);

/* Why its clones cannot run on this host, in words; heap, NULL: they can, as far as is known. */
void tmpl_set_lacks(struct registry *r, struct tmpl *t, const char *lacks);
char *tmpl_lacks(struct registry *r, const char *name);

/* How much private memory one of its clones has; the largest is kept. */
void tmpl_saw_private(struct registry *r, const char *name, uint64_t bytes);
uint64_t tmpl_private_at_least(struct registry *r, const struct tmpl *t, uint64_t least);

struct tmpl_info {
	char name[STORE_NAME_MAX + 1];
	enum tmpl_state state;
	const char *step;
	bool lacking; /* tmpl_lacks() says what */
};
/* All of them, sorted by name; heap. */
MUST_CHECK int templates_list(struct registry *r, struct tmpl_info **ret, unsigned *ret_n, struct err *err);

#endif
