// SPDX-License-Identifier: Apache-2.0
/* The table of clones: find, list, count, wait. */
#include "forkd/registry/registry.h"

#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "forkd/errors.h"

const char *const clone_states[] = { "creating", "paused", "running", "exited", "deleting", NULL };

static struct clone **bucket(struct registry *r, const char *id)
{
	uint32_t hash = 2166136261u; /* FNV-1a */

	for (const char *p = id; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 16777619u;
	return &r->buckets[hash % ARRAY_LEN(r->buckets)];
}

int registry_new(struct registry **ret, struct err *err)
{
	struct registry *r = calloc(1, sizeof(*r));
	pthread_condattr_t attr;

	if (!r)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the registry");
	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->changed, &attr);
	pthread_condattr_destroy(&attr);
	*ret = r;
	return 0;
}

static void clone_free(struct clone *c)
{
	if (c->control.fd >= 0)
		close(c->control.fd);
	if (c->process.fd >= 0)
		close(c->process.fd);
	record_free(&c->record);
	free(c->exit_reason);
	free(c->refusal);
	pthread_mutex_destroy(&c->life);
	pthread_mutex_destroy(&c->talk);
	free(c);
}

void registry_free(struct registry *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < ARRAY_LEN(r->buckets); i++)
		while (r->buckets[i]) {
			struct clone *c = r->buckets[i];
			r->buckets[i] = c->next;
			clone_free(c);
		}
	while (r->templates) {
		struct tmpl *t = r->templates;
		r->templates = t->next;
		pthread_mutex_destroy(&t->host_lock);
		free(t->lacks);
		free(t);
	}
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

struct clone *clone_new(const char *id)
{
	struct clone *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	fields_init(record_fields, &c->record);
	c->record.id = strdup(id);
	c->control = (struct watch){ .fd = -1 };
	c->process = (struct watch){ .fd = -1 };
	c->refs = 1;
	c->version = -1;
	pthread_mutex_init(&c->life, NULL);
	pthread_mutex_init(&c->talk, NULL);
	if (!c->record.id) {
		clone_free(c);
		return NULL;
	}
	return c;
}

struct clone *clone_ref_locked(struct clone *c)
{
	c->refs++;
	return c;
}

void clone_unref(struct registry *r, struct clone *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&r->lock);
	bool last = --c->refs == 0;
	pthread_mutex_unlock(&r->lock);
	if (last)
		clone_free(c);
}

void registry_add(struct registry *r, struct clone *c)
{
	pthread_mutex_lock(&r->lock);
	struct clone **at = bucket(r, c->record.id);
	c->next = *at;
	*at = clone_ref_locked(c);
	c->listed = true;
	r->n++;
	pthread_mutex_unlock(&r->lock);
}

void registry_remove(struct registry *r, struct clone *c)
{
	pthread_mutex_lock(&r->lock);
	bool was = c->listed;
	if (was) {
		struct clone **at = bucket(r, c->record.id);
		while (*at != c)
			at = &(*at)->next;
		*at = c->next;
		c->listed = false;
		r->n--;
		if (c->state == CLONE_EXITED)
			r->n_exited--;
		pthread_cond_broadcast(&r->changed);
	}
	pthread_mutex_unlock(&r->lock);
	if (was)
		clone_unref(r, c);
}

struct clone *registry_find(struct registry *r, const char *id)
{
	pthread_mutex_lock(&r->lock);
	struct clone *c = *bucket(r, id);
	while (c && strcmp(c->record.id, id) != 0)
		c = c->next;
	if (c)
		clone_ref_locked(c);
	pthread_mutex_unlock(&r->lock);
	return c;
}

enum clone_state clone_state(struct registry *r, const struct clone *c)
{
	pthread_mutex_lock(&r->lock);
	enum clone_state state = c->state;
	pthread_mutex_unlock(&r->lock);
	return state;
}

int registry_swap_state_locked(struct registry *r, struct clone *c, unsigned from, enum clone_state to)
{
	int old = c->listed ? (int)c->state : -1;
	if (old >= 0 && (from & 1u << old)) {
		r->n_exited += to == CLONE_EXITED;
		r->n_exited -= old == CLONE_EXITED;
		c->state = to;
		pthread_cond_broadcast(&r->changed);
	}
	return old;
}

int registry_swap_state(struct registry *r, struct clone *c, unsigned from, enum clone_state to)
{
	pthread_mutex_lock(&r->lock);
	int old = registry_swap_state_locked(r, c, from, to);
	pthread_mutex_unlock(&r->lock);
	return old;
}

static bool has_label(const struct clone *c, const struct label *wanted)
{
	for (uint32_t i = 0; i < c->record.n_labels; i++)
		if (strcmp(c->record.labels[i].key, wanted->key) == 0)
			return strcmp(c->record.labels[i].value, wanted->value) == 0;
	return false;
}

static bool matches(const struct clone *c, const struct clone_filter *f)
{
	if ((f->template && strcmp(c->record.template, f->template) != 0) ||
	    (f->state >= 0 && c->state != (enum clone_state)f->state) ||
	    (f->after && strcmp(c->record.id, f->after) <= 0))
		return false;
	for (unsigned i = 0; i < f->n_labels; i++)
		if (!has_label(c, &f->labels[i]))
			return false;
	return true;
}

static int by_id(const void *a, const void *b)
{
	const struct clone *const *x = a, *const *y = b;

	return strcmp((*x)->record.id, (*y)->record.id);
}

