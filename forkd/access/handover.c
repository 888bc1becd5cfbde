// SPDX-License-Identifier: Apache-2.0
/* Making and listing descriptors for VM processes. */
#include "forkd/access/handover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/log.h"
#include "common/sock.h"
#include "forkd/errors.h"
#include "forkd/wire/control.h"

enum { SECTOR_BYTES = 512 };

void handover_done(struct handover *h)
{
	for (uint32_t i = 0; i < h->n; i++)
		if (!h->borrowed[i])
			close(h->fds[i]);
	h->n = 0;
}

int handover_add(struct handover *h, enum ctl_fd_kind kind, char *id, int fd, bool borrowed, struct err *err)
{
	if (h->n == SOCK_FDS_MAX) {
		if (!borrowed)
			close(fd);
		return fail(err, E_INVALID, "one clone needs more than %d descriptors", SOCK_FDS_MAX);
	}
	h->kinds[h->n] = (struct ctl_fd){ .kind = kind, .id = id };
	h->borrowed[h->n] = borrowed;
	h->fds[h->n++] = fd;
	return 0;
}

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
	if (fd < 0 || fchmod(fd, 0711) < 0) { /* whatever the umask */
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

/* To the caller, where the daemon makes files for him. */
static int give(const struct place *p, const char *name, struct err *err)
{
	const struct caller *c = p->caller;

	if (!p->gives)
		return 0;
	if (fchownat(p->fd, name, c->uid, c->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, ERR_INTERNAL, "give '%s/%s' to user %u", p->path, name, c->uid);
	return 0;
}

static int listen_at(const char *path, int type, struct sock_file *ret_file, int *ret_fd, struct err *err)
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
	if (listen_at(path, type, NULL, &fd, err) < 0 || (type == SOCK_STREAM && give(p, name, err) < 0))
		return err->num;
	*ret_fd = steal_fd(&fd);
	return 0;
}

static int path_of(const struct place *p, const char *name, char **ret_path, struct err *err)
{
	if (ret_path && asprintf(ret_path, "%s/%s", p->path, name) < 0) {
		*ret_path = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "name '%s'", name);
	}
	return 0;
}

int handover_socket(struct handover *h, enum ctl_fd_kind kind, const struct place *p, const char *name, char **ret_path,
		    struct err *err)
{
	int fd;

	if (place_listen(p, name, SOCK_STREAM, &fd, err) < 0 || handover_add(h, kind, NULL, fd, false, err) < 0)
		return err->num;
	return path_of(p, name, ret_path, err);
}

int handover_vsock_at(struct handover *h, const char *path, struct record *r, struct err *err)
{
	int fd;

	r->vsock_socket = strdup(path);
	if (!r->vsock_socket)
		return err_num(err, ERR_INTERNAL, ENOMEM, "listen at '%s'", path);
	if (listen_at(path, SOCK_STREAM, &r->vsock_file, &fd, err) < 0)
		return err->num;
	return handover_add(h, CTL_FD_VSOCK, NULL, fd, false, err);
}

int handover_log(struct handover *h, enum ctl_fd_kind kind, const struct place *p, const char *name, char **ret_path,
		 struct err *err)
{
	int fd = openat(p->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "make '%s/%s'", p->path, name);
	if (handover_add(h, kind, NULL, fd, false, err) < 0 || give(p, name, err) < 0)
		return err->num;
	return path_of(p, name, ret_path, err);
}

int handover_check_disk(int fd, const char *path, uint64_t bytes, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		return fail(err, E_INVALID, "'%s' is neither a file nor a block device", path);
	off_t has = lseek(fd, 0, SEEK_END); /* of a block device, too */
	if (has < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return err_sys(err, ERR_INTERNAL, "find out the size of '%s'", path);
	if ((uint64_t)has / SECTOR_BYTES * SECTOR_BYTES < bytes)
		return fail(err, E_INVALID, "'%s' has %llu bytes, the guest knows a disk of %llu", path,
			    (unsigned long long)has, (unsigned long long)bytes);
	return 0;
}

/* Opened without waiting for anything; io_uring takes O_NONBLOCK at its word, so it goes away. */
static int check_disk(int fd, const char *path, uint64_t bytes, struct err *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (handover_check_disk(fd, path, bytes, err) < 0)
		return err->num;
	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
		return err_sys(err, ERR_INTERNAL, "set the flags of '%s'", path);
	return 0;
}

/* The VM process takes the lock; here it can be said in time, and by name, that another one has it. */
static int check_unlocked(int lock_fd, const char *path, bool readonly, struct err *err)
{
	struct flock lock = { .l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(lock_fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
		return fail(err, E_CONFLICT, "'%s' is locked by another VM", path);
	return 0;
}

int handover_disk(struct handover *h, const struct policy *policy, const struct caller *who,
		  const struct ctl_disk *disk, const char *path, struct err *err)
{
	int flags = (disk->readonly ? O_RDONLY : O_RDWR) | (disk->direct ? O_DIRECT : 0) | O_NONBLOCK | O_NOCTTY, fd;
	char again[32];

	if (policy_open(policy, who, path, flags, &fd, err) < 0)
		return err_wrap(err, "disk '%s'", disk->id);
	if (handover_add(h, CTL_FD_DISK, disk->id, fd, false, err) < 0 || check_disk(fd, path, disk->bytes, err) < 0)
		return err_wrap(err, "disk '%s'", disk->id);
	/* the same file whatever the name is by now, with locks of its own */
	snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
	int lock = open(again, (disk->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (lock < 0)
		return err_sys(err, ERR_INTERNAL, "disk '%s': open '%s' again", disk->id, path);
	if (handover_add(h, CTL_FD_DISK_LOCK, disk->id, lock, false, err) < 0)
		return err->num;
	return check_unlocked(lock, path, disk->readonly, err) < 0 ? err_wrap(err, "disk '%s'", disk->id) : 0;
}
