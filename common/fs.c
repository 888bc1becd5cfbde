// SPDX-License-Identifier: Apache-2.0
/* renameat2() by linkat() and unlinkat(), flock() by fcntl() and the other way round. */
#include "common/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { LOCK_SOON_MS = 500, LOCK_TRY_MS = 10 };

static bool lacks_flags(int num)
{
	return num == EINVAL || num == ENOSYS || num == EOPNOTSUPP;
}

/* A file with two names for a moment: link() replaces nothing on any file system. */
static int link_new(int from_dir_fd, const char *from, int to_dir_fd, const char *to)
{
	if (linkat(from_dir_fd, from, to_dir_fd, to, 0) < 0)
		return -errno;
	if (unlinkat(from_dir_fd, from, 0) == 0)
		return 0;
	int num = errno;
	unlinkat(to_dir_fd, to, 0);
	return -num;
}

int fs_rename_new(int from_dir_fd, const char *from, int to_dir_fd, const char *to)
{
	struct stat st;

	if (renameat2(from_dir_fd, from, to_dir_fd, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (!lacks_flags(errno))
		return -errno;
	if (fstatat(from_dir_fd, from, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return link_new(from_dir_fd, from, to_dir_fd, to);
	if (renameat(from_dir_fd, from, to_dir_fd, to) == 0)
		return 0;
	return errno == ENOTEMPTY || errno == ENOTDIR ? -EEXIST : -errno;
}

static int lock_by(int fd, enum fs_lock_kind kind)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int r;

	do
		r = kind == FS_LOCK_OFD ? fcntl(fd, F_OFD_SETLK, &lock) : flock(fd, LOCK_EX | LOCK_NB);
	while (r < 0 && errno == EINTR);
	if (r == 0)
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

int fs_lock(int fd, enum fs_lock_kind first)
{
	int r = lock_by(fd, first);

	if (r == 0 || r == -EAGAIN)
		return r;
	int other = lock_by(fd, first == FS_LOCK_OFD ? FS_LOCK_FLOCK : FS_LOCK_OFD);
	return other == 0 || other == -EAGAIN ? other : r;
}

int fs_lock_soon(int fd, enum fs_lock_kind first)
{
	int r = fs_lock(fd, first);

	for (unsigned waited_ms = 0; r == -EAGAIN && waited_ms < LOCK_SOON_MS; waited_ms += LOCK_TRY_MS) {
		usleep(LOCK_TRY_MS * 1000);
		r = fs_lock(fd, first);
	}
	return r;
}

bool fs_fills_holes(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	/* An overlay does not say what is under it. */
	return fs.f_type == TMPFS_MAGIC || fs.f_type == OVERLAYFS_SUPER_MAGIC;
}

const char *fs_name(int fd, char buf[FS_NAME])
{
	static const struct {
		uint32_t magic;
		const char *name;
	} types[] = {
		{ EXT4_SUPER_MAGIC, "ext4" },
		{ XFS_SUPER_MAGIC, "xfs" },
		{ BTRFS_SUPER_MAGIC, "btrfs" },
		{ TMPFS_MAGIC, "tmpfs" },
		{ NFS_SUPER_MAGIC, "nfs" },
		{ V9FS_MAGIC, "9p" },
		{ FUSE_SUPER_MAGIC, "fuse" },
		{ CIFS_SUPER_MAGIC, "cifs" },
		{ SMB2_SUPER_MAGIC, "smb2" },
		{ CEPH_SUPER_MAGIC, "ceph" },
		{ 0x2fc12fc1, "zfs" },
		{ MSDOS_SUPER_MAGIC, "vfat" },
		{ OVERLAYFS_SUPER_MAGIC, "overlay" },
		{ EXFAT_SUPER_MAGIC, "exfat" },
		{ F2FS_SUPER_MAGIC, "f2fs" },
	};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0) {
		snprintf(buf, FS_NAME, "unknown");
		return buf;
	}
	snprintf(buf, FS_NAME, "0x%x", (uint32_t)fs.f_type);
	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		if (types[i].magic == (uint32_t)fs.f_type)
			snprintf(buf, FS_NAME, "%s", types[i].name);
	return buf;
}
