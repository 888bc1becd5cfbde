// SPDX-License-Identifier: Apache-2.0
/* What a system needs before anything runs in it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/log.h"
#include "guest/host_ids.h"
#include "guest/init.h"
#include "guest/put_file.h"

enum { MODALIASES_MAX = 256, MODALIAS_BYTES = 256 };

static const struct {
	const char *type, *path, *options;
	unsigned long flags;
} mounts[] = {
	{ "proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "devtmpfs", "/dev", "mode=0755", MS_NOSUID },
	{ "devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC },
	{ "tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV },
	{ "tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV },
	{ "cgroup2", "/sys/fs/cgroup", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
};

static bool is_mounted(const char *path)
{
	char parent[64];
	struct stat here, above;

	snprintf(parent, sizeof(parent), "%s/..", path);
	return stat(path, &here) == 0 && stat(parent, &above) == 0 && here.st_dev != above.st_dev;
}

static void mount_all(void)
{
	for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
		const char *path = mounts[i].path;
		if (is_mounted(path))
			continue;
		mkdir(path, 0755);
		if (mount(mounts[i].type, path, mounts[i].type, mounts[i].flags, mounts[i].options) < 0)
			log_warn("mount %s on %s: errno %d", mounts[i].type, path, errno);
	}
	/* The boot id of a clone is a mount, and has to reach namespaces that are made later. */
	if (mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL) < 0)
		log_warn("share the mounts: errno %d", errno);
}

/* The kernel gives its first process no console when the root file system has none at that moment. */
static void take_console(void)
{
	struct stat st;
	int fd = fstat(0, &st) < 0 ? open("/dev/console", O_RDWR | O_NOCTTY) : -1;

	if (fd < 0)
		return;
	dup2(fd, 0);
	dup2(fd, 1);
	dup2(fd, 2);
	if (fd > 2)
		close(fd);
}

static void set_hostname(void)
{
	char name[HOSTNAME_MAX + 2];

	if (get_text(AT_FDCWD, "/etc/hostname", name, sizeof(name)) <= 0)
		return;
	name[strcspn(name, "\n")] = '\0';
	if (hostname_is_good(name) && sethostname(name, strlen(name)) < 0)
		log_warn("set the hostname '%s': errno %d", name, errno);
}

static void bring_loopback_up(void)
{
	autoclose int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq rq = { .ifr_name = "lo" };

	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &rq) < 0)
		return; /* a kernel without a network */
	rq.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &rq) < 0)
		log_warn("bring the loopback interface up: errno %d", errno);
}

/* Appends what the devices of a bus want as modules. */
static size_t note_modaliases(const char *bus, const char *argv[], size_t n, size_t max)
{
	char path[128], alias[MODALIAS_BYTES];
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/bus/%s/devices", bus);
	dir = opendir(path);
	for (struct dirent *e; dir && n < max && (e = readdir(dir));) {
		snprintf(path, sizeof(path), "%.64s/modalias", e->d_name);
		if (e->d_name[0] == '.' || get_text(dirfd(dir), path, alias, sizeof(alias)) <= 0)
			continue;
		alias[strcspn(alias, "\n")] = '\0';
		argv[n] = strdup(alias);
		n += argv[n] != NULL;
	}
	if (dir)
		closedir(dir);
	return n;
}

/* There is no udev: each device is asked what it wants. Devices of one bus may appear by a module of the other. */
static void load_modules(const char *bus)
{
	const char *argv[MODALIASES_MAX + 5] = { "modprobe", "-a", "-b", "-q" };
	const size_t fixed = 4, n = note_modaliases(bus, argv, fixed, MODALIASES_MAX + fixed);
	pid_t pid = n > fixed ? fork() : -1;

	if (pid == 0) {
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
	for (size_t i = fixed; i < n; i++)
		free((char *)(uintptr_t)argv[i]);
}

void init_system(void)
{
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0);
	mount_all();
	take_console();
	set_hostname();
	load_modules("pci");
	load_modules("virtio");
	bring_loopback_up();
}
