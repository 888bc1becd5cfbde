// SPDX-License-Identifier: Apache-2.0
/* Which files are host keys, and whose process reads them. */
#include "guest/ssh_keys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "common/log.h"
#include "guest/put_file.h"

static bool is_host_key(const char *name)
{
	size_t len = strlen(name);

	return strncmp(name, "ssh_host_", 9) == 0 && ((len > 4 && strcmp(name + len - 4, "_key") == 0) ||
						      (len > 8 && strcmp(name + len - 8, "_key.pub") == 0));
}

/* Counts the host keys; with `remove`, removes them. -errno: one could not be removed. */
static int each_key(int root_fd, bool remove)
{
	int fd = openat(root_fd, "etc/ssh", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int n = 0;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	for (struct dirent *e; n >= 0 && (e = readdir(dir));)
		if (is_host_key(e->d_name))
			n = remove && unlinkat(dirfd(dir), e->d_name, 0) < 0 ? -errno : n + 1;
	closedir(dir);
	return n;
}

bool ssh_has_host_keys(int root_fd)
{
	return each_key(root_fd, false) > 0;
}

/* sshd reads its keys once; SIGHUP makes it execute itself again. */
static void restart_sshd(int root_fd)
{
	char text[32], path[48];

	if (get_text(root_fd, "/run/sshd.pid", text, sizeof(text)) <= 0)
		return;
	long pid = strtol(text, NULL, 10);
	if (pid <= 1 || pid > INT32_MAX)
		return;
	snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
	if (get_text(root_fd, path, text, sizeof(text)) <= 0 || strcmp(text, "sshd\n") != 0)
		return;
	if (kill((pid_t)pid, SIGHUP) < 0)
		log_warn("tell sshd (%ld) to start anew: %m", pid);
}

int ssh_host_keys_take(int root_fd, struct err *err)
{
	static const char to[] = "etc/ssh/ssh_host_ed25519_key";
	const char *from = path_below(SSH_NEW_KEY);
	char from_pub[64], to_pub[64];

	snprintf(from_pub, sizeof(from_pub), "%s.pub", from);
	snprintf(to_pub, sizeof(to_pub), "%s.pub", to);
	if (faccessat(root_fd, from, F_OK, 0) < 0)
		return err_sys(err, ERR_INTERNAL, "the new ssh host key '%s'", SSH_NEW_KEY);
	int r = each_key(root_fd, true);
	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "remove the old ssh host keys");
	if (renameat(root_fd, from, root_fd, to) < 0 || renameat(root_fd, from_pub, root_fd, to_pub) < 0)
		return err_sys(err, ERR_INTERNAL, "rename the new ssh host key");
	restart_sshd(root_fd);
	return 0;
}
