// SPDX-License-Identifier: Apache-2.0
/* Opens, checks and copies the files of a disk's image. */
#include "forkd/template/disk_source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "forkd/access/handover.h"
#include "forkd/access/image_header.h"
#include "forkd/access/policy.h"
#include "forkd/errors.h"

enum { FILES_MAX = STORE_CHAIN_MAX - 2 }; /* a template's own layer and a clone's come in front */

struct source_file {
	int fd;
	char *path;
	enum store_image_type type;
	uint64_t file_bytes, bytes; /* bytes: as a guest sees it */
	struct stat st;
};

struct disk_source {
	struct source_file files[FILES_MAX]; /* the image, and what is behind it, in order */
	unsigned n;
};

void disk_source_free(struct disk_source *s)
{
	for (unsigned i = 0; s && i < s->n; i++) {
		auto_close_p(&s->files[i].fd);
		free(s->files[i].path);
	}
	free(s);
}

/* ---- open ---- */

/* Keeps VMs from writing the file while it is copied, and refuses one that a VM writes. */
static int lock_file(const struct source_file *f, struct err *err)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	if (fcntl(f->fd, F_OFD_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES))
		return fail(err, E_CONFLICT, "'%s' is locked by another VM, which may write it: end that VM first",
			    f->path);
	return 0;
}

static int open_file(const struct forkd *d, const struct caller *who, const char *path, struct source_file *f,
		     struct err *err)
{
	if (policy_open(d->policy, who, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, &f->fd, err) < 0)
		return err->num;
	f->path = strdup(path);
	if (!f->path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open '%s'", path);
	if (handover_check_disk(f->fd, path, 0, err) < 0 || lock_file(f, err) < 0)
		return err->num;
	off_t bytes = lseek(f->fd, 0, SEEK_END);
	if (bytes < 0 || fstat(f->fd, &f->st) < 0)
		return err_sys(err, ERR_INTERNAL, "look at '%s'", path);
	f->file_bytes = f->bytes = (uint64_t)bytes;
	return bytes > 0 ? 0 : fail(err, E_INVALID, "'%s' is empty", path);
}

static int type_behind(const char *path, const struct qcow2_header *h, enum store_image_type *ret, struct err *err)
{
	for (unsigned i = 0; store_image_types[i]; i++)
		if (strcmp(h->backing_format, store_image_types[i]) == 0) {
			*ret = (enum store_image_type)i;
			return 0;
		}
	return fail(err, E_INVALID, "qcow2 image '%s': the format of its backing file is '%s', not raw or qcow2", path,
		    h->backing_format);
}

/*
 * Opens one file. *ret_next: the path of what is behind it, on the heap, and in *type its type; NULL: nothing is.
 */
static int add_file(const struct forkd *d, const struct caller *who, struct disk_source *s, const char *path,
		    enum store_image_type *type, char **ret_next, struct err *err)
{
	struct source_file *f = &s->files[s->n];
	struct qcow2_header h = {};

	if (s->n == FILES_MAX)
		return fail(err, E_INVALID, "'%s' has more than %d files in its chain", s->files[0].path, FILES_MAX);
	*f = (struct source_file){ .fd = -1, .type = *type };
	s->n++;
	if (open_file(d, who, path, f, err) < 0)
		return err->num;
	for (unsigned i = 0; i + 1 < s->n; i++)
		if (s->files[i].st.st_dev == f->st.st_dev && s->files[i].st.st_ino == f->st.st_ino)
			return fail(err, E_INVALID, "'%s' comes twice in the chain of '%s'", path, s->files[0].path);
	*ret_next = NULL;
	if (f->type != STORE_IMAGE_QCOW2)
		return 0;
	if (image_header_read(f->fd, f->file_bytes, path, &h, err) < 0)
		return err->num;
	f->bytes = h.bytes;
	if (!h.backing[0])
		return 0;
	*ret_next = qcow2_backing_path(path, h.backing);
	return !*ret_next ? err_num(err, ERR_INTERNAL, ENOMEM, "open '%s'", path) : type_behind(path, &h, type, err);
}

static int add_files(const struct forkd *d, const struct caller *who, const struct ctl_disk *disk,
		     struct disk_source *s, struct err *err)
{
	enum store_image_type type = disk->qcow2 ? STORE_IMAGE_QCOW2 : STORE_IMAGE_RAW;
	autofree char *path = strdup(disk->path);

