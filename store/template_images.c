// SPDX-License-Identifier: Apache-2.0
/*
 * The images that one template refers to: those of its disks, and those that its clones boot again.
 */
#include "store/store_internal.h"

uint32_t images_places(const struct manifest *m)
{
	return m->n_disks + (m->payload ? 2 : 0);
}

const char *images_at(const struct manifest *m, uint32_t place)
{
	if (place < m->n_disks)
		return m->disks[place].image;
	return place == m->n_disks ? m->payload->kernel : m->payload->initramfs;
}

/* Names the image for messages. */
static int wrap_place(const struct manifest *m, uint32_t place, struct err *err)
{
	if (place < m->n_disks)
		return err_wrap(err, "disk '%s'", m->disks[place].id);
	return err_wrap(err, "%s", place == m->n_disks ? "kernel" : "initramfs");
}

static void unref_first(struct store *s, const struct manifest *m, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (images_at(m, i))
			store_image_unref(s, images_at(m, i));
}

void images_unref_all(struct store *s, const struct manifest *m)
{
	unref_first(s, m, images_places(m));
}

int images_ref_all(struct store *s, const struct manifest *m, struct err *err)
{
	for (uint32_t i = 0; i < images_places(m); i++)
		if (images_at(m, i) && store_image_ref(s, images_at(m, i), err) < 0) {
			unref_first(s, m, i);
			return wrap_place(m, i, err);
		}
	return 0;
}

int images_check(struct store *s, const struct manifest *m, check_file_fn *check, struct err *err)
{
	for (uint32_t i = 0; i < images_places(m); i++)
		if (images_at(m, i) && image_check_chain(s, images_at(m, i), check, err) < 0)
			return wrap_place(m, i, err);
	return 0;
}
