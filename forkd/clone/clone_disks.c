// SPDX-License-Identifier: Apache-2.0
/* Makes, hands over and removes the disks of clones. */
#include "forkd/clone/clone_disks.h"

#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "forkd/access/place.h"
#include "forkd/errors.h"
#include "forkd/net/slots.h"
#include "forkd/registry/registry.h"
#include "forkd/template/spare_disks.h"

static void disk_free(struct record_disk *disk)
{
	for (uint32_t i = 0; i < disk->n_overlays; i++)
		free(disk->overlays[i].name);
	free(disk->overlays);
	free(disk->id);
	free(disk->image);
	free(disk->path);
}

/* Notes the overlay in the record, which owns it and a reference to the image from then on. */
static int note(struct forkd *d, const struct ctl_disk *disk, const struct store_overlay *o, const char *image,
		struct record *r, struct err *err)
{
	struct record_disk *more = reallocarray(r->disks, r->n_disks + 1UL, sizeof(*more));
	struct record_disk new = { .id = strdup(disk->id),
				   .overlays = calloc(1, sizeof(*new.overlays)),
				   .image = strdup(image),
				   .path = strdup(o->path) };

	if (more)
		r->disks = more;
	if (new.overlays)
		new.overlays[new.n_overlays++] =
			(struct record_overlay){ .name = strdup(o->name), .type = (uint8_t)o->type };
	bool whole = more && new.id &&new.overlays &&new.overlays[0].name &&new.image &&new.path;
	if (whole && store_image_ref(d->store, image, err) >= 0) {
		r->disks[r->n_disks++] = new;
		return 0;
	}
	disk_free(&new);
	return whole ? err->num : err_num(err, ERR_INTERNAL, ENOMEM, "note disk '%s'", disk->id);
}

int clone_disk_make(struct template_host *host, uint32_t i, struct record *r, struct handover *h, struct err *err)
{
	struct forkd *d = host->d;
	const struct ctl_disk *disk = &host->info.disks[i];
	const struct store_chain *chain = host->chains[i];
	struct store_overlay o = { .fd = -1 };

	if (!spare_disks_take(host, i, &o) && store_overlay_make(d->store, chain, &o, err) < 0)
		return err_wrap(err, "disk '%s'", disk->id);
	int result = note(d, disk, &o, chain->layers[0].id, r, err);
	if (result < 0) {
		store_overlay_remove(d->store, o.name);
	} else {
		const struct handover_image image = { .fd = o.fd,
						      .qcow2 = o.type == STORE_IMAGE_QCOW2,
						      .path = r->disks[r->n_disks - 1].path,
						      .behind = chain };
		result = handover_image(h, d->store, disk->id, &image, err);
	}
	store_overlay_done(&o);
	return result;
}

/*
 * Overlays that have become images, though the daemon that saw to it could not say so any more. Returns whether the
 * disk has a reference to its image.
 */
static bool finish_sealing(struct forkd *d, struct record_disk *disk)
{
	bool held = false;

	while (disk->n_overlays > 1) {
		struct record_overlay *oldest = &disk->overlays[disk->n_overlays - 1];
		struct err none = {};
		if (!oldest->image || store_image_ref(d->store, oldest->image, &none) < 0)
			break;
		if (held)
			store_image_unref(d->store, disk->image);
		held = true;
		store_overlay_remove(d->store, oldest->name);
		free(oldest->name);
		free(disk->image);
		disk->image = oldest->image;
		disk->n_overlays--;
	}
	return held;
}

void clone_disks_found(struct forkd *d, struct record *r)
{
	for (uint32_t i = 0; i < r->n_disks; i++) {
		struct err err = {};
		if (!finish_sealing(d, &r->disks[i]) && store_image_ref(d->store, r->disks[i].image, &err) < 0)
			log_warn("clone %s: disk '%s': %s", r->id, r->disks[i].id, err.msg);
	}
}

/* Whether the disk was there until now. */
static bool drop(struct registry *reg, struct record_disk *disk)
{
	pthread_mutex_lock(&reg->lock);
	bool was_there = !disk->gone;
	disk->gone = true;
	pthread_mutex_unlock(&reg->lock);
	return was_there;
}

void clone_clear(struct forkd *d, struct record *r)
{
	place_clear_clone(d, r);
	slots_give(d->slots, r);
	for (uint32_t i = 0; i < r->n_disks; i++) {
		if (!drop(d->registry, &r->disks[i]))
			continue;
		for (uint32_t k = 0; k < r->disks[i].n_overlays; k++)
			store_overlay_remove(d->store, r->disks[i].overlays[k].name);
		store_image_unref(d->store, r->disks[i].image);
	}
}
