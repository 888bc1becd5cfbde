// SPDX-License-Identifier: Apache-2.0
/* Modules, disk, the change of the root, and what runs then. */
#include "guest/boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "guest/put_file.h"

#define MODULES "/forkd/modules"
#define LIST "/forkd/modules.list"
#define CONFIG "/forkd/image.json"
#define ROOT "/sysroot"
/* Where the agent and the image's configuration are afterwards. */
#define HOME "/run/forkd"
#define AGENT HOME "/forkd-agent"
#define HOME_CONFIG HOME "/image.json"
enum { LIST_BYTES = 16384, CMDLINE_BYTES = 4096, COPY_PIECE = 65536, POLL_NS = 5000000 };

/* As guest/systemd/forkd-agent.service, for an agent that is not on the disk. */
#define UNIT                                                                                                    \
	"[Unit]\nDescription=Commands and files of this guest for forkd on its host\nAfter=local-fs.target\n\n" \
	"[Service]\nExecStart=" AGENT                                                                           \
	"%s\nRestart=always\nRestartSec=200ms\nDelegate=yes\nOOMPolicy=continue\nTasksMax=infinity\n"

static const struct {
	const char *type, *path, *options;
	unsigned long flags;
} mounts[] = {
	{ "proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "devtmpfs", "/dev", "mode=0755", MS_NOSUID },
};
static const char *const systemd[] = { "/usr/lib/systemd/systemd", "/lib/systemd/systemd" };

bool boot_is_wanted(const char *name)
{
	return getpid() == 1 && name && strcmp(name, "/init") == 0 && access(LIST, F_OK) == 0;
}

/* ---- the kernel's command line ---- */

int boot_read_cmdline(char *text, struct boot_wish *ret_wish, struct err *err)
{
	struct boot_wish w = { .root = "/dev/vda", .type = "ext4", .options = NULL, .init = NULL };

	for (char *word; (word = strsep(&text, " \n"));) {
		if (strncmp(word, "root=", 5) == 0)
			w.root = word + 5;
		else if (strncmp(word, "rootfstype=", 11) == 0)
			w.type = word + 11;
		else if (strncmp(word, "rootflags=", 10) == 0)
			w.options = word + 10;
		else if (strncmp(word, "forkd.init=", 11) == 0)
			w.init = word + 11;
		else if (strcmp(word, "ro") == 0 || strcmp(word, "rw") == 0)
			w.read_only = word[1] == 'o';
		else if (strcmp(word, "--") == 0)
			break;
	}
	if (strncmp(w.root, "/dev/", 5) != 0)
		return err_set(err, ERR_INVALID, "root=%.100s: must be /dev/NAME", w.root);
	if (w.init && strcmp(w.init, "agent") != 0 && strcmp(w.init, "image") != 0)
		return err_set(err, ERR_INVALID, "forkd.init=%.100s: must be agent or image", w.init);
	*ret_wish = w;
	return 0;
}

/* ---- in the initramfs ---- */

static int mount_first(struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(mounts); i++)
		if (mount(mounts[i].type, mounts[i].path, mounts[i].type, mounts[i].flags, mounts[i].options) < 0 &&
		    errno != EBUSY)
			return err_sys(err, ERR_INTERNAL, "mount %s on %s", mounts[i].type, mounts[i].path);
	return 0;
}

/* A module that this kernel does not take is logged: what is missing then shows by itself. */
static void load_module(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), MODULES "/%.200s.ko", name);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
		log_warn("load the module %s: errno %d", name, errno);
}

static void load_modules(void)
{
	static char list[LIST_BYTES];
	char *at = list;

	if (get_text(AT_FDCWD, LIST, list, sizeof(list)) < 0) {
		log_warn("read " LIST ": errno %d", errno);
		return;
	}
	for (char *name; (name = strsep(&at, "\n"));)
		if (*name)
			load_module(name);
}

static int mount_root(const struct boot_wish *w, struct err *err)
{
	const uint64_t give_up = monotonic_ns() + BOOT_ROOT_S * 1000000000ULL;
	const unsigned long flags = w->read_only ? MS_RDONLY : 0;

	while (access(w->root, F_OK) < 0) {
		if (monotonic_ns() > give_up)
			return err_set(err, ERR_NOT_FOUND, "root=%s: there is no such disk after %d s", w->root,
				       BOOT_ROOT_S);
		nanosleep(&(struct timespec){ .tv_nsec = POLL_NS }, NULL);
	}
	if (mount(w->root, ROOT, w->type, flags, w->options) < 0)
		return err_sys(err, ERR_INTERNAL, "mount %s as %s", w->root, w->type);
	return 0;
}

