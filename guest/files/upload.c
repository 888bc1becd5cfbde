// SPDX-License-Identifier: Apache-2.0
/* A file that comes whole or not at all. */
#include "guest/files/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "guest/files/entry.h"

enum { NEW_MODE = 0644 };

static void hidden_name(struct upload *up, char name[static 40])
{
	uint64_t random = 0;

	if (getrandom(&random, sizeof(random), 0) < 0)
		random = (uintptr_t)up;
	snprintf(name, 40, "%s%016llx", up->replaces ? UPLOAD_PUT : UPLOAD_NEW, (unsigned long long)random);
}

/* Where the symbolic link `name` leads, without a '/' at its end, on the heap; NULL: errno says why. */
static char *link_target(int dir_fd, const char *name)
{
	char target[PATH_BYTES_MAX + 1];
	ssize_t n = readlinkat(dir_fd, name, target, PATH_BYTES_MAX);

	while (n > 1 && target[n - 1] == '/')
		n--;
	return n < 0 ? NULL : strndup(target, (size_t)n);
}

/* Opens the directory of the file that `path` leads to by all its links, and sees what is there. */
static int find_place(struct upload *up, const char *path, struct err *err)
{
	autofree char *at = strdup(path);
	struct stat st;

	up->dir_fd = AT_FDCWD;
	for (int links = 0; at && links <= PATH_LINKS_MAX; links++) {
		autofree char *name = NULL;
		autoclose int dir_fd = path_open_parent(up->dir_fd, at, &up->owner, &name, err);
		if (dir_fd < 0)
			return dir_fd;
		bool there = fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
		if (!there && errno != ENOENT)
			return err_sys(err, path_code(errno), "look at '%s'", path);
		if (there && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
			return err_set(err, ERR_INVALID,
				       S_ISDIR(st.st_mode) ? "path '%s' is a directory"
							   : "path '%s' is no regular file",
				       path);
		free(at);
		at = there && S_ISLNK(st.st_mode) ? link_target(dir_fd, name) : NULL;
		upload_done(up);
		up->dir_fd = steal_fd(&dir_fd);
		up->name = steal_ptr(&name);
		if (there && S_ISLNK(st.st_mode))
			continue;
		up->replaces = there;
		up->mode = there ? st.st_mode & 0777 : NEW_MODE;
		return 0;
	}
	return err_num(err, ERR_INVALID, at ? ELOOP : errno, "link '%s'", path);
}

static int open_file(struct upload *up)
{
	up->fd = openat(up->dir_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	if (up->fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL))
		return up->fd;
	hidden_name(up, up->hidden);
	up->fd = openat(up->dir_fd, up->hidden, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (up->fd < 0)
		up->hidden[0] = '\0';
	return up->fd;
}

int upload_begin(struct upload *up, const char *path, const struct owner_ids *owner, struct err *err)
{
	*up = (struct upload){ .dir_fd = -1, .fd = -1, .owner = *owner };
	int r = find_place(up, path, err);
	if (r == 0 && open_file(up) < 0)
		r = err_sys(err, path_code(errno), "write '%s'", path);
	if (r < 0)
		upload_done(up);
	return r;
}

int upload_write(struct upload *up, const char *data, size_t len, struct err *err)
{
	while (len > 0) {
		ssize_t n = write(up->fd, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		const int why = n < 0 ? errno : ENOSPC;
		if (n <= 0)
			return err_num(err, path_code(why), why, "write '%s', %llu bytes so far", up->name,
				       (unsigned long long)up->size);
		data += n;
		len -= (size_t)n;
		up->size += (uint64_t)n;
	}
	return 0;
}

static int set_attributes(struct upload *up, const struct metadata *metadata, unsigned n, struct err *err)
{
	char key[sizeof(METADATA_PREFIX) + METADATA_KEY_MAX];

	if (fchown(up->fd, up->owner.uid, up->owner.gid) < 0)
		return err_sys(err, ERR_INTERNAL, "own '%s'", up->name);
	if (fchmod(up->fd, up->mode) < 0)
		return err_sys(err, ERR_INTERNAL, "set the mode of '%s'", up->name);
	for (unsigned i = 0; i < n; i++) {
		snprintf(key, sizeof(key), METADATA_PREFIX "%s", metadata[i].key);
		if (fsetxattr(up->fd, key, metadata[i].value, strlen(metadata[i].value), 0) < 0)
			return err_sys(err, path_code(errno), "metadata '%s' of '%s'", metadata[i].key, up->name);
	}
	return 0;
}

/* Only root may name a file by its descriptor alone; the way through /proc is open to all. */
static int give_hidden_name(struct upload *up)
{
	char fd_path[32], name[sizeof(up->hidden)];

	hidden_name(up, name);
	snprintf(fd_path, sizeof(fd_path), "/proc/self/fd/%d", up->fd);
	if (linkat(up->fd, "", up->dir_fd, name, AT_EMPTY_PATH) < 0 &&
	    linkat(AT_FDCWD, fd_path, up->dir_fd, name, AT_SYMLINK_FOLLOW) < 0)
		return -1;
	memcpy(up->hidden, name, sizeof(name));
	return 0;
}

int upload_commit(struct upload *up, const struct metadata *metadata, unsigned n_metadata, struct err *err)
{
	int r = set_attributes(up, metadata, n_metadata, err);

	if (r < 0)
		return r;
	if ((!up->hidden[0] && give_hidden_name(up) < 0) || renameat(up->dir_fd, up->hidden, up->dir_fd, up->name) < 0)
		return err_sys(err, path_code(errno), "put '%s' in its place", up->name);
	up->hidden[0] = '\0';
	return 0;
}

void upload_done(struct upload *up)
{
	if (up->name && up->hidden[0])
		unlinkat(up->dir_fd, up->hidden, 0);
	if (up->name && up->fd >= 0)
		close(up->fd);
	if (up->name && up->dir_fd >= 0)
		close(up->dir_fd);
	free(up->name);
	*up = (struct upload){ .dir_fd = -1, .fd = -1, .owner = up->owner };
}
