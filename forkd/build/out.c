// SPDX-License-Identifier: Apache-2.0
/* Makes the file without a name, so that nothing is left even of a process that is killed; where that cannot be, under another name. */
#include "forkd/build/out.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fs.h"

static int open_given(struct out *out, const char *number, struct err *err)
{
	struct stat st;
	char *end;

	errno = 0;
	long fd = strtol(number, &end, 10);
	if (number[0] < '0' || number[0] > '9' || *end || errno || fd > INT32_MAX)
		return err_set(err, ERR_INVALID, "--out fd=%s: must be the number of a descriptor", number);
	if (fstat((int)fd, &st) < 0 || !S_ISREG(st.st_mode) || (fcntl((int)fd, F_GETFL) & O_ACCMODE) != O_RDWR)
		return err_set(err, ERR_INVALID, "--out fd=%s: must be a regular file, open for reading and writing",
			       number);
	if (ftruncate((int)fd, 0) < 0)
		return err_sys(err, ERR_INVALID, "--out fd=%s: empty the file", number);
	out->fd = (int)fd;
	return 0;
}

static int open_temporary(struct out *out, struct err *err)
{
	if (asprintf(&out->temporary, "%s.XXXXXX", out->path) < 0) {
		out->temporary = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "make '%s'", out->path);
	}
	out->fd = mkostemp(out->temporary, O_CLOEXEC);
	if (out->fd >= 0)
		return fchmod(out->fd, 0644) < 0 ? err_sys(err, ERR_INTERNAL, "make '%s'", out->path) : 0;
	int num = errno;
	free(steal_ptr(&out->temporary));
	return err_num(err, ERR_INVALID, num, "make '%s'", out->path);
}

static int open_nameless(struct out *out, struct err *err)
{
	autofree char *dir = strdup(out->path);

	if (!dir)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make '%s'", out->path);
	char *slash = strrchr(dir, '/');
	if (slash)
		slash[slash == dir] = '\0';
	out->fd = open(slash ? dir : ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
	if (out->fd >= 0)
		return 0;
	if (errno == EOPNOTSUPP || errno == EISDIR)
		return open_temporary(out, err);
	return err_sys(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_INVALID, "make '%s'", out->path);
}

int out_open(struct out *out, const char *where, struct err *err)
{
	struct stat st;

	if (strncmp(where, "fd=", 3) == 0)
		return open_given(out, where + 3, err);
	out->path = where;
	if (lstat(where, &st) == 0)
		return err_num(err, ERR_CONFLICT, EEXIST, "make '%s'", where);
	return open_nameless(out, err);
}

int out_commit(struct out *out, struct err *err)
{
	char self[32];
	int r = 0;

	if (fsync(out->fd) < 0)
		return err_sys(err, ERR_INTERNAL, "sync '%s'", out->path ? out->path : "the file");
	snprintf(self, sizeof(self), "/proc/self/fd/%d", out->fd);
	if (out->temporary)
		r = fs_rename_new(AT_FDCWD, out->temporary, AT_FDCWD, out->path);
	else if (out->path && linkat(AT_FDCWD, self, AT_FDCWD, out->path, AT_SYMLINK_FOLLOW) < 0)
		r = -errno;
	if (r < 0)
		return err_num(err, r == -EEXIST ? ERR_CONFLICT : ERR_INTERNAL, -r, "make '%s'", out->path);
	if (out->path)
		close(out->fd);
	free(out->temporary);
	*out = (struct out)OUT_NONE;
	return 0;
}

void out_abort(struct out *out)
{
	if (out->fd >= 0 && !out->path)
		(void)!ftruncate(out->fd, 0);
	else if (out->fd >= 0)
		close(out->fd);
	if (out->temporary)
		unlink(out->temporary);
	free(out->temporary);
	*out = (struct out)OUT_NONE;
}
