// SPDX-License-Identifier: Apache-2.0
/*
 * A template until it is published: filled by an import or by a VM process, sealed, renamed into
 * its place. What reaches the disk first: the files, the manifest, their directory; then the
 * rename; then the directories on both sides of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/clock.h"
#include "common/fs.h"
#include "common/log.h"
#include "common/version.h"
#include "store/store_internal.h"

struct staged {
	struct store *store;
	struct store_file files[STORE_FILES]; /* files whose digests are known: they were copied through this process */
	int dir_fd;
	char *path;
	char dir_name[RANDOM_NAME];           /* "": not made */
	char sealed_name[STORE_NAME_MAX + 1]; /* "": not sealed */
	char (*images)[STORE_ID_CHARS + 1];   /* references that the template will have */
	uint32_t n_images;
};

/* ---- life ---- */

static int make_dir(struct staged *s, struct err *err)
{
	if (layout_make_dir(s->store->staging_fd, s->dir_name, &s->dir_fd, err) < 0)
		return err->num;
	if (asprintf(&s->path, "%s/staging/%s", s->store->root, s->dir_name) < 0) {
		s->path = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "stage a template");
	}
	return 0;
}

int store_stage(struct store *store, struct staged **ret, struct err *err)
{
	struct staged *s = calloc(1, sizeof(*s));

	if (!s)
		return err_num(err, ERR_INTERNAL, ENOMEM, "stage a template");
	s->store = store;
	s->dir_fd = -1;
	if (make_dir(s, err) < 0) {
		staged_discard(s);
		return err->num;
	}
	*ret = s;
	return 0;
}

static void staged_free(struct staged *s)
{
	for (unsigned i = 0; i < STORE_FILES; i++)
		fields_free(store_file_fields, &s->files[i]);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	free(s->images);
	free(s->path);
	free(s);
}

void staged_discard(struct staged *s)
{
	if (!s)
		return;
	if (s->dir_name[0])
		layout_unstage(s->store, s->dir_name);
	for (uint32_t i = 0; i < s->n_images; i++)
		store_image_unref(s->store, s->images[i]);
	staged_free(s);
}

int staged_dir(const struct staged *s)
{
	return s->dir_fd;
}

const char *staged_path(const struct staged *s)
{
	return s->path;
}

/* ---- import ---- */

/* Also of one that has lost its name to another: that changes its ctime. */
static int check_unchanged(const struct store_source *file, unsigned i, struct err *err)
{
	struct stat now;

	if (fstat(file->fd, &now) < 0 || !sealed_same(&now, &file->st))
		return err_set(err, ERR_CONFLICT, "%s changed while it was read", snapshot_files[i]);
	return 0;
}

