// SPDX-License-Identifier: Apache-2.0
/* The store's root: its lock, format and directories, and what a crash left in them. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#include "common/fs.h"
#include "common/io.h"
#include "common/log.h"
#include "store/store_internal.h"

enum { DEPTH_MAX = 64 };

int layout_open_dir(int parent_fd, const char *name)
{
	int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

DIR *layout_list(int dir_fd)
{
	autoclose int fd = layout_open_dir(dir_fd, ".");

	if (fd < 0) {
		errno = -fd;
		return NULL;
	}
	DIR *d = fdopendir(fd);
	if (d)
		steal_fd(&fd);
	return d;
}

struct dirent *layout_next(DIR *d)
{
	struct dirent *e;

	do {
		errno = 0;
		e = readdir(d);
	} while (e && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0));
	return e;
}

int layout_random_name(char name[RANDOM_NAME], struct err *err)
{
	uint64_t n;

	if (getrandom(&n, sizeof(n), 0) != (ssize_t)sizeof(n))
		return err_sys(err, ERR_INTERNAL, "random name");
	snprintf(name, RANDOM_NAME, "%016" PRIx64, n);
	return 0;
}

int layout_write(int fd, const void *bytes, size_t len, uint64_t off, const char *what, struct err *err)
{
	ssize_t n = io_write(fd, bytes, len, off);

	if (n < 0 || (size_t)n < len)
		return err_num(err, ERR_INTERNAL, n < 0 ? (int)-n : EIO, "write %s at byte %llu", what,
			       (unsigned long long)off);
	return 0;
}

int layout_write_file(int dir_fd, const char *name, const struct strbuf *text, struct err *err)
{
	autoclose int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "create %s", name);
	if (layout_write(fd, text->text, text->len, 0, name, err) < 0)
		return err->num;
	if (fchmod(fd, 0400) < 0 || fsync(fd) < 0)
		return err_sys(err, ERR_INTERNAL, "write %s", name);
	return 0;
}

int layout_read_file(int dir_fd, const char *name, uint64_t max_bytes, char **ret_text, size_t *ret_len,
		     struct err *err)
{
	struct stat st;
	autoclose int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_INTERNAL, "open %s", name);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > max_bytes)
		return err_set(err, ERR_INTERNAL, "%s is not a regular file of up to %llu bytes", name,
			       (unsigned long long)max_bytes);
	size_t len = (size_t)st.st_size;
	autofree char *text = malloc(len + 1);
	if (!text)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read %s", name);
	ssize_t n = io_read(fd, text, len, 0);
	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read %s", name);
	if ((size_t)n < len)
		return err_set(err, ERR_INTERNAL, "%s was cut while it was read", name);
	*ret_text = steal_ptr(&text);
	*ret_len = len;
	return 0;
}

int layout_make_dir(int parent_fd, char name[RANDOM_NAME], int *ret_dir_fd, struct err *err)
{
	char random[RANDOM_NAME];

	if (layout_random_name(random, err) < 0)
		return err->num;
	if (mkdirat(parent_fd, random, 0700) < 0)
		return err_sys(err, ERR_INTERNAL, "make directory '%s' in the store", random);
	memcpy(name, random, sizeof(random));
	int fd = layout_open_dir(parent_fd, random);
	if (fd < 0)
		return err_num(err, ERR_INTERNAL, -fd, "open directory '%s' of the store", random);
	*ret_dir_fd = fd;
	return 0;
}

static int remove_tree(int parent_fd, const char *name, unsigned depth, struct err *err)
{
	if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return err_sys(err, ERR_INTERNAL, "remove '%s'", name);
	if (depth == DEPTH_MAX)
		return err_set(err, ERR_INTERNAL, "remove '%s': more than %d directories deep", name, DEPTH_MAX);
	autoclose int fd = layout_open_dir(parent_fd, name);
	if (fd < 0 || fchmod(fd, 0700) < 0)
		return err_num(err, ERR_INTERNAL, fd < 0 ? -fd : errno, "remove directory '%s'", name);
	autodir DIR *d = layout_list(fd);
	if (!d)
		return err_sys(err, ERR_INTERNAL, "list '%s'", name);
	for (struct dirent *e; (e = layout_next(d));)
		if (remove_tree(fd, e->d_name, depth + 1, err) < 0)
			return err_wrap(err, "'%s'", name);
	if (errno)
		return err_sys(err, ERR_INTERNAL, "list '%s'", name);
	return unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 ? err_sys(err, ERR_INTERNAL, "remove directory '%s'", name)
							   : 0;
}

int layout_remove(int parent_fd, const char *name, struct err *err)
{
	return remove_tree(parent_fd, name, 0, err);
}

static void remove_or_warn(const struct store *s, int dir_fd, const char *what, const char *name)
{
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (layout_remove(dir_fd, name, &err) < 0)
		log_warn("store '%s': left in %s: %s", s->root, what, err_line(&err, line, sizeof(line)));
}

void layout_unstage(const struct store *s, const char *name)
{
	remove_or_warn(s, s->staging_fd, "staging", name);
}

void layout_remove_trash(const struct store *s, const char *name)
{
	remove_or_warn(s, s->trash_fd, "trash", name);
}

/*
 * Refuses a directory that has other things in it than a new store may have: nobody's files are
 * taken for leftovers later.
 */