int registry_list(struct registry *r, const struct clone_filter *f, struct clone ***ret, unsigned *ret_n,
		  bool *ret_more, struct err *err)
{
	unsigned n = 0;

	pthread_mutex_lock(&r->lock);
	struct clone **list = calloc(r->n + 1UL, sizeof(struct clone *));
	for (size_t i = 0; list && i < ARRAY_LEN(r->buckets); i++)
		for (struct clone *c = r->buckets[i]; c; c = c->next)
			if (matches(c, f))
				list[n++] = c;
	if (list)
		qsort(list, n, sizeof(struct clone *), by_id);
	*ret_more = f->limit && n > f->limit;
	if (*ret_more)
		n = f->limit;
	for (unsigned i = 0; i < n; i++)
		clone_ref_locked(list[i]);
	pthread_mutex_unlock(&r->lock);
	if (!list)
		return err_num(err, ERR_INTERNAL, ENOMEM, "list clones");
	*ret = list;
	*ret_n = n;
	return 0;
}

void clones_unref(struct registry *r, struct clone **clones, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		clone_unref(r, clones[i]);
	free(clones);
}

unsigned registry_count_locked(const struct registry *r, const char *template, struct strbuf *ids)
{
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_LEN(r->buckets); i++)
		for (const struct clone *c = r->buckets[i]; c; c = c->next) {
			if (c->state == CLONE_EXITED || (template && strcmp(c->record.template, template) != 0))
				continue;
			if (ids && n < DEPENDENTS_SHOWN)
				strbuf_printf(ids, "%s%s", n ? ", " : "", c->record.id);
			n++;
		}
	return n;
}

unsigned registry_count(struct registry *r, const char *template)
{
	pthread_mutex_lock(&r->lock);
	unsigned n = registry_count_locked(r, template, NULL);
	pthread_mutex_unlock(&r->lock);
	return n;
}

static bool has_tap(const struct clone *c, const char *tap)
{
	for (uint32_t i = 0; i < c->record.n_net; i++)
		if (c->record.net[i].tap && strcmp(c->record.net[i].tap, tap) == 0)
			return true;
	return false;
}

static const struct clone *tap_owner_locked(const struct registry *r, const char *tap)
{
	for (size_t i = 0; i < ARRAY_LEN(r->buckets); i++)
		for (const struct clone *c = r->buckets[i]; c; c = c->next)
			if (c->state != CLONE_EXITED && has_tap(c, tap))
				return c;
	return NULL;
}

bool registry_has_tap(struct registry *r, const char *tap)
{
	pthread_mutex_lock(&r->lock);
	bool found = tap_owner_locked(r, tap);
	pthread_mutex_unlock(&r->lock);
	return found;
}

bool registry_claim_tap(struct registry *r, struct clone *c, uint32_t net, const char *tap, char *ret_id)
{
	char *copy = strdup(tap);

	pthread_mutex_lock(&r->lock);
	const struct clone *found = ret_id ? tap_owner_locked(r, tap) : NULL;
	if (ret_id)
		snprintf(ret_id, CLONE_ID_CHARS + 1, "%s", found ? found->record.id : "");
	if (!found)
		c->record.net[net].tap = steal_ptr(&copy);
	bool claimed = c->record.net[net].tap;
	pthread_mutex_unlock(&r->lock);
	free(copy);
	return claimed;
}

int registry_wait(struct registry *r, struct clone *c, enum clone_state state, uint64_t deadline_ns,
		  const atomic_bool *stopping, struct err *err)
{
	const struct timespec until = { .tv_sec = (time_t)(deadline_ns / 1000000000),
					.tv_nsec = (long)(deadline_ns % 1000000000) };
	int timed = 0;

	pthread_mutex_lock(&r->lock);
	while (c->listed && c->state != state && c->state != CLONE_EXITED && timed == 0 && !*stopping)
		timed = pthread_cond_timedwait(&r->changed, &r->lock, &until);
	enum clone_state now = c->state;
	bool listed = c->listed;
	pthread_mutex_unlock(&r->lock);
	if (now == state && (listed || state == CLONE_DELETING))
		return 0;
	if (!listed)
		return fail(err, E_NO_CLONE, "clone '%s' was deleted while it was waited for", c->record.id);
	if (now == CLONE_EXITED)
		return fail(err, E_BAD_STATE, "clone '%s' has exited: it will never be %s", c->record.id,
			    clone_states[state]);
	return fail(err, E_TIMEOUT, "clone '%s' is %s, not %s", c->record.id, clone_states[now], clone_states[state]);
}

int registry_wait_identity(struct registry *r, struct clone *c, uint64_t deadline_ns, const atomic_bool *stopping,
			   struct err *err)
{
	const struct timespec until = { .tv_sec = (time_t)(deadline_ns / 1000000000),
					.tv_nsec = (long)(deadline_ns % 1000000000) };
	int timed = 0;

	pthread_mutex_lock(&r->lock);
	while (c->listed && c->record.identity == IDENTITY_PENDING && c->state != CLONE_EXITED && timed == 0 &&
	       !*stopping)
		timed = pthread_cond_timedwait(&r->changed, &r->lock, &until);
	bool pending = c->record.identity == IDENTITY_PENDING, ended = !c->listed || c->state == CLONE_EXITED;
	pthread_mutex_unlock(&r->lock);
	if (!pending)
		return 0;
	return fail(err, ended ? E_BAD_STATE : E_TIMEOUT, "clone '%s' %s not become itself", c->record.id,
		    ended ? "has ended and did" : "has");
}

void registry_exited(struct registry *r, uint32_t pid, int32_t status)
{
	pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < ARRAY_LEN(r->buckets); i++)
		for (struct clone *c = r->buckets[i]; c; c = c->next)
			if (c->record.pid == pid && !c->has_status && c->state != CLONE_EXITED) {
				c->has_status = true;
				c->status = status;
			}
	pthread_mutex_unlock(&r->lock);
}
