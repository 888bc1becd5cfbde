// SPDX-License-Identifier: Apache-2.0
/* Overlays over overlays, and what becomes of those that nobody writes any more. */
#include "forkd/clone/snapshot_disks.h"

#include <errno.h>
#include <string.h>

#include "forkd/access/place.h"
#include "forkd/errors.h"
#include "forkd/watch/watch.h"
#include "store/images.h"

/* ---- the record ---- */

/* Writes the record for the next daemon. */
static int keep(struct forkd *d, struct clone *c, struct err *err)
{
	autoclose int dir = -1;

	pthread_mutex_lock(&c->talk);
	int r = place_open(d, "clones", c->record.id, &dir, err);
	if (r >= 0)
		r = record_save(&c->record, dir, err);
	if (r >= 0)
		r = record_commit(dir, err);
	watch_end_talk(d->watcher, &c->control, &c->talk);
	return r;
}

/* The record is changed under both: `talk` is held by who saves it, the registry's lock by who shows it. */
static void lock(struct forkd *d, struct clone *c)
{
	pthread_mutex_lock(&c->talk);
	pthread_mutex_lock(&d->registry->lock);
}

static void unlock(struct forkd *d, struct clone *c)
{
	pthread_mutex_unlock(&d->registry->lock);
	watch_end_talk(d->watcher, &c->control, &c->talk);
}

/* Puts an overlay in front of the disk's others. */
static int push(struct forkd *d, struct clone *c, struct record_disk *disk, const struct store_overlay *o,
		struct err *err)
{
	struct record_overlay *more = calloc(disk->n_overlays + 1UL, sizeof(*more)), *was = disk->overlays;
	char *name = strdup(o->name);

	if (!more || !name) {
		free(more);
		free(name);
		return err_num(err, ERR_INTERNAL, ENOMEM, "note disk '%s'", disk->id);
	}
	more[0] = (struct record_overlay){ name, (uint8_t)o->type };
	memcpy(more + 1, was, disk->n_overlays * sizeof(*more));
	lock(d, c);
	disk->overlays = more;
	disk->n_overlays++;
	unlock(d, c);
	free(was);
	return 0;
}

/* Takes overlay `i` out of the record. The caller frees the name. */
static char *take_out(struct forkd *d, struct clone *c, struct record_disk *disk, uint32_t i)
{
	lock(d, c);
	char *name = disk->overlays[i].name;
	disk->n_overlays--;
	memmove(&disk->overlays[i], &disk->overlays[i + 1], (disk->n_overlays - i) * sizeof(*disk->overlays));
	unlock(d, c);
	return name;
}

static void swap_text(struct forkd *d, struct clone *c, char **text, char *with)
{
	lock(d, c);
	char *was = *text;
	*text = with;
	unlock(d, c);
	free(was);
}

/* ---- what nobody writes ---- */

/* A clone has a lock on the overlay that it writes: the newest, unless it never heard of that. */
static void resolve(struct forkd *d, struct clone *c, struct record_disk *disk)
{
	if (disk->n_overlays < 2 || store_overlay_is_locked(d->store, disk->overlays[0].name) ||
	    !store_overlay_is_locked(d->store, disk->overlays[1].name))
		return;
	autofree char *name = take_out(d, c, disk, 0);
	store_overlay_remove(d->store, name);
}

void snapshot_disks_resolve(struct forkd *d, struct clone *c)
{
	for (uint32_t i = 0; i < c->record.n_disks; i++)
		resolve(d, c, &c->record.disks[i]);
}

/* Makes the oldest overlay an image. */
static int seal_one(struct forkd *d, struct clone *c, struct record_disk *disk, uint64_t bytes, struct err *err)
{
	const struct record_overlay *oldest = &disk->overlays[disk->n_overlays - 1];
	bool raw = oldest->type == STORE_IMAGE_RAW;
	char id[STORE_ID_CHARS + 1];
	autofree char *was = strdup(disk->image), *now = malloc(sizeof(id));

	if (!was || !now)
		return err_num(err, ERR_INTERNAL, ENOMEM, "seal disk '%s'", disk->id);
	if (store_overlay_seal(d->store, oldest->name, (enum store_image_type)oldest->type, bytes, raw ? NULL : was, id,
			       err) < 0)
		return err_wrap(err, "disk '%s'", disk->id);
	memcpy(now, id, sizeof(id));
	swap_text(d, c, &disk->image, steal_ptr(&now));
	free(take_out(d, c, disk, disk->n_overlays - 1));
	store_image_unref(d->store, was); /* the new image has a reference of its own, if it is over the old one */
	return 0;
}