/* One of the staged directory, in which a VM process may have written. Looks at it before it is opened: a FIFO may wait. */
static int open_staged(int dir_fd, unsigned i, struct store_source *ret, struct err *err)
{
	const char *name = snapshot_files[i];

	if (fstatat(dir_fd, name, &ret->st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? err_set(err, ERR_INVALID, "%s is missing", name)
				       : err_sys(err, ERR_INVALID, "%s", name);
	if (snapshot_check_file(i, &ret->st, err) < 0)
		return err->num;
	ret->fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (ret->fd < 0)
		return err_sys(err, errno == EMFILE || errno == ENFILE ? ERR_INTERNAL : ERR_INVALID, "open %s", name);
	return check_unchanged(ret, i, err);
}

static int copy_file(struct staged *s, unsigned i, const struct store_source *from, struct err *err)
{
	struct store_file *f = &s->files[i];
	autoclose int fd =
		openat(s->dir_fd, snapshot_files[i], O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "create '%s/%s'", s->path, snapshot_files[i]);
	if (ioctl(fd, FICLONE, from->fd) == 0)
		return 0; /* the file is read when it is sealed */
	f->bytes = (uint64_t)from->st.st_size;
	f->name = strdup(snapshot_files[i]);
	if (!f->name)
		return err_num(err, ERR_INTERNAL, ENOMEM, "copy %s", snapshot_files[i]);
	return digest_file(from->fd, fd, f, err);
}

static int import_files(struct staged *s, const struct store_source files[STORE_FILES], struct err *err)
{
	for (unsigned i = 0; i < STORE_FILES; i++)
		if (snapshot_check_file(i, &files[i].st, err) < 0)
			return err->num;
	for (unsigned i = 0; i < STORE_FILES; i++)
		if (copy_file(s, i, &files[i], err) < 0)
			return err->num;
	for (unsigned i = 0; i < STORE_FILES; i++)
		if (check_unchanged(&files[i], i, err) < 0)
			return err->num;
	return 0;
}

int staged_import(struct staged *s, const struct store_source files[STORE_FILES], const char *source, struct err *err)
{
	return import_files(s, files, err) < 0 ? err_wrap(err, "snapshot '%s'", source) : 0;
}

/* ---- seal ---- */

static int seal_file(struct staged *s, unsigned i, struct store_file *f, struct err *err)
{
	autoclose int fd = -1;
	struct store_source in = { .fd = -1 };
	int r = open_staged(s->dir_fd, i, &in, err);

	fd = in.fd;
	if (r < 0 || sealed_close_to_others(&in, snapshot_files[i], err) < 0)
		return err->num;
	if (!f->name) {
		f->bytes = (uint64_t)in.st.st_size;
		f->name = strdup(snapshot_files[i]);
		if (!f->name)
			return err_num(err, ERR_INTERNAL, ENOMEM, "seal %s", snapshot_files[i]);
		if (digest_file(fd, -1, f, err) < 0)
			return err->num;
	}
	return sealed_note(fd, f, err);
}

static int fill_manifest(struct staged *s, struct manifest *m, struct err *err)
{
	m->format = STORE_FORMAT;
	free(m->created_at);
	free(m->program_version);
	m->created_at = time_text(false);
	m->program_version = strdup(FORKD_VERSION);
	m->files = calloc(STORE_FILES, sizeof(m->files[0]));
	if (!m->created_at || !m->program_version || !m->files)
		return err_num(err, ERR_INTERNAL, ENOMEM, "manifest of '%s'", m->name);
	m->n_files = STORE_FILES;
	memcpy(m->files, s->files, sizeof(s->files));
	memset(s->files, 0, sizeof(s->files));
	return 0;
}

/* The references are the struct's until the template is published. */
static int take_images(struct staged *s, const struct manifest *m, struct err *err)
{
	s->images = calloc(images_places(m) + 1UL, sizeof(*s->images));
	if (!s->images)
		return err_num(err, ERR_INTERNAL, ENOMEM, "seal '%s'", m->name);
	if (images_ref_all(s->store, m, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < images_places(m); i++)
		if (images_at(m, i))
			snprintf(s->images[s->n_images++], sizeof(*s->images), "%s", images_at(m, i));
	return 0;
}

static int seal(struct staged *s, struct manifest *m, struct err *err)
{
	for (unsigned i = 0; i < STORE_FILES; i++)
		if (seal_file(s, i, &s->files[i], err) < 0)
			return err->num;
	if (take_images(s, m, err) < 0 || fill_manifest(s, m, err) < 0 || manifest_write(s->dir_fd, m, err) < 0)
		return err->num;
	return fsync(s->dir_fd) < 0 ? err_sys(err, ERR_INTERNAL, "write '%s' to disk", s->path) : 0;
}

int staged_seal(struct staged *s, struct manifest *m, struct err *err)
{
	if (store_check_name(m->name ? m->name : "", err) < 0)
		return err->num;
	if (!m->source || m->files || s->sealed_name[0])
		return err_set(err, ERR_INTERNAL, "template '%s' has no source, or is sealed already", m->name);
	if (seal(s, m, err) < 0)
		return err_wrap(err, "template '%s'", m->name);
	snprintf(s->sealed_name, sizeof(s->sealed_name), "%s", m->name);
	return 0;
}

/* ---- publish ---- */

/*
 * Renames the directory into its place. It stays writable until then: only root may move a
 * directory that he may not write.
 */
static int settle(struct staged *s, struct err *err)
{
	if (fchmod(s->dir_fd, 0500) < 0 || fsync(s->dir_fd) < 0 || fsync(s->store->templates_fd) < 0 ||
	    fsync(s->store->staging_fd) < 0)
		return err_sys(err, ERR_INTERNAL, "publish template '%s'", s->sealed_name);
	return 0;
}

int staged_publish(struct staged **staged, const char *name, struct err *err)
{
	struct staged *s = *staged;
	struct store *store = s->store;
	char fs[FS_NAME];

	if (store_check_name(name, err) < 0)
		return err->num;
	if (strcmp(s->sealed_name, name) != 0)
		return err_set(err, ERR_INTERNAL, "template '%s' is not sealed under this name", name);
	int r = fs_rename_new(store->staging_fd, s->dir_name, store->templates_fd, name);
	if (r < 0)
		return r == -EEXIST ? err_set(err, ERR_CONFLICT, "template '%s' exists already", name)
				    : err_num(err, ERR_INTERNAL, -r, "publish template '%s' on %s", name,
					      fs_name(store->templates_fd, fs));
	if (settle(s, err) < 0) { /* back, for staged_discard() */
		if (fchmod(s->dir_fd, 0700) == 0)
			(void)renameat(store->templates_fd, name, store->staging_fd, s->dir_name);
		return err->num;
	}
	staged_free(s);
	*staged = NULL;
	return 0;
}