static int check_new_root(struct store *s, struct err *err)
{
	autodir DIR *d = layout_list(s->root_fd);

	if (!d)
		return err_sys(err, ERR_INTERNAL, "list store '%s'", s->root);
	for (struct dirent *e; (e = layout_next(d));)
		if (strcmp(e->d_name, "lock") != 0 && strcmp(e->d_name, "FORMAT.tmp") != 0 &&
		    strcmp(e->d_name, "lost+found") != 0)
			return err_set(err, ERR_INVALID, "'%s' is no store and not empty: it has '%s' but no FORMAT",
				       s->root, e->d_name);
	return errno ? err_sys(err, ERR_INTERNAL, "list store '%s'", s->root) : 0;
}

/* Reads the store's format. 1: it is this program's; 0: there is none. */
static int check_format(const struct store *s, struct err *err)
{
	char text[32] = "", *end;
	autoclose int fd = openat(s->root_fd, "FORMAT", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		return err_sys(err, ERR_INTERNAL, "read '%s/FORMAT'", s->root);
	unsigned long long format = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || (*end && strcmp(end, "\n") != 0))
		return err_set(err, ERR_INVALID, "'%s/FORMAT' holds no number", s->root);
	if (format != STORE_FORMAT)
		return err_set(err, ERR_INVALID, "store '%s' has format %llu, this program knows %d", s->root, format,
			       STORE_FORMAT);
	return 1;
}

static int write_format(const struct store *s, struct err *err)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d\n", STORE_FORMAT);
	autoclose int fd =
		openat(s->root_fd, "FORMAT.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "create '%s/FORMAT'", s->root);
	if (layout_write(fd, text, (size_t)len, 0, "FORMAT", err) < 0)
		return err->num;
	if (fsync(fd) < 0 || renameat(s->root_fd, "FORMAT.tmp", s->root_fd, "FORMAT") < 0)
		return err_sys(err, ERR_INTERNAL, "write '%s/FORMAT'", s->root);
	return 0;
}

