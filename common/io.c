// SPDX-License-Identifier: Apache-2.0
/* Repeats pread() and pwrite() until all is done. */
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>

static ssize_t move(int fd, char *buf, uint64_t len, uint64_t off, bool write)
{
	uint64_t done = 0;

	while (done < len) {
		ssize_t n = write ? pwrite(fd, buf + done, len - done, (off_t)(off + done))
				  : pread(fd, buf + done, len - done, (off_t)(off + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (uint64_t)n;
	}
	return (ssize_t)done;
}

ssize_t io_read(int fd, void *buf, uint64_t len, uint64_t off)
{
	return move(fd, buf, len, off, false);
}

ssize_t io_write(int fd, const void *buf, uint64_t len, uint64_t off)
{
	return move(fd, (char *)(uintptr_t)buf, len, off, true);
}

void io_set_append(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		fcntl(fd, F_SETFL, on ? flags | O_APPEND : flags & ~O_APPEND);
}
