// SPDX-License-Identifier: Apache-2.0
/* Finds and deletes clones whose time is over. */
#include "forkd/clone/ttl.h"

#include "common/clock.h"
#include "common/log.h"
#include "forkd/clone/life.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"
#include "forkd/wire/control.h"

enum {
	IDLE_MS = 5000,
	EXITED_KEPT_S = 300,
	EXITED_KEPT_MAX = 1000,
	RETRY_MS = 100, /* after a deletion that failed */
};

/*
 * Finds a clone whose time is over, or the oldest exited clone if more than EXITED_KEPT_MAX have
 * exited; a reference. *ret_next becomes the time of the next clone, if this is sooner.
 */
static struct clone *find_overdue(struct registry *reg, uint64_t now, uint64_t *ret_next, bool *ret_exited)
{
	struct clone *found = NULL, *oldest = NULL;

	pthread_mutex_lock(&reg->lock);
	for (size_t i = 0; i < ARRAY_LEN(reg->buckets) && !found; i++)
		for (struct clone *c = reg->buckets[i]; c && !found; c = c->next) {
			uint64_t due = c->state == CLONE_EXITED ? c->exited_ns + EXITED_KEPT_S * 1000000000ULL
								: c->record.expires_ns;
			bool waits = c->state == CLONE_EXITED || c->state == CLONE_PAUSED || c->state == CLONE_RUNNING;
			if (c->state == CLONE_EXITED && (!oldest || c->exited_ns < oldest->exited_ns))
				oldest = c;
			if (waits && due && due <= now)
				found = c;
			else if (waits && due && due < *ret_next)
				*ret_next = due;
		}
	if (!found && reg->n_exited > EXITED_KEPT_MAX)
		found = oldest;
	if (found)
		clone_ref_locked(found);
	*ret_exited = found && found->state == CLONE_EXITED;
	pthread_mutex_unlock(&reg->lock);
	return found;
}

uint64_t ttl_look(struct forkd *d)
{
	uint64_t now = monotonic_ns(), next = now + IDLE_MS * 1000000ULL;
	struct clone *c;
	bool exited;

	while ((c = find_overdue(d->registry, now, &next, &exited))) {
		struct err err = {};
		int r = 0;
		if (exited)
			registry_remove(d->registry, c); /* only the record of the clone was left */
		else
			r = clone_delete(d, c, &err);
		if (r < 0)
			log_warn("clone %s is over its time: %s", c->record.id, err.msg);
		clone_unref(d->registry, c);
		if (r < 0)
			return now + RETRY_MS * 1000000ULL;
	}
	return next;
}