static int lock(struct store *s, struct err *err)
{
	char fs[FS_NAME];

	s->lock_fd = openat(s->root_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		return err_sys(err, ERR_INTERNAL, "open '%s/lock'", s->root);
	int r = fs_lock_soon(s->lock_fd, FS_LOCK_FLOCK);
	if (r == -EAGAIN)
		return err_set(err, ERR_BUSY, "store '%s' is in use by another daemon", s->root);
	return r < 0 ? err_num(err, ERR_INTERNAL, -r, "'%s/lock' cannot be locked on %s", s->root,
			       fs_name(s->lock_fd, fs))
		     : 0;
}

static int open_part(const struct store *s, const char *name, int *ret_fd, struct err *err)
{
	if (mkdirat(s->root_fd, name, 0700) < 0 && errno != EEXIST)
		return err_sys(err, ERR_INTERNAL, "make '%s/%s'", s->root, name);
	int fd = layout_open_dir(s->root_fd, name);
	if (fd < 0)
		return err_num(err, ERR_INTERNAL, -fd, "open '%s/%s'", s->root, name);
	*ret_fd = fd;
	return 0;
}

static int open_root(struct store *s, const char *root, struct err *err)
{
	bool made = mkdir(root, 0700) == 0;
	if (!made && errno != EEXIST)
		return err_sys(err, ERR_INTERNAL, "make store '%s'", root);
	s->root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	s->root = s->root_fd < 0 ? NULL : realpath(root, NULL);
	if (!s->root)
		return err_sys(err, ERR_INTERNAL, "open store '%s'", root);
	autoclose int parent_fd = made ? openat(s->root_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (made && (parent_fd < 0 || fsync(parent_fd) < 0))
		return err_sys(err, ERR_INTERNAL, "write the directory of store '%s'", root);
	return 0;
}

static int open_layout(struct store *s, struct err *err)
{
	int found = check_format(s, err);

	if (found < 0 || (found == 0 && check_new_root(s, err) < 0) || lock(s, err) < 0)
		return err->num;
	found = check_format(s, err); /* again, under the lock */
	if (found < 0 || (found == 0 && write_format(s, err) < 0))
		return err->num;
	if (open_part(s, "templates", &s->templates_fd, err) < 0 || open_part(s, "staging", &s->staging_fd, err) < 0 ||
	    open_part(s, "trash", &s->trash_fd, err) < 0 || open_part(s, "images", &s->images_fd, err) < 0 ||
	    open_part(s, "overlays", &s->overlays_fd, err) < 0)
		return err->num;
	return fsync(s->root_fd) < 0 ? err_sys(err, ERR_INTERNAL, "write store '%s'", s->root) : 0;
}

/*
 * Removes what a crash left. A file that cannot be removed costs space only, and does not stop the
 * daemon.
 */
static void remove_leftovers(const struct store *s, int dir_fd, const char *what)
{
	autodir DIR *d = layout_list(dir_fd);

	for (struct dirent *e; d && (e = layout_next(d));)
		remove_or_warn(s, dir_fd, what, e->d_name);
}

/*
 * Makes directories read-only: a crash beside the rename of a template leaves its directory
 * writable.
 */
static void seal_directories(int parent_fd)
{
	autodir DIR *d = layout_list(parent_fd);
	struct stat st;

	for (struct dirent *e; d && (e = layout_next(d));) {
		autoclose int fd = layout_open_dir(parent_fd, e->d_name);
		if (fd >= 0 && fstat(fd, &st) == 0 && (st.st_mode & 07777) != 0500)
			(void)fchmod(fd, 0500);
	}
}

int store_open(const char *root, struct store **ret_store, struct err *err)
{
	struct store *s = malloc(sizeof(*s));

	if (!s)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open store '%s'", root);
	*s = (struct store){
		.root_fd = -1,
		.lock_fd = -1,
		.templates_fd = -1,
		.staging_fd = -1,
		.trash_fd = -1,
		.images_fd = -1,
		.overlays_fd = -1,
	};
	pthread_mutex_init(&s->mutex, NULL);
	if (open_root(s, root, err) < 0 || open_layout(s, err) < 0) {
		store_close(s);
		return err->num;
	}
	if (images_load(s, err) < 0) {
		store_close(s);
		return err->num;
	}
	remove_leftovers(s, s->staging_fd, "staging");
	remove_leftovers(s, s->trash_fd, "trash");
	seal_directories(s->templates_fd);
	seal_directories(s->images_fd);
	*ret_store = s;
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	int fds[] = {
		s->templates_fd, s->staging_fd, s->trash_fd, s->images_fd, s->overlays_fd, s->root_fd, s->lock_fd
	};
	for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	images_forget(s);
	pthread_mutex_destroy(&s->mutex);
	free(s->root);
	free(s);
}
