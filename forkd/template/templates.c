// SPDX-License-Identifier: Apache-2.0
/* The table of template names, which is short: a list will do. */
#include "forkd/template/templates.h"

#include <errno.h>
#include <string.h>

#include "forkd/errors.h"

static struct tmpl *find_locked(struct registry *r, const char *name)
{
	struct tmpl *t = r->templates;

	while (t && strcmp(t->name, name) != 0)
		t = t->next;
	return t;
}

static struct tmpl *add_locked(struct registry *r, const char *name, enum tmpl_state state)
{
	struct tmpl *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->state = state;
	t->step = "";
	pthread_mutex_init(&t->host_lock, NULL);
	t->next = r->templates;
	r->templates = t;
	return t;
}

int templates_load(struct registry *r, struct store *store, struct err *err)
{
	char **names = NULL;
	bool ok = true;

	if (store_names(store, &names, err) < 0)
		return err->num;
	pthread_mutex_lock(&r->lock);
	for (char **name = names; *name; name++)
		ok = ok && add_locked(r, *name, TMPL_READY);
	pthread_mutex_unlock(&r->lock);
	store_names_free(names);
	return ok ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "list the templates");
}

int tmpl_reserve(struct registry *r, const char *name, struct tmpl **ret, struct err *err)
{
	int result = 0;

	if (store_check_name(name, err) < 0)
		return fail_as(err, E_BAD_NAME, NULL);
	pthread_mutex_lock(&r->lock);
	const struct tmpl *old = find_locked(r, name);
	if (old)
		result = old->state == TMPL_BUILDING
				 ? fail(err, E_TEMPLATE_BUILDING, "template '%s' is being built already", name)
				 : fail(err, E_TEMPLATE_EXISTS, "template '%s' exists", name);
	else if (!(*ret = add_locked(r, name, TMPL_BUILDING)))
		result = err_num(err, ERR_INTERNAL, ENOMEM, "reserve the name '%s'", name);
	pthread_mutex_unlock(&r->lock);
	return result;
}

void tmpl_step(struct registry *r, struct tmpl *t, const char *step)
{
	pthread_mutex_lock(&r->lock);
	t->step = step;
	pthread_mutex_unlock(&r->lock);
}

void tmpl_ready(struct registry *r, struct tmpl *t)
{
	pthread_mutex_lock(&r->lock);
	t->state = TMPL_READY;
	t->step = "";
	pthread_mutex_unlock(&r->lock);
}

void tmpl_forget(struct registry *r, struct tmpl *t)
{
	pthread_mutex_lock(&r->lock);
	struct tmpl **at = &r->templates;
	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	pthread_mutex_unlock(&r->lock);
	pthread_mutex_destroy(&t->host_lock);
	free(t->lacks);
	free(t);
}

int tmpl_use(struct registry *r, const char *name, struct tmpl **ret, struct err *err)
{
	int result = 0;

	pthread_mutex_lock(&r->lock);
	struct tmpl *t = find_locked(r, name);
	if (!t || t->state == TMPL_DELETING) {
		result = fail(err, E_NO_TEMPLATE, "there is no template '%s'", name);
	} else if (t->state == TMPL_BUILDING) {
		result = fail(err, E_TEMPLATE_BUILDING, "template '%s' is still being built", name);
	} else {
		t->users++;
		*ret = t;
	}
	pthread_mutex_unlock(&r->lock);
	return result;
}

struct tmpl *tmpl_find(struct registry *r, const char *name)
{
	pthread_mutex_lock(&r->lock);
	struct tmpl *t = find_locked(r, name);
	if (t && t->state == TMPL_READY)
		t->users++;
	else
		t = NULL;
	pthread_mutex_unlock(&r->lock);
	return t;
}

void tmpl_unuse(struct registry *r, struct tmpl *t)
{
	pthread_mutex_lock(&r->lock);
	t->users--;
	pthread_mutex_unlock(&r->lock);
}

/*
 * Refuses a template that has clones or users. A clone that is being made counts as a user of the
 * template until the clone is in the registry.
 */
static int check_unused_locked(struct registry *r, const struct tmpl *t, struct err *err)
{
	autostrbuf struct strbuf ids = {};
	unsigned n = registry_count_locked(r, t->name, &ids);

	if (t->state == TMPL_BUILDING)
		return fail(err, E_TEMPLATE_BUILDING, "template '%s' is still being built", t->name);
	if (n > 0)
		return fail(err, E_TEMPLATE_IN_USE, "template '%s' has %u clones: %s%s", t->name, n,
			    ids.text ? ids.text : "", n > DEPENDENTS_SHOWN ? ", …" : "");
	if (t->users > 0)
		return fail(err, E_TEMPLATE_IN_USE, "template '%s' is being used by %u other requests", t->name,
			    t->users);
	return 0;
}

int tmpl_begin_delete(struct registry *r, const char *name, struct tmpl **ret, struct err *err)
{
	int result;

	pthread_mutex_lock(&r->lock);
	struct tmpl *t = find_locked(r, name);
	if (!t || t->state == TMPL_DELETING) {
		result = fail(err, E_NO_TEMPLATE, "there is no template '%s'", name);
	} else if ((result = check_unused_locked(r, t, err)) >= 0) {
		t->state = TMPL_DELETING;
		*ret = t;
	}
	pthread_mutex_unlock(&r->lock);
	return result;
}

void tmpl_set_lacks(struct registry *r, struct tmpl *t, const char *lacks)
{
	pthread_mutex_lock(&r->lock);
	free(t->lacks);
	t->lacks = strdup(lacks);
	pthread_mutex_unlock(&r->lock);
}

char *tmpl_lacks(struct registry *r, const char *name)
{
	pthread_mutex_lock(&r->lock);
	const struct tmpl *t = find_locked(r, name);
	char *lacks = t && t->lacks ? strdup(t->lacks) : NULL;
	pthread_mutex_unlock(&r->lock);
	return lacks;
}

void tmpl_saw_private(struct registry *r, const char *name, uint64_t bytes)
{
	pthread_mutex_lock(&r->lock);
	struct tmpl *t = find_locked(r, name);
	if (t && t->private_bytes < bytes)
		t->private_bytes = bytes;
	pthread_mutex_unlock(&r->lock);
}

uint64_t tmpl_private_at_least(struct registry *r, const struct tmpl *t, uint64_t least)
{
	pthread_mutex_lock(&r->lock);
	uint64_t bytes = t->private_bytes;
	pthread_mutex_unlock(&r->lock);
	return bytes > least ? bytes : least;
}

static int by_name(const void *a, const void *b)
{
	const struct tmpl_info *x = a, *y = b;

	return strcmp(x->name, y->name);
}

int templates_list(struct registry *r, struct tmpl_info **ret, unsigned *ret_n, struct err *err)
{
	unsigned n = 0, i = 0;

	pthread_mutex_lock(&r->lock);
	for (const struct tmpl *t = r->templates; t; t = t->next)
		n++;
	struct tmpl_info *list = calloc(n + 1UL, sizeof(*list));
	for (const struct tmpl *t = r->templates; list && t; t = t->next, i++) {
		memcpy(list[i].name, t->name, sizeof(t->name));
		list[i].state = t->state;
		list[i].step = t->step;
		list[i].lacking = t->lacks != NULL;
	}
	pthread_mutex_unlock(&r->lock);
	if (!list)
		return err_num(err, ERR_INTERNAL, ENOMEM, "list the templates");
	qsort(list, n, sizeof(*list), by_name);
	*ret = list;
	*ret_n = n;
	return 0;
}
