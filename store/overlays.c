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

static int make_file(struct store *s, struct store_overlay *o, struct err *err)
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
	return o->fd < 0 ? err_sys(err, ERR_INTERNAL, "create '%s'", o->path) : 0;
}

/* `r`: whether it could be made. */
static int made(struct store *s, int r, struct store_overlay *o, struct store_overlay *ret, struct err *err)
{
	if (r >= 0) {
		*ret = *o;
		return 0;
	}
	if (o->path)
		err_wrap(err, "make '%s'", o->path);
	if (o->name[0])
		store_overlay_remove(s, o->name);
	store_overlay_done(o);
	return err->num;
}

int store_overlay_make(struct store *s, const struct store_chain *chain, struct store_overlay *ret, struct err *err)
{
	struct store_overlay o = { .fd = -1 };
	int r = make_file(s, &o, err);

	return made(s, r < 0 ? r : fill(s, chain, &o, err), &o, ret, err);
}

int store_overlay_over(struct store *s, const char *name, enum store_image_type type, uint64_t bytes,
		       struct store_overlay *ret, struct err *err)
{
	struct store_overlay o = { .fd = -1, .type = STORE_IMAGE_QCOW2 };
	char backing[64];
	int r = make_file(s, &o, err);

	snprintf(backing, sizeof(backing), "../../overlays/%s/data", name);
	return made(
		s,
		r < 0 ? r
		      : qcow2_create(o.fd, bytes / SECTOR_BYTES * SECTOR_BYTES, backing, store_image_types[type], err),
		&o, ret, err);
}

static bool is_overlay(const char *name)
{
	return strspn(name, "0123456789abcdef") == STORE_OVERLAY_CHARS && !name[STORE_OVERLAY_CHARS];
}

void store_overlay_remove(struct store *s, const char *name)
{
	char line[ERR_MSG_BYTES];
	struct err err = {};

	if (is_overlay(name) && layout_remove(s->overlays_fd, name, &err) < 0)
		log_warn("store '%s': left in overlays: %s", s->root, err_line(&err, line, sizeof(line)));
}

static int open_data(struct store *s, const char *name, int flags)
{
	char path[STORE_OVERLAY_CHARS + sizeof("/data")];

	if (!is_overlay(name))
		return -1;
	snprintf(path, sizeof(path), "%s/data", name);
	return openat(s->overlays_fd, path, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

int store_overlay_open(struct store *s, const char *name, int *ret_fd, struct err *err)
{
	int fd = open_data(s, name, O_RDONLY);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "open overlay '%.32s'", name);
	*ret_fd = fd;
	return 0;
}

bool store_overlay_is_locked(struct store *s, const char *name)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	autoclose int fd = open_data(s, name, O_RDONLY);

	return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static bool names_backing(struct store *s, const char *name, const char *backing)
{
	autoclose int fd = open_data(s, name, O_RDONLY);
	struct qcow2_header h;
	struct err ignored = {};
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && qcow2_read_header(fd, (uint64_t)st.st_size, name, &h, &ignored) == 0 &&
	       strcmp(h.backing, backing) == 0;
}

/* The name of what is behind it was another one while it was written. */
static int rename_backing(struct store *s, const char *name, const char *backing, struct err *err)
{
	char path[STORE_ID_CHARS + 32];
	struct store_image image;

	if (store_image_read(s, backing, &image, err) < 0)
		return err->num;
	const char *type = store_image_types[image.type];
	fields_free(store_image_fields, &image);
	snprintf(path, sizeof(path), "../../images/%s/data", backing);
	if (names_backing(s, name, path))
		return 0;
	autoclose int fd = open_data(s, name, O_RDWR);
	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "open overlay '%.32s'", name);
	return qcow2_rename_backing(fd, path, type, err);
}

int store_overlay_seal(struct store *s, const char *name, const struct image_facts *facts,
		       char ret_id[STORE_ID_CHARS + 1], struct err *err)
{
	if (!is_overlay(name))
		return err_set(err, ERR_INTERNAL, "'%.32s' is no overlay's name", name);
	if ((facts->backing && rename_backing(s, name, facts->backing, err) < 0) ||
	    image_seal_dir(s, s->overlays_fd, name, facts, ret_id, err) < 0)
		return err_wrap(err, "overlay '%s'", name);
	return 0;
}

int store_overlay_publish(struct store *s, const char *name, const char *id, const char *backing, struct err *err)
{
	return image_publish_dir(s, s->overlays_fd, name, id, backing, err) < 0 ? err_wrap(err, "overlay '%s'", name)
										: 0;
}

/* An overlay that a VM has though no clone here has it: one of another daemon, with this store and another runtime directory. */
void store_collect(struct store *s, bool (*is_used)(void *arg, const char *name), void *arg)
{
	autodir DIR *d = layout_list(s->overlays_fd);

	for (const struct dirent *e; d && (e = layout_next(d));)
		if (is_used(arg, e->d_name))
			continue;
		else if (store_overlay_is_locked(s, e->d_name))
			log_warn("store '%s': a VM that is not known here has the overlay %s", s->root, e->d_name);
		else
			store_overlay_remove(s, e->d_name);
	images_collect(s);
}
