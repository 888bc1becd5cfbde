// SPDX-License-Identifier: Apache-2.0
/* Has a process of forkd-vmm write the image, seals it, and changes the manifest. */
#include "forkd/template/flatten.h"

#include <errno.h>
#include <string.h>

#include "forkd/access/handover.h"
#include "forkd/errors.h"
#include "forkd/template/template_host.h"
#include "forkd/wire/control.h"

enum { FLATTEN_TIMEOUT_MS = 3600000 };

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* What the disks of the manifest get. */
struct flat {
	struct forkd *d;
	struct manifest m;
	char (*ids)[STORE_ID_CHARS + 1]; /* "": the disk stays as it is */
	const char **images;             /* likewise: NULL */
	bool any;
};

/* A host of its own reads the images, which guests have written. */
static int write_raw(struct forkd *d, const struct store_chain *chain, int out_fd, struct err *err)
{
	struct template_host *host = NULL;
	autofree struct handover *h = calloc(1, sizeof(*h));

	if (!h)
		return err_num(err, ERR_INTERNAL, ENOMEM, "flatten an image");
	int r = handover_add(h, CTL_FD_DISK, NULL, out_fd, true, err);
	if (r >= 0)
		r = handover_chain(h, d->store, NULL, chain, err);
	if (r >= 0)
		r = template_host_start(d, "none", -1, 0, &host, err);
	const struct ctl_snapshot request = { .fds = h->kinds + 1, .n_fds = h->n - 1 };
	const struct control_call call = { .op = "flatten",
					   .rows = ctl_snapshot_fields,
					   .obj = &request,
					   .fds = h->fds,
					   .n_fds = h->n,
					   .timeout_ms = FLATTEN_TIMEOUT_MS };
	if (r >= 0)
		r = control_call(host->control.fd, &call, err);
	template_host_stop(host);
	handover_done(h);
	return r;
}

static int flatten_image(struct forkd *d, const struct store_chain *chain, char ret_id[STORE_ID_CHARS + 1],
			 struct err *err)
{
	struct staged_image *image = NULL;

	int r = store_image_stage(d->store, &image, err);
	if (r >= 0)
		r = write_raw(d, chain, staged_image_fd(image), err);
	if (r >= 0 && (uint64_t)lseek(staged_image_fd(image), 0, SEEK_END) != chain->layers[0].bytes)
		r = fail(err, E_INTERNAL, "a guest sees %llu bytes of it, the image says otherwise",
			 (unsigned long long)chain->layers[0].bytes);
	if (r >= 0)
		r = staged_image_seal(&image, STORE_IMAGE_RAW, chain->layers[0].bytes, NULL, ret_id, err);
	staged_image_discard(image);
	return r;
}

static int flatten_disk(struct flat *f, uint32_t i, struct err *err)
{
	struct store_chain chain;
	char id[STORE_ID_CHARS + 1];

	if (!f->m.disks[i].image)
		return 0;
	if (store_chain_read(f->d->store, f->m.disks[i].image, &chain, err) < 0)
		return err->num;
	if (chain.layers[0].type == STORE_IMAGE_RAW)
		return 0;
	if (flatten_image(f->d, &chain, id, err) < 0)
		return err_wrap(err, "disk '%s'", f->m.disks[i].id);
	memcpy(f->ids[i], id, sizeof(id));
	f->images[i] = f->ids[i];
	f->any = true;
	return 0;
}

static int flatten_all(struct flat *f, struct err *err)
{
	f->ids = calloc(f->m.n_disks + 1UL, sizeof(*f->ids));
	f->images = calloc(f->m.n_disks + 1UL, sizeof(*f->images));
	if (!f->ids || !f->images)
		return err_num(err, ERR_INTERNAL, ENOMEM, "flatten template '%s'", f->m.name);
	for (uint32_t i = 0; i < f->m.n_disks; i++)
		if (flatten_disk(f, i, err) < 0)
			return err->num;
	return 0;
}

/* No host may start between the two: it would look for the old images. */
static int change_images(struct flat *f, struct tmpl *t, struct err *err)
{
	pthread_mutex_lock(&t->host_lock);
	int r = store_change_images(f->d->store, &f->m, f->images, err);
	pthread_mutex_unlock(&t->host_lock);
	return r;
}

static int flatten_locked(struct forkd *d, struct tmpl *t, struct err *err)
{
	struct flat f = { .d = d };

	if (store_manifest(d->store, t->name, &f.m, err) < 0)
		return err->num;
	int r = flatten_all(&f, err);
	if (r >= 0 && f.any)
		r = change_images(&f, t, err);
	for (uint32_t i = 0; f.ids && i < f.m.n_disks; i++)
		if (f.ids[i][0])
			store_image_unref(d->store, f.ids[i]);
	free(f.ids);
	free(f.images);
	fields_free(manifest_fields, &f.m);
	if (r >= 0 && f.any)
		tmpl_drop_host(d, t); /* the next one knows the new images */
	return r;
}

int template_flatten(struct forkd *d, struct tmpl *t, struct err *err)
{
	if (pthread_mutex_trylock(&one_at_a_time) != 0) /* this may take long, and takes a thread of the front */
		return fail(err, E_BUSY, "another template is made flat just now");
	int r = flatten_locked(d, t, err);
	pthread_mutex_unlock(&one_at_a_time);
	return r;
}
