// SPDX-License-Identifier: Apache-2.0
/*
 * What NFS, 9p, FUSE and other file systems may lack, done in another way that keeps the same
 * promise. Where there is no other way, the message has the name of the file system. Any thread.
 */
#ifndef COMMON_FS_H
#define COMMON_FS_H

#include <stdbool.h>

#include "common/auto.h"

/*
 * Renames a file or a directory. Nothing is replaced, except an empty directory by a directory. The
 * new name has all of the file from its first moment on. -EEXIST: the new name is taken. Other
 * -errno: nothing was changed.
 */
MUST_CHECK int fs_rename_new(int from_dir_fd, const char *from, int to_dir_fd, const char *to);

/*
 * The two kinds of lock do not see each other on most file systems: all who lock the same file name
 * the same kind first.
 */
enum fs_lock_kind { FS_LOCK_OFD, FS_LOCK_FLOCK };
/*
 * Locks the whole file for the one open file description, and does not wait. Where the file system
 * refuses the kind `first`, the other kind is taken. -EAGAIN: somebody else has the lock. Other
 * -errno: the file system has no lock for this file.
 */
MUST_CHECK int fs_lock(int fd, enum fs_lock_kind first);

/*
 * The same, but waits half a second for the lock: a process that was killed is outlived for a moment by children that
 * have its descriptors until they exec.
 */
MUST_CHECK int fs_lock_soon(int fd, enum fs_lock_kind first);

/* Whether a hole of the file that is read through a mapping may become data for good, as in a tmpfs. */
bool fs_fills_holes(int fd);

/* The type of the file system that fd is on: "nfs", "fuse", or its number. Returns `buf`. */
enum { FS_NAME = 24 };
const char *fs_name(int fd, char buf[FS_NAME]);

#endif
