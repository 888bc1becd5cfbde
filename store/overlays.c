// SPDX-License-Identifier: Apache-2.0
/* The files that clones write, each begun as an image of the store. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/log.h"
#include "common/qcow2.h"
#include "store/store_internal.h"

enum { SECTOR_BYTES = 512 };

void store_overlay_done(struct store_overlay *o)
{
	auto_close_p(&o->fd);
	o->fd = -1;
	free(steal_ptr(&o->path));
}

/* 1: the file is a copy of the image. 0: this file system cannot. */
static int reflink(struct store *s, const struct store_layer *image, int fd, struct err *err)
{
	autoclose int from = -1;

	if (store_layer_open(s, image, &from, err) < 0)
		return err->num;
	return ioctl(fd, FICLONE, from) == 0;
}

/* The name of the image behind it is for other programs: forkd hands over descriptors. */
int overlay_begin(int fd, const struct store_chain *behind, struct err *err)
{
	const struct store_layer *top = &behind->layers[0];
	char backing[STORE_ID_CHARS + 32];

	snprintf(backing, sizeof(backing), "../../images/%s/data", top->id);
	return qcow2_create(fd, top->bytes / SECTOR_BYTES * SECTOR_BYTES, backing, store_image_types[top->type], err);
}

static int fill(struct store *s, const struct store_chain *chain, struct store_overlay *o, struct err *err)
{
	const struct store_layer *top = &chain->layers[0];

	int r = chain->n == 1 && top->type == STORE_IMAGE_RAW ? reflink(s, top, o->fd, err) : 0;
	o->type = r == 1 ? STORE_IMAGE_RAW : STORE_IMAGE_QCOW2;
	return r != 0 ? r : overlay_begin(o->fd, chain, err);
}

static int make(struct store *s, const struct store_chain *chain, struct store_overlay *o, struct err *err)
{
	_Static_assert(sizeof(o->name) == RANDOM_NAME, "a random name fits");
	autoclose int dir_fd = -1;

	if (layout_make_dir(s->overlays_fd, o->name, &dir_fd, err) < 0)
		return err->num;
	if (asprintf(&o->path, "%s/overlays/%s/data", s->root, o->name) < 0) {
		o->path = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "make an overlay");
	}
	o->fd = openat(dir_fd, "data", O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (o->fd < 0)
		return err_sys(err, ERR_INTERNAL, "create '%s'", o->path);
	return fill(s, chain, o, err) < 0 ? err_wrap(err, "make '%s'", o->path) : 0;
}

int store_overlay_make(struct store *s, const struct store_chain *chain, struct store_overlay *ret, struct err *err)
{
	struct store_overlay o = { .fd = -1 };

	if (make(s, chain, &o, err) < 0) {
		if (o.name[0])
			store_overlay_remove(s, o.name);
		store_overlay_done(&o);
		return err->num;
	}
	*ret = o;
	return 0;
}

void store_overlay_remove(struct store *s, const char *name)
{
	char line[ERR_MSG_BYTES];
	struct err err = {};

	if (strspn(name, "0123456789abcdef") != STORE_OVERLAY_CHARS || name[STORE_OVERLAY_CHARS])
		return; /* no name of an overlay */
	if (layout_remove(s->overlays_fd, name, &err) < 0)
		log_warn("store '%s': left in overlays: %s", s->root, err_line(&err, line, sizeof(line)));
}

/* Whether a VM has the overlay: one that another daemon made, perhaps, with this store and another runtime directory. */
static bool is_locked(struct store *s, const char *name)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char path[STORE_OVERLAY_CHARS + sizeof("/data")];

	if (snprintf(path, sizeof(path), "%s/data", name) >= (int)sizeof(path))
		return false;
	autoclose int fd = openat(s->overlays_fd, path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

void store_collect(struct store *s, bool (*is_used)(void *arg, const char *name), void *arg)
{
	autodir DIR *d = layout_list(s->overlays_fd);

	for (const struct dirent *e; d && (e = layout_next(d));)
		if (is_used(arg, e->d_name))
			continue;
		else if (is_locked(s, e->d_name))
			log_warn("store '%s': a VM that is not known here has the overlay %s", s->root, e->d_name);
		else
			store_overlay_remove(s, e->d_name);
	images_collect(s);
}
