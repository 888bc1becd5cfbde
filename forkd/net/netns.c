// SPDX-License-Identifier: Apache-2.0
/* Network namespaces with names. */
#include "forkd/net/netns.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/clock.h"
#include "forkd/wire/control.h"

enum { KILL_WAIT_MS = 5000 };

struct visit {
	int ns_fd;
	netns_fn *run;
	void *arg;
	struct err *err;
	int result;
};

static void *visit_main(void *arg)
{
	struct visit *v = arg;
	int r = v->ns_fd < 0 ? unshare(CLONE_NEWNET) : setns(v->ns_fd, CLONE_NEWNET);

	v->result = r < 0 ? err_sys(v->err, ERR_INTERNAL, "enter a network namespace") : v->run(v->arg, v->err);
	return NULL;
}

int netns_run(int ns_fd, netns_fn *run, void *arg, struct err *err)
{
	struct visit v = { .ns_fd = ns_fd, .run = run, .arg = arg, .err = err };
	pthread_t thread;

	int r = pthread_create(&thread, NULL, visit_main, &v);
	if (r != 0)
		return err_num(err, ERR_INTERNAL, r, "start a thread for a network namespace");
	pthread_join(thread, NULL);
	return v.result;
}

/* As `ip netns` does: mounts in the folder reach other mount namespaces. */
static int share_folder(struct err *err)
{
	if (mkdir(NETNS_DIR, 0755) < 0 && errno != EEXIST)
		return err_sys(err, ERR_INTERNAL, "make directory '" NETNS_DIR "'");
	if (mount("", NETNS_DIR, NULL, MS_SHARED | MS_REC, NULL) == 0)
		return 0;
	if (mount(NETNS_DIR, NETNS_DIR, NULL, MS_BIND | MS_REC, NULL) < 0 ||
	    mount("", NETNS_DIR, NULL, MS_SHARED | MS_REC, NULL) < 0)
		return err_sys(err, ERR_INTERNAL, "mount '" NETNS_DIR "'");
	return 0;
}

static int path_of(const char *name, char ret[64], struct err *err)
{
	if (snprintf(ret, 64, NETNS_DIR "/%s", name) >= 64)
		return err_set(err, ERR_INVALID, "the name of network namespace '%s' is too long", name);
	return 0;
}

struct making {
	const char *path;
	int fd;
};

static int bind_name(void *arg, struct err *err)
{
	struct making *m = arg;

	m->fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (m->fd < 0)
		return err_sys(err, ERR_INTERNAL, "open a network namespace");
	if (mount("/proc/thread-self/ns/net", m->path, NULL, MS_BIND, NULL) < 0)
		return err_sys(err, ERR_INTERNAL, "mount a network namespace at '%s'", m->path);
	return 0;
}

int netns_make(const char *name, int *ret_fd, struct err *err)
{
	char path[64];
	struct making m = { .path = path, .fd = -1 };

	if (path_of(name, path, err) < 0 || share_folder(err) < 0)
		return err->num;
	int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, errno == EEXIST ? ERR_CONFLICT : ERR_INTERNAL, "make '%s'", path);
	close(fd);
	if (netns_run(-1, bind_name, &m, err) < 0) {
		if (m.fd >= 0)
			close(m.fd);
		unlink(path);
		return err->num;
	}
	*ret_fd = m.fd;
	return 0;
}

int netns_open(const char *name, int *ret_fd, struct err *err)
{
	char path[64];

	if (path_of(name, path, err) < 0)
		return err->num;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_INTERNAL, "open '%s'", path);
	*ret_fd = fd;
	return 0;
}

bool netns_remove(const char *name)
{
	struct err err = {};
	char path[64];

	if (path_of(name, path, &err) < 0)
		return false;
	if (umount2(path, MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT)
		return false;
	return unlink(path) == 0 || errno == ENOENT;
}

void netns_each(void (*each)(void *arg, const char *name), void *arg)
{
	DIR *dir = opendir(NETNS_DIR);

	for (const struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir))
		if (e->d_name[0] != '.')
			each(arg, e->d_name);
	if (dir)
		closedir(dir);
}

/* A descriptor of the process, if its network namespace is the one that `want` is of; else -1. */
static int resident(const char *pid, const struct stat *want)
{
	char path[64];
	struct stat st;

	if (pid[0] < '1' || pid[0] > '9')
		return -1;
	snprintf(path, sizeof(path), "/proc/%.16s/ns/net", pid);
	autoclose int fd = (int)syscall(SYS_pidfd_open, (pid_t)strtol(pid, NULL, 10), 0);
	if (fd < 0 || stat(path, &st) < 0 || st.st_ino != want->st_ino || st.st_dev != want->st_dev)
		return -1;
	return steal_fd(&fd);
}

void netns_kill_all(int ns_fd)
{
	struct stat own, want;

	if (fstat(ns_fd, &want) < 0 || stat("/proc/self/ns/net", &own) < 0 || own.st_ino == want.st_ino)
		return;
	DIR *dir = opendir("/proc");
	for (const struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir)) {
		autoclose int fd = resident(e->d_name, &want);
		if (fd >= 0 && syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0)
			wait_readable(fd, deadline_in_ms(KILL_WAIT_MS));
	}
	if (dir)
		closedir(dir);
}
