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
	bool whole = more && name;

	lock(d, c);
	bool gone = disk->gone;
	if (whole && !gone) {
		more[0] = (struct record_overlay){ .name = name, .type = (uint8_t)o->type };
		memcpy(more + 1, was, disk->n_overlays * sizeof(*more));
		disk->overlays = more;
		disk->n_overlays++;
	}
	unlock(d, c);
	if (whole && !gone) {
		free(was);
		return 0;
	}
	free(more);
	free(name);
	return gone ? fail(err, E_CLONE_DIED, "clone '%s' has ended", c->record.id)
		    : err_num(err, ERR_INTERNAL, ENOMEM, "note disk '%s'", disk->id);
}

/* The caller holds the locks. The overlay's name is the caller's to free. */
static char *take_out_locked(struct record_disk *disk, uint32_t i)
{
	char *name = disk->overlays[i].name;

	free(disk->overlays[i].image);
	disk->n_overlays--;
	memmove(&disk->overlays[i], &disk->overlays[i + 1], (disk->n_overlays - i) * sizeof(*disk->overlays));
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
	lock(d, c);
	autofree char *name = disk->gone ? NULL : take_out_locked(disk, 0);
	unlock(d, c);
	if (name)
		store_overlay_remove(d->store, name);
}

void snapshot_disks_resolve(struct forkd *d, struct clone *c)
{
	for (uint32_t i = 0; i < c->record.n_disks; i++)
		resolve(d, c, &c->record.disks[i]);
}

/* Notes what the oldest overlay is about to become, also for the next daemon. */
static int note_image(struct forkd *d, struct clone *c, struct record_disk *disk, const char *id, struct err *err)
{
	char *copy = strdup(id);

	if (!copy)
		return err_num(err, ERR_INTERNAL, ENOMEM, "seal disk '%s'", disk->id);
	swap_text(d, c, &disk->overlays[disk->n_overlays - 1].image, copy);
	return keep(d, c, err);
}

/*
 * The oldest overlay is the image `id` now, to which the caller has a reference: the disk takes that over, and lets go of
 * what stood behind the overlay. A disk that is gone has let go of that already.
 */
static void became_image(struct forkd *d, struct clone *c, struct record_disk *disk, char *id)
{
	lock(d, c);
	bool gone = disk->gone;
	autofree char *let_go = gone ? id : disk->image;
	autofree char *name = NULL;
	if (!gone) {
		disk->image = id;
		name = take_out_locked(disk, disk->n_overlays - 1);
	}
	unlock(d, c);
	store_image_unref(d->store, let_go);
}

/* Makes the oldest overlay an image. */
static int seal_one(struct forkd *d, struct clone *c, struct record_disk *disk, uint64_t bytes, struct err *err)
{
	const struct record_overlay *oldest = &disk->overlays[disk->n_overlays - 1];
	const struct image_facts facts = { (enum store_image_type)oldest->type, bytes,
					   oldest->type == STORE_IMAGE_RAW ? NULL : disk->image };
	char id[STORE_ID_CHARS + 1];
	autofree char *copy = malloc(sizeof(id));

	if (!copy)
		return err_num(err, ERR_INTERNAL, ENOMEM, "seal disk '%s'", disk->id);
	if (store_overlay_seal(d->store, oldest->name, &facts, id, err) < 0 || note_image(d, c, disk, id, err) < 0 ||
	    store_overlay_publish(d->store, oldest->name, id, facts.backing, err) < 0)
		return err_wrap(err, "disk '%s'", disk->id);
	memcpy(copy, id, sizeof(id));
	became_image(d, c, disk, steal_ptr(&copy));
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