	if (!path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open '%s'", disk->path);
	while (path) {
		char *next = NULL;
		int r = add_file(d, who, s, path, &type, &next, err);
		free(path);
		path = next;
		if (r < 0)
			return r;
		if (path && !disk->backing_files)
			return fail(err, E_INVALID,
				    "'%s' has the backing file '%s', and the disk has no backing_files=on",
				    s->files[0].path, path);
	}
	if (s->files[0].bytes / 512 * 512 < disk->bytes)
		return fail(err, E_INVALID, "'%s' has %llu bytes, the guest knows a disk of %llu", disk->path,
			    (unsigned long long)s->files[0].bytes, (unsigned long long)disk->bytes);
	return 0;
}

int disk_source_open(const struct forkd *d, const struct caller *who, const struct ctl_disk *disk,
		     struct disk_source **ret, struct err *err)
{
	struct disk_source *s = calloc(1, sizeof(*s));

	if (!s)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open '%s'", disk->path);
	if (add_files(d, who, disk, s, err) < 0) {
		disk_source_free(s);
		return err->num;
	}
	*ret = s;
	return 0;
}

/* ---- copy ---- */

/* A VM is kept out by the lock; another program may know nothing of it. */
static int check_unchanged(const struct source_file *f, struct err *err)
{
	struct stat now;

	if (fstat(f->fd, &now) < 0)
		return err_sys(err, ERR_INTERNAL, "look at '%s'", f->path);
	if (now.st_size != f->st.st_size || now.st_mtim.tv_sec != f->st.st_mtim.tv_sec ||
	    now.st_mtim.tv_nsec != f->st.st_mtim.tv_nsec)
		return fail(err, E_CONFLICT, "'%s' changed while it was copied", f->path);
	return 0;
}

static int copy_file(struct forkd *d, const struct source_file *f, struct staged_image **ret, struct err *err)
{
	if (store_image_stage(d->store, ret, err) < 0)
		return err->num;
	if (staged_image_import(*ret, f->fd, f->file_bytes, f->path, err) < 0 || check_unchanged(f, err) < 0)
		return err->num;
	return 0;
}

/* Copies the files from number `first` on, the last one first. "" in ret_id: there are none. */
static int import_from(struct forkd *d, const struct disk_source *s, unsigned first, char ret_id[STORE_ID_CHARS + 1],
		       struct err *err)
{
	char behind[STORE_ID_CHARS + 1] = "";

	for (unsigned i = s->n; i-- > first;) {
		const struct source_file *f = &s->files[i];
		struct staged_image *image = NULL;
		char id[STORE_ID_CHARS + 1];
		int r = copy_file(d, f, &image, err);
		if (r >= 0)
			r = staged_image_seal(&image, f->type, f->bytes, behind[0] ? behind : NULL, id, err);
		staged_image_discard(image);
		if (behind[0])
			store_image_unref(d->store, behind); /* the new image has a reference of its own */
		if (r < 0)
			return r;
		memcpy(behind, id, sizeof(id));
	}
	memcpy(ret_id, behind, sizeof(behind));
	return 0;
}

int disk_source_import(struct forkd *d, struct disk_source *s, char ret_id[STORE_ID_CHARS + 1], struct err *err)
{
	return import_from(d, s, 0, ret_id, err);
}

static int stage_over(struct forkd *d, const char *id, struct staged_image **ret, struct store_chain *ret_behind,
		      struct err *err)
{
	if (store_chain_read(d->store, id, ret_behind, err) < 0 || store_image_stage(d->store, ret, err) < 0)
		return err->num;
	return staged_image_begin(*ret, ret_behind, err);
}

int disk_source_stage(struct forkd *d, struct disk_source *s, struct staged_image **ret, struct store_chain *ret_behind,
		      struct err *err)
{
	char id[STORE_ID_CHARS + 1];
	struct staged_image *image = NULL;

	ret_behind->n = 0;
	if (s->files[0].type == STORE_IMAGE_RAW) {
		if (copy_file(d, &s->files[0], &image, err) < 0) {
			staged_image_discard(image);
			return err->num;
		}
		*ret = image;
		return 0;
	}
	if (import_from(d, s, 0, id, err) < 0)
		return err->num;
	if (stage_over(d, id, &image, ret_behind, err) < 0) {
		ret_behind->n = 0;
		staged_image_discard(image);
		store_image_unref(d->store, id);
		return err->num;
	}
	*ret = image;
	return 0;
}
