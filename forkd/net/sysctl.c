// SPDX-License-Identifier: Apache-2.0
/* Switches of the kernel's network. */
#include "forkd/net/sysctl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

int sysctl_set(const char *name, int value, struct err *err)
{
	char path[160], text[16];

	int len = snprintf(text, sizeof(text), "%d\n", value);
	snprintf(path, sizeof(path), "/proc/sys/net/%s", name);
	autoclose int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, (size_t)len) != len)
		return err_sys(err, ERR_INTERNAL, "write %d to '%s'", value, path);
	return 0;
}

int sysctl_set_of(const char *version, const char *interface, const char *key, int value, struct err *err)
{
	char name[128];

	snprintf(name, sizeof(name), "%s/conf/%s/%s", version, interface, key);
	return sysctl_set(name, value, err);
}

int sysctl_get(const char *name)
{
	char path[160], text[16] = "";

	snprintf(path, sizeof(path), "/proc/sys/net/%s", name);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	return n > 0 ? (int)strtol(text, NULL, 10) : -1;
}
