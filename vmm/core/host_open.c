// SPDX-License-Identifier: Apache-2.0
/* Opens what was named, or refuses. */
#include "vmm/core/host_open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/auto.h"
#include "common/ctl.h"
#include "common/log.h"
#include "common/sock.h"

/* Set once, before the first thread is made. */
static struct {
	bool shut;
	host_connect_fn connect;
	void *opaque;
} door;

void host_open_shut(host_connect_fn connect, void *opaque)
{
	door.shut = true;
	door.connect = connect;
	door.opaque = opaque;
}

bool host_open_is_shut(void)
{
	return door.shut;
}

static bool may(const char *path)
{
	if (door.shut)
		log_warn("'%s' is not opened: a VM of forkd gets descriptors, not names", path);
	return !door.shut;
}

int host_open(const char *path, int flags, mode_t mode)
{
	if (!ctl_is_random_source(path) && !may(path)) {
		errno = EPERM;
		return -1;
	}
	return open(path, flags | O_CLOEXEC, mode);
}

int host_open_output(const char *path, int flags, mode_t mode)
{
	flags |= O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY;
	/* Linux opens a FIFO for both at once, reader or not. It takes the right to read. */
	int fd = host_open(path, O_RDWR | flags, mode);

	return fd < 0 && !door.shut ? host_open(path, O_WRONLY | flags, mode) : fd;
}

int host_bind(const char *path, const char *what, struct sock_file *ret_file, struct err *err)
{
	int fd = may(path) ? sock_bind(path, SOCK_STREAM, 0777, ret_file) : -EPERM;

	if (fd == -ENAMETOOLONG)
		return err_set(err, ERR_INVALID, "socket path '%s' is longer than %d bytes", path, SOCK_PATH_MAX);
	return fd < 0 ? err_num(err, ERR_INTERNAL, -fd, "%s '%s'", what, path) : fd;
}

void host_unbind(const char *path, const struct sock_file *file)
{
	sock_remove(path, file);
}

int host_connect_port(const char *path, uint32_t port)
{
	autofree char *name = NULL;
	struct err ignored = {};

	if (door.shut)
		return door.connect ? door.connect(door.opaque, port) : -1;
	if (asprintf(&name, "%s_%u", path, port) < 0) {
		name = NULL;
		return -1;
	}
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return sock_connect(fd, name, &ignored) < 0 ? -1 : steal_fd(&fd);
}
