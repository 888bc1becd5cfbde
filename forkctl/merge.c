// SPDX-License-Identifier: Apache-2.0
/* A tree that came from a guest, into one of this host. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "forkctl/cp.h"
#include "forkctl/table.h"

enum { DEPTH_MAX = 256 }; /* directories inside each other; each takes three descriptors */

static bool say(const char *name, const char *why)
{
	fprintf(stderr, "forkctl: '");
	print_clean(stderr, name);
	fprintf(stderr, "': %s\n", why);
	return false;
}

/* The next entry but "." and "..". */
static const char *next_name(DIR *dir)
{
	struct dirent *e;

	while ((e = readdir(dir)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			return e->d_name;
	return NULL;
}

static void close_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}
#define autodir __attribute__((cleanup(close_dir)))

static int open_dir(int at, const char *name)
{
	return openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Its own descriptor for reading, so that `fd` stays. */
static DIR *read_dir(int fd)
{
	int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = own < 0 ? NULL : fdopendir(own);

	if (!dir && own >= 0)
		close(own);
	return dir;
}

/* ---- what is not to come along ---- */

static bool clean_dir(int fd, unsigned depth);

static bool clean_entry(int fd, const char *name, unsigned depth)
{
	struct stat st;

	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return say(name, strerror(errno));
	if (S_ISLNK(st.st_mode))
		return true;
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
		say(name, "neither a file, a directory nor a symbolic link: it is not copied");
		return unlinkat(fd, name, 0) == 0 || say(name, strerror(errno));
	}
	mode_t mode = (st.st_mode & 0777) | (S_ISDIR(st.st_mode) ? 0700 : 0);
	if (mode != (st.st_mode & 07777) && fchmodat(fd, name, mode, 0) < 0)
		return say(name, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return true;
	if (depth == 0)
		return say(name, "too many directories inside each other");
	autoclose int inner = open_dir(fd, name);
	return inner < 0 ? say(name, strerror(errno)) : clean_dir(inner, depth - 1);
}

static bool clean_dir(int fd, unsigned depth)
{
	autodir DIR *dir = read_dir(fd);
	const char *name;

	while (dir && (name = next_name(dir)))
		if (!clean_entry(fd, name, depth))
			return false;
	return dir || say("a directory", strerror(errno));
}

/* ---- into place ---- */

static bool merge_dir(int from, int to);

static bool merge_entry(int from, int to, const char *name)
{
	struct stat new, old;

	if (fstatat(from, name, &new, AT_SYMLINK_NOFOLLOW) < 0)
		return say(name, strerror(errno));
	bool there = fstatat(to, name, &old, AT_SYMLINK_NOFOLLOW) == 0;
	if (there && S_ISDIR(new.st_mode) && S_ISDIR(old.st_mode)) {
		autoclose int inner = open_dir(from, name), outer = open_dir(to, name);
		return inner < 0 || outer < 0 ? say(name, strerror(errno)) : merge_dir(inner, outer);
	}
	if (there && S_ISDIR(new.st_mode))
		return say(name, S_ISLNK(old.st_mode) ? "a directory in the guest, a symbolic link here: not followed"
						      : "a directory in the guest, none here");
	return renameat(from, name, to, name) == 0 || say(name, strerror(errno));
}

static bool merge_dir(int from, int to)
{
	autodir DIR *dir = read_dir(from);
	const char *name;
	bool ok = dir != NULL;

	while (dir && (name = next_name(dir)))
		ok &= merge_entry(from, to, name);
	return ok;
}

bool merge_tree(const char *from, const char *to)
{
	autoclose int from_fd = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	autoclose int to_fd = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (from_fd < 0 || to_fd < 0)
		return say(to, strerror(errno));
	return clean_dir(from_fd, DEPTH_MAX) && merge_dir(from_fd, to_fd);
}
