// SPDX-License-Identifier: Apache-2.0
/* A file system that lacks something: these calls of the program under test fail as they do there, when odd_fs says so. */
#ifndef TESTS_UNIT_ODD_FS_H
#define TESTS_UNIT_ODD_FS_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What each call fails with; 0: it does not. */
static struct {
	int renameat2, linkat, flock, ofd;
} odd_fs;

static int odd_fs_fail(int num)
{
	errno = num;
	return -1;
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	return odd_fs.renameat2 ? odd_fs_fail(odd_fs.renameat2)
				: (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
	return odd_fs.linkat ? odd_fs_fail(odd_fs.linkat) : (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}

int flock(int fd, int operation)
{
	return odd_fs.flock ? odd_fs_fail(odd_fs.flock) : (int)syscall(SYS_flock, fd, operation);
}

int fcntl(int fd, int command, ...)
{
	va_list ap;

	va_start(ap, command);
	long arg = va_arg(ap, long);
	va_end(ap);
	return odd_fs.ofd && command == F_OFD_SETLK ? odd_fs_fail(odd_fs.ofd)
						    : (int)syscall(SYS_fcntl, fd, command, arg);
}

#endif
