// SPDX-License-Identifier: Apache-2.0
/* From the images that a VmConfig names to those of a template. */
#include "forkd/template/build_disks.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "forkd/errors.h"

struct written_disk {
	struct staged_image *image; /* NULL: the template gets no image of this disk */
	struct store_chain behind;
};

void build_disks_done(struct build_disks *b)
{
	for (uint32_t i = 0; b->all && i < b->n; i++) {
		staged_image_discard(b->all[i].image);
		if (b->all[i].behind.n > 0)
			store_image_unref(b->d->store, b->all[i].behind.layers[0].id);
	}
	for (uint32_t i = 0; b->ready && i < b->n; i++)
		if (b->ready[i].image[0])
			store_image_unref(b->d->store, b->ready[i].image);
	free(b->all);
	free(b->ready);
	*b = (struct build_disks){};
}

static int stage(struct forkd *d, struct vm_disk *from, struct handover *h, struct written_disk *to, struct err *err)
{
	if (disk_source_stage(d, from->source, &to->image, &to->behind, err) < 0)
		return err->num;
	disk_source_free(steal_ptr(&from->source)); /* others may use the files again */
	const struct handover_image image = { .fd = staged_image_fd(to->image),
					      .qcow2 = to->behind.n > 0,
					      .behind = &to->behind };
	return handover_image(h, d->store, from->id, &image, err);
}

int build_disks_stage(struct forkd *d, struct vm_needs *needs, struct build_disks *ret, struct err *err)
{
	*ret = (struct build_disks){ .d = d,
				     .all = calloc(needs->n_disks + 1UL, sizeof(*ret->all)),
				     .ready = calloc(needs->n_disks + 1UL, sizeof(*ret->ready)),
				     .n = needs->n_disks };
	if (!ret->all || !ret->ready)
		return err_num(err, ERR_INTERNAL, ENOMEM, "copy the disks");
	for (uint32_t i = 0; i < needs->n_disks; i++)
		if (needs->disks[i].source && stage(d, &needs->disks[i], &needs->fds, &ret->all[i], err) < 0)
			return err_wrap(err, "vm.disks[%u]", i);
	return 0;
}

static int seal(struct written_disk *disk, struct ready_disk *ret, struct err *err)
{
	const struct store_layer *behind = disk->behind.n > 0 ? &disk->behind.layers[0] : NULL;
	char id[STORE_ID_CHARS + 1];
	struct stat st;

	if (fstat(staged_image_fd(disk->image), &st) < 0)
		return err_sys(err, ERR_INTERNAL, "look at the image");
	if (staged_image_seal(&disk->image, behind ? STORE_IMAGE_QCOW2 : STORE_IMAGE_RAW,
			      behind ? behind->bytes : (uint64_t)st.st_size, behind ? behind->id : NULL, id, err) < 0)
		return err->num;
	memcpy(ret->image, id, sizeof(id));
	return 0;
}

int build_disks_seal(struct build_disks *b, struct err *err)
{
	for (uint32_t i = 0; i < b->n; i++)
		if (b->all[i].image && seal(&b->all[i], &b->ready[i], err) < 0)
			return err_wrap(err, "vm.disks[%u]", i);
	return 0;
}
