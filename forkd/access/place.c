// SPDX-License-Identifier: Apache-2.0
/* Directories of clones and of builds. */
#include "forkd/access/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/log.h"
#include "common/sock.h"
#include "forkd/errors.h"
#include "forkd/wire/control.h"

int place_make(struct forkd *d, const struct caller *caller, const char *parent, const char *name, struct place *ret,
	       struct err *err)
{
	autofree char *path = place_path(d, parent, name);
	bool gives;

	if (caller_act_as(caller, &gives, err) < 0)
		return err->num;
	if (!path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make a directory");
	if (mkdir(path, 0711) < 0)
		return err_sys(err, ERR_INTERNAL, "make directory '%s'", path);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, 0711) < 0) { /* fchmod: the umask has no effect */
		err_sys(err, ERR_INTERNAL, "open directory '%s'", path);
		if (fd >= 0)
			close(fd);
		rmdir(path);
		return err->num;
	}
	*ret = (struct place){ .d = d, .caller = caller, .path = steal_ptr(&path), .fd = fd, .gives = gives };
	return 0;
}

void place_done(struct place *p)
{
	if (p->path)
		close(p->fd);
	free(p->path);
	*p = (struct place){};
}

char *place_path(const struct forkd *d, const char *parent, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s/%s", d->runtime_dir, parent, name) < 0 ? NULL : path;
}

int place_open(const struct forkd *d, const char *parent, const char *name, int *ret_fd, struct err *err)
{
	autofree char *path = place_path(d, parent, name);
	int fd = open(path ? path : "", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "open directory '%s'", path ? path : name);
	*ret_fd = fd;
	return 0;
}

int place_connect(const struct forkd *d, const char *parent, const char *name, int *ret_fd, struct err *err)
{
	autofree char *path = NULL;

	if (asprintf(&path, "%s/%s/%s/control.sock", d->runtime_dir, parent, name) < 0) {
		path = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "connect to '%s'", name);
	}
	autoclose int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 && control_bound(fd, err) < 0)
		return err->num;
	if (sock_connect(fd, path, err) < 0)
		return err->num;
	*ret_fd = steal_fd(&fd);
	return 0;
}

void place_clear(const struct forkd *d, const char *parent, const char *name)
{
	autofree char *path = place_path(d, parent, name);
	DIR *dir = path ? opendir(path) : NULL;

	if (!dir)
		return;
	for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			unlinkat(dirfd(dir), e->d_name, 0);
	closedir(dir);
	if (rmdir(path) < 0 && errno != ENOENT)
		log_warn("remove '%s': %s", path, strerror(errno));
}

void place_clear_clone(const struct forkd *d, const struct record *r)
{
	if (r->vsock_socket)
		sock_remove(r->vsock_socket, &r->vsock_file);
	place_clear(d, "clones", r->id);
}

int place_give(const struct place *p, const char *name, struct err *err)
{
	const struct caller *c = p->caller;

	if (!p->gives)
		return 0;
	if (fchownat(p->fd, name, c->uid, c->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, ERR_INTERNAL, "give '%s/%s' to user %u", p->path, name, c->uid);
	return 0;
}

int place_listen_at(const char *path, int type, struct sock_file *ret_file, int *ret_fd, struct err *err)
{
	autoclose int fd = sock_bind(path, type, 0600, ret_file);

	if (fd == -ENAMETOOLONG)
		return err_set(err, ERR_INVALID, "the socket path '%s' is longer than %d bytes", path, SOCK_PATH_MAX);
	if (fd < 0)
		return err_num(err, fd == -EADDRINUSE ? ERR_CONFLICT : ERR_INTERNAL, -fd, "listen at '%s'", path);
	if (listen(fd, SOMAXCONN) < 0)
		return err_sys(err, ERR_INTERNAL, "listen at '%s'", path);
	*ret_fd = steal_fd(&fd);
	return 0;
}

int place_listen(const struct place *p, const char *name, int type, int *ret_fd, struct err *err)
{
	autofree char *path = NULL;

	if (asprintf(&path, "%s/%s", p->path, name) < 0) {
		path = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "listen at '%s'", name);
	}
	autoclose int fd = -1;
	if (place_listen_at(path, type, NULL, &fd, err) < 0 || (type == SOCK_STREAM && place_give(p, name, err) < 0))
		return err->num;
	*ret_fd = steal_fd(&fd);
	return 0;
}
