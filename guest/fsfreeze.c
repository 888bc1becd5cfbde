// SPDX-License-Identifier: Apache-2.0
#include "guest/fsfreeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <mntent.h>
#include <string.h>
#include <sys/ioctl.h>

enum { MOUNTS_MAX = 256 };

/* FIFREEZE or FITHAW of what is mounted there. 1, or 0: it cannot be frozen, or is that way already; or -errno. */
static int turn(const char *path, unsigned long request)
{
	autoclose int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOTDIR || errno == ENOENT ? 0 : -errno; /* a file; hidden by another mount */
	if (ioctl(fd, request, 0) == 0)
		return 1;
	return errno == EOPNOTSUPP || errno == EBUSY || errno == EINVAL || errno == ENOTTY ? 0 : -errno;
}

/* The mount points of block devices, in the order in which they were mounted. */
static int list(char *dirs[MOUNTS_MAX], struct err *err)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	int n = 0;

	if (!mounts)
		return err_sys(err, ERR_INTERNAL, "open /proc/self/mounts");
	for (struct mntent *m; n < MOUNTS_MAX && (m = getmntent(mounts));)
		if (strncmp(m->mnt_fsname, "/dev/", 5) == 0 && hasmntopt(m, MNTOPT_RW) &&
		    (dirs[n] = strdup(m->mnt_dir)))
			n++;
	endmntent(mounts);
	return n;
}

/* A file system may lie in a file of an earlier one: the later one is frozen first, and thawed last. */
static int each(unsigned long request, struct err *err)
{
	char *dirs[MOUNTS_MAX];
	const int n = list(dirs, err);
	int done = n < 0 ? n : 0;

	for (int i = 0; i < n; i++) {
		const char *dir = dirs[request == FIFREEZE ? n - 1 - i : i];
		int r = done < 0 ? 0 : turn(dir, request);
		done = r < 0 ? err_num(err, ERR_INTERNAL, -r, "%s '%s'", request == FIFREEZE ? "freeze" : "thaw", dir)
			     : done + r;
	}
	for (int i = 0; i < n; i++)
		free(dirs[i]);
	return done;
}

int fs_freeze_all(struct err *err)
{
	struct err ignored = {};
	int n = each(FIFREEZE, err);

	if (n < 0 && each(FITHAW, &ignored) < 0)
		err_wrap(err, "%s", ignored.msg);
	return n;
}

int fs_thaw_all(struct err *err)
{
	return each(FITHAW, err);
}