static int copy(const char *from, const char *to, mode_t mode, struct err *err)
{
	static char piece[COPY_PIECE];
	ssize_t n;

	autoclose int in = open(from, O_RDONLY | O_CLOEXEC);
	autoclose int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (in < 0 || out < 0)
		return err_sys(err, ERR_INTERNAL, "copy %s to %s", from, to);
	while ((n = read(in, piece, sizeof(piece))) > 0)
		if (write(out, piece, (size_t)n) != n)
			return err_sys(err, ERR_INTERNAL, "copy %s to %s", from, to);
	return n < 0 ? err_sys(err, ERR_INTERNAL, "copy %s to %s", from, to) : 0;
}

/* The agent goes on from memory, whatever is on the disk. */
static int settle_agent(struct err *err)
{
	mkdir(ROOT "/run", 0755);
	if (mount("tmpfs", ROOT "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") < 0 || mkdir(ROOT HOME, 0755) < 0)
		return err_sys(err, ERR_INTERNAL, "mount a tmpfs on /run");
	if (copy("/init", ROOT AGENT, 0755, err) < 0)
		return err->num;
	return access(CONFIG, F_OK) == 0 ? copy(CONFIG, ROOT HOME_CONFIG, 0644, err) : 0;
}

/* ---- the change ---- */

/* The initramfs is memory: its files are not needed any more. */
static void drop_initramfs(void)
{
	DIR *dir = opendir(MODULES);

	for (const struct dirent *e; dir && (e = readdir(dir));)
		(void)unlinkat(dirfd(dir), e->d_name, 0);
	if (dir)
		closedir(dir);
	unlink(LIST);
	unlink(CONFIG);
	unlink("/init");
}

static int change_root(struct err *err)
{
	char to[64];

	for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
		snprintf(to, sizeof(to), ROOT "%s", mounts[i].path);
		mkdir(to, 0755);
		if (mount(mounts[i].path, to, NULL, MS_MOVE, NULL) < 0)
			return err_sys(err, ERR_INTERNAL, "move %s to the disk", mounts[i].path);
	}
	drop_initramfs();
	if (chdir(ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return err_sys(err, ERR_INTERNAL, "change to the disk");
	return 0;
}

/* ---- on the disk ---- */

static const char *systemd_of_image(void)
{
	for (size_t i = 0; i < ARRAY_LEN(systemd); i++)
		if (access(systemd[i], X_OK) == 0)
			return systemd[i];
	return NULL;
}

/* A unit of this boot, which systemd starts as if it were enabled. */
static int add_unit(struct err *err)
{
	char unit[sizeof(UNIT) + 64];

	autoclose int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(unit, sizeof(unit), UNIT, access(HOME_CONFIG, F_OK) == 0 ? " --image-config " HOME_CONFIG : "");
	if (make_dirs(root, "/run/systemd/system/multi-user.target.wants", 0755, err) < 0 ||
	    put_text(root, "/run/systemd/system/forkd-agent.service", unit, err) < 0)
		return err->num;
	if (symlink("../forkd-agent.service", "/run/systemd/system/multi-user.target.wants/forkd-agent.service") < 0)
		return err_sys(err, ERR_INTERNAL, "enable forkd-agent.service");
	return 0;
}

static int run_systemd(const char *path, struct err *err)
{
	if (add_unit(err) < 0)
		return err->num;
	execl(path, path, (char *)NULL);
	return err_sys(err, ERR_INTERNAL, "run %s", path);
}

static int run_agent(struct err *err)
{
	const bool configured = access(HOME_CONFIG, F_OK) == 0;

	execl(AGENT, AGENT, "--init", "--stay", configured ? "--image-config" : (char *)NULL, HOME_CONFIG,
	      (char *)NULL);
	return err_sys(err, ERR_INTERNAL, "run " AGENT);
}

int boot_run(struct err *err)
{
	static char text[CMDLINE_BYTES];
	struct boot_wish wish;

	if (mount_first(err) < 0)
		return err->num;
	ssize_t n = get_text(AT_FDCWD, "/proc/cmdline", text, sizeof(text));
	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read /proc/cmdline");
	if (boot_read_cmdline(text, &wish, err) < 0)
		return err->num;
	load_modules();
	if (mount_root(&wish, err) < 0 || settle_agent(err) < 0 || change_root(err) < 0)
		return err->num;
	const char *init = systemd_of_image();
	if (wish.init && strcmp(wish.init, "image") == 0 && !init)
		return err_set(err, ERR_NOT_FOUND, "forkd.init=image: the image has no systemd");
	return init && !(wish.init && strcmp(wish.init, "agent") == 0) ? run_systemd(init, err) : run_agent(err);
}