/* Makes all but the newest overlay images. */
static int seal_frozen(struct forkd *d, struct clone *c, struct record_disk *disk, struct err *err)
{
	struct store_chain chain;
	bool any = disk->n_overlays > 1;

	if (any && store_chain_read(d->store, disk->image, &chain, err) < 0)
		return err_wrap(err, "disk '%s'", disk->id);
	while (disk->n_overlays > 1)
		if (seal_one(d, c, disk, chain.layers[0].bytes, err) < 0)
			return err->num;
	return any ? keep(d, c, err) : 0;
}

/* ---- a snapshot ---- */

/* Refuses when the template's clones, or this one, would have more files than a chain may have. */
static int check_length(const struct clone *c, const struct record_disk *disk, const struct store_chain *chain,
			struct err *err)
{
	if (disk->overlays[0].type == STORE_IMAGE_RAW || chain->n + 1 < STORE_CHAIN_MAX)
		return 0;
	return fail(
		err, E_BAD_STATE,
		"disk '%s' of clone '%s' has %u images behind it, and may have %d: make a template of a snapshot of it flat (forkctl template flatten), and use its clones",
		disk->id, c->record.id, chain->n, STORE_CHAIN_MAX - 1);
}

/* Lists the new overlay, the one behind it, and the images behind that. */
static int hand_over(struct snapshot_disks *s, struct record_disk *disk, struct store_overlay *o,
		     const struct store_chain *chain, struct err *err)
{
	const struct record_overlay *behind = &disk->overlays[1];
	const struct handover_image image = { .fd = o->fd,
					      .qcow2 = true,
					      .path = o->path,
					      .behind = behind->type == STORE_IMAGE_RAW ? NULL : chain,
					      .frozen = behind };

	return handover_image(&s->fds, s->d->store, disk->id, &image, err);
}

static int begin_one(struct snapshot_disks *s, struct record_disk *disk, char **ret_path, struct err *err)
{
	struct store_overlay o = { .fd = -1 };
	struct store_chain chain;
	struct forkd *d = s->d;

	resolve(d, s->c, disk);
	if (seal_frozen(d, s->c, disk, err) < 0 || store_chain_read(d->store, disk->image, &chain, err) < 0 ||
	    check_length(s->c, disk, &chain, err) < 0)
		return err->num;
	if (store_overlay_over(d->store, disk->overlays[0].name, (enum store_image_type)disk->overlays[0].type,
			       chain.layers[0].bytes, &o, err) < 0)
		return err_wrap(err, "disk '%s'", disk->id);
	int r = push(d, s->c, disk, &o, err);
	if (r < 0)
		store_overlay_remove(d->store, o.name);
	else
		r = hand_over(s, disk, &o, &chain, err);
	*ret_path = steal_ptr(&o.path); /* the request borrows it */
	store_overlay_done(&o);
	return r;
}

int snapshot_disks_begin(struct snapshot_disks *s, struct err *err)
{
	const struct record *r = &s->c->record;

	s->ready = calloc(r->n_disks + 1UL, sizeof(*s->ready));
	if (!s->ready)
		return err_num(err, ERR_INTERNAL, ENOMEM, "snapshot the disks");
	for (; s->n < r->n_disks; s->n++) {
		s->ready[s->n].id = r->disks[s->n].id;
		if (begin_one(s, &r->disks[s->n], &s->ready[s->n].path, err) < 0) {
			s->n++;
			return err->num;
		}
	}
	return s->n > 0 ? keep(s->d, s->c, err) : 0;
}

int snapshot_disks_seal(struct snapshot_disks *s, struct err *err)
{
	struct record *r = &s->c->record;

	handover_done(&s->fds);
	for (uint32_t i = 0; i < s->n; i++) {
		swap_text(s->d, s->c, &r->disks[i].path, steal_ptr(&s->ready[i].path));
		if (seal_frozen(s->d, s->c, &r->disks[i], err) < 0 ||
		    store_image_ref(s->d->store, r->disks[i].image, err) < 0)
			return err->num;
		snprintf(s->ready[i].image, sizeof(s->ready[i].image), "%s", r->disks[i].image);
	}
	return 0;
}

void snapshot_disks_done(struct snapshot_disks *s)
{
	handover_done(&s->fds);
	for (uint32_t i = 0; s->ready && i < s->n; i++) {
		if (s->ready[i].image[0])
			store_image_unref(s->d->store, s->ready[i].image);
		free(s->ready[i].path);
	}
	free(s->ready);
}
