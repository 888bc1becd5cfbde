// SPDX-License-Identifier: Apache-2.0
/* A temporary file beside its name, then a rename. */
#include "guest/put_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/io.h"

const char *path_below(const char *path)
{
	while (*path == '/')
		path++;
	return *path ? path : ".";
}

/* Makes every directory of `path` that ends at a slash. */
static int make_parents(int root_fd, const char *path, struct err *err)
{
	char part[PATH_MAX];

	if (strlen(path) >= sizeof(part))
		return err_num(err, ERR_INVALID, ENAMETOOLONG, "'%.64s…'", path);
	for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		if (mkdirat(root_fd, part, 0755) < 0 && errno != EEXIST)
			return err_sys(err, ERR_INTERNAL, "make the directory '/%s'", part);
	}
	return 0;
}

int make_dirs(int root_fd, const char *path, mode_t mode, struct err *err)
{
	path = path_below(path);
	int r = make_parents(root_fd, path, err);
	if (r < 0)
		return r;
	if (mkdirat(root_fd, path, mode) < 0 && errno != EEXIST)
		return err_sys(err, ERR_INTERNAL, "make the directory '/%s'", path);
	return 0;
}

static int fill(int fd, const struct put_file *file, struct err *err)
{
	ssize_t n = io_write(fd, file->bytes, file->len, 0);

	if (n != (ssize_t)file->len)
		return err_num(err, ERR_INTERNAL, n < 0 ? (int)-n : ENOSPC, "write '%s'", file->path);
	/* chown() clears the set-id bits, so the mode comes last. */
	if (fchown(fd, file->uid, file->gid) < 0 || fchmod(fd, file->mode) < 0)
		return err_sys(err, ERR_INTERNAL, "owner and mode of '%s'", file->path);
	return 0;
}

static int fill_in_place(int root_fd, const struct put_file *file, struct err *err)
{
	autoclose int fd = openat(root_fd, path_below(file->path), O_WRONLY | O_TRUNC | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, ERR_INTERNAL, "open '%s'", file->path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INVALID, "'%s' is not a regular file", file->path);
	return fill(fd, file, err);
}

/*
 * Gives the file its name. Where there is a file of that name, the two are exchanged: a rename over an
 * old file makes ext4 write the new one to the disk first, which takes milliseconds.
 */
static int take_name(int root_fd, const char *temporary, const char *path)
{
	struct stat st;
	bool exchange = fstatat(root_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode);

	if (exchange && syscall(SYS_renameat2, root_fd, temporary, root_fd, path, RENAME_EXCHANGE) == 0)
		return 0;
	return renameat(root_fd, temporary, root_fd, path);
}

int put_file(int root_fd, const struct put_file *file, struct err *err)
{
	const char *path = path_below(file->path);
	char temporary[PATH_MAX];
	int r = make_parents(root_fd, path, err);

	if (r < 0)
		return r;
	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.forkd-new", path) >= sizeof(temporary))
		return err_num(err, ERR_INVALID, ENAMETOOLONG, "'%.64s…'", path);
	unlinkat(root_fd, temporary, 0); /* of an agent that was killed */
	autoclose int fd = openat(root_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "make a file for '%s'", file->path);
	r = fill(fd, file, err);
	if (r == 0 && take_name(root_fd, temporary, path) < 0)
		r = errno == EBUSY ? 1 : err_sys(err, ERR_INTERNAL, "rename a file to '%s'", file->path);
	unlinkat(root_fd, temporary, 0); /* the old file, or what failed */
	return r > 0 ? fill_in_place(root_fd, file, err) : r;
}

int put_text(int root_fd, const char *path, const char *text, struct err *err)
{
	const struct put_file file = { .path = path, .bytes = text, .len = strlen(text), .mode = 0644 };

	return put_file(root_fd, &file, err);
}

int rewrite_text(int root_fd, const char *path, const char *text, struct err *err)
{
	autoclose int fd = openat(root_fd, path_below(path), O_WRONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	const size_t len = strlen(text);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1)
		return put_text(root_fd, path, text, err);
	ssize_t n = io_write(fd, text, len, 0);
	if (n != (ssize_t)len)
		return err_num(err, ERR_INTERNAL, n < 0 ? (int)-n : ENOSPC, "write '%s'", path);
	if (st.st_size != (off_t)len && ftruncate(fd, (off_t)len) < 0)
		return err_sys(err, ERR_INTERNAL, "size of '%s'", path);
	return 0;
}

ssize_t get_text(int root_fd, const char *path, char *buf, size_t size)
{
	const char *below = root_fd == AT_FDCWD ? path : path_below(path);
	autoclose int fd = openat(root_fd, below, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	ssize_t n = io_read(fd, buf, size, 0); /* files of /proc have no size to ask for */
	if (n < 0)
		return n;
	if ((size_t)n >= size)
		return -EFBIG;
	buf[n] = '\0';
	return n;
}
