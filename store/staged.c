// SPDX-License-Identifier: Apache-2.0
/*
 * A template until it is published: filled by an import or by a VM process, sealed, renamed into
 * its place. What reaches the disk first: the files, the manifest, their directory; then the
 * rename; then the directories on both sides of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/clock.h"
#include "common/fs.h"
#include "common/log.h"
#include "common/version.h"
#include "store/store_internal.h"

enum { WRITER_TRIES = 500, WRITER_PAUSE_MS = 10 };

struct staged {
	struct store *store;
	struct store_file files[STORE_FILES]; /* files whose digests are known: they were copied through this process */
	int dir_fd;
	char *path;
	char dir_name[RANDOM_NAME];           /* "": not made */
	char sealed_name[STORE_NAME_MAX + 1]; /* "": not sealed */
};

/* ---- life ---- */

static int make_dir(struct staged *s, struct err *err)
{
	char name[RANDOM_NAME];

	if (layout_random_name(name, err) < 0)
		return err->num;
	if (asprintf(&s->path, "%s/staging/%s", s->store->root, name) < 0) {
		s->path = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "stage a template");
	}
	if (mkdirat(s->store->staging_fd, name, 0700) < 0)
		return err_sys(err, ERR_INTERNAL, "make '%s'", s->path);
	memcpy(s->dir_name, name, sizeof(name));
	s->dir_fd = layout_open_dir(s->store->staging_fd, name);
	return s->dir_fd < 0 ? err_num(err, ERR_INTERNAL, -s->dir_fd, "open '%s'", s->path) : 0;
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
	free(s->path);
	free(s);
}

void staged_discard(struct staged *s)
{
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (!s)
		return;
	if (s->dir_name[0] && layout_remove(s->store->staging_fd, s->dir_name, &err) < 0)
		log_warn("store '%s': left in staging: %s", s->store->root, err_line(&err, line, sizeof(line)));
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

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       timespec_ns(a->st_mtim) == timespec_ns(b->st_mtim) && timespec_ns(a->st_ctim) == timespec_ns(b->st_ctim);
}

/* Also of one that has lost its name to another: that changes its ctime. */
static int check_unchanged(const struct store_source *file, unsigned i, struct err *err)
{
	struct stat now;

	if (fstat(file->fd, &now) < 0 || !same_file(&now, &file->st))
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

/*
 * Waits for some seconds until nobody has the file open for writing. A read lease is refused as
 * long as somebody has, as the VM process may that wrote the file, or a child of this process that
 * has not called exec yet and holds what this process has closed. SIGURG is what breaking the lease
 * would send: it is ignored by default.
 */
static int wait_for_writers(int fd, const char *name, struct err *err)
{
	const struct timespec pause = { .tv_nsec = WRITER_PAUSE_MS * 1000000L };

	for (unsigned i = 0; i < WRITER_TRIES; i++) {
		if (fcntl(fd, F_SETSIG, SIGURG) < 0 || fcntl(fd, F_SETLEASE, F_RDLCK) == 0 || errno != EAGAIN) {
			(void)fcntl(fd, F_SETLEASE, F_UNLCK); /* also where the file system has no leases */
			return 0;
		}
		nanosleep(&pause, NULL);
	}
	return err_set(err, ERR_CONFLICT, "%s is still open for writing", name);
}

/* Makes the file read-only: from here on only this process and root can change it. */
static int close_to_others(const struct store_source *in, const char *name, struct err *err)
{
	if (in->st.st_nlink != 1)
		return err_set(err, ERR_INVALID, "%s has %llu names", name, (unsigned long long)in->st.st_nlink);
	if (in->st.st_uid != geteuid() && fchown(in->fd, geteuid(), getegid()) < 0)
		return err_sys(err, ERR_INTERNAL, "take %s over from user %u", name, in->st.st_uid);
	if (fchmod(in->fd, 0400) < 0)
		return err_sys(err, ERR_INTERNAL, "seal %s", name);
	return wait_for_writers(in->fd, name, err);
}

static int seal_file(struct staged *s, unsigned i, struct store_file *f, struct err *err)
{
	autoclose int fd = -1;
	struct store_source in = { .fd = -1 };
	int r = open_staged(s->dir_fd, i, &in, err);

	fd = in.fd;
	if (r < 0 || close_to_others(&in, snapshot_files[i], err) < 0)
		return err->num;
	if (!f->name) {
		f->bytes = (uint64_t)in.st.st_size;
		f->name = strdup(snapshot_files[i]);
		if (!f->name)
			return err_num(err, ERR_INTERNAL, ENOMEM, "seal %s", snapshot_files[i]);
		if (digest_file(fd, -1, f, err) < 0)
			return err->num;
	}
	if (fsync(fd) < 0 || fstat(fd, &in.st) < 0)
		return err_sys(err, ERR_INTERNAL, "write %s to disk", f->name);
	if ((uint64_t)in.st.st_size != f->bytes)
		return err_set(err, ERR_CONFLICT, "%s changed while it was read", f->name);
	f->inode = in.st.st_ino;
	f->mtime_ns = timespec_ns(in.st.st_mtim);
	f->ctime_ns = timespec_ns(in.st.st_ctim);
	f->allocated_bytes = digest_allocated(fd);
	return 0;
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

static int seal(struct staged *s, struct manifest *m, struct err *err)
{
	for (unsigned i = 0; i < STORE_FILES; i++)
		if (seal_file(s, i, &s->files[i], err) < 0)
			return err->num;
	if (fill_manifest(s, m, err) < 0 || manifest_write(s->dir_fd, m, err) < 0)
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
