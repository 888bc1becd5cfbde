// SPDX-License-Identifier: Apache-2.0
/* Binds unix sockets, listens with a lock file, and sends and receives descriptors (SCM_RIGHTS). */
#include "common/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include "common/fs.h"

_Static_assert(SOCK_PATH_MAX == sizeof(((struct sockaddr_un *)0)->sun_path) - 1, "SOCK_PATH_MAX");

/* Aligned room for one control message with the most descriptors. */
union rights {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * SOCK_FDS_MAX)];
};

static int lock_path(const char *path, int *ret_fd, struct err *err)
{
	autofree char *name = NULL;
	char fs[FS_NAME];

	if (asprintf(&name, "%s.lock", path) < 0) {
		name = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "lock socket '%s'", path);
	}
	autoclose int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "open lock file '%s'", name);
	int r = fs_lock(fd, FS_LOCK_OFD);
	if (r == -EAGAIN)
		return err_set(err, ERR_BUSY, "socket '%s' is already in use by another running instance", path);
	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "'%s' cannot be locked on %s", name, fs_name(fd, fs));
	*ret_fd = steal_fd(&fd);
	return 0;
}

static bool to_address(const char *path, struct sockaddr_un *ret_addr)
{
	size_t len = strlen(path);

	*ret_addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (len > SOCK_PATH_MAX)
		return false;
	memcpy(ret_addr->sun_path, path, len);
	return true;
}

struct sock_file sock_file_at(const char *path)
{
	struct statx st;

	if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &st) < 0)
		return (struct sock_file){};
	return (struct sock_file){
		.dev = makedev(st.stx_dev_major, st.stx_dev_minor),
		.ino = st.stx_ino,
		.born_ns = st.stx_mask & STATX_BTIME ? (uint64_t)st.stx_btime.tv_sec * 1000000000 + st.stx_btime.tv_nsec
						     : 0,
	};
}

void sock_remove(const char *path, const struct sock_file *file)
{
	const struct sock_file now = sock_file_at(path);

	if (file->ino != 0 && now.ino == file->ino && now.dev == file->dev && now.born_ns == file->born_ns)
		unlink(path);
}

int sock_bind(const char *path, int type, mode_t mode, struct sock_file *ret_file)
{
	struct sockaddr_un addr;

	if (!to_address(path, &addr))
		return -ENAMETOOLONG;
	autoclose int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/*
	 * bind() gives the file the mode of the socket, so there is no moment at which it is open
	 * to others.
	 */
	if (fd < 0 || fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)) < 0)
		return -errno;
	if (ret_file)
		*ret_file = sock_file_at(path);
	return steal_fd(&fd);
}

int sock_listen(const char *path, struct sock_listener *ret_listener, struct err *err)
{
	autoclose int lock_fd = -1;
	struct sock_file file;
	struct stat st;

	if (path[0] == '\0' || strlen(path) > SOCK_PATH_MAX)
		return err_set(err, ERR_INVALID, "socket path '%s' must have 1 to %d bytes", path, SOCK_PATH_MAX);
	if (lock_path(path, &lock_fd, err) < 0)
		return err->num;
	autofree char *copy = strdup(path);
	if (!copy)
		return err_num(err, ERR_INTERNAL, ENOMEM, "listen at '%s'", path);
	if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(path); /* this process has the lock, so the socket belongs to nobody alive */
	autoclose int fd = sock_bind(path, SOCK_STREAM, 0700, &file);
	if (fd < 0)
		return err_num(err, ERR_INTERNAL, -fd, "bind socket '%s'", path);
	if (listen(fd, SOMAXCONN) < 0) {
		int num = errno;
		sock_remove(path, &file);
		return err_num(err, ERR_INTERNAL, num, "listen at '%s'", path);
	}
	*ret_listener = (struct sock_listener){
		.fd = steal_fd(&fd),
		.lock_fd = steal_fd(&lock_fd),
		.path = steal_ptr(&copy),
		.file = file,
	};
	return 0;
}

int sock_listen_fd(int fd, struct sock_listener *ret_listener, struct err *err)
{
	autoclose int own = fd;
	int listening = 0, domain = 0;
	socklen_t len = sizeof(int);

	if (getsockopt(own, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 ||
	    getsockopt(own, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return err_sys(err, ERR_INVALID, "descriptor %d is no socket", fd);
	if (domain != AF_UNIX || !listening)
		return err_set(err, ERR_INVALID, "descriptor %d is no listening unix socket", fd);
	int flags = fcntl(own, F_GETFL);
	if (flags < 0 || fcntl(own, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(own, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, ERR_INTERNAL, "set the flags of descriptor %d", fd);
	*ret_listener = (struct sock_listener){ .fd = steal_fd(&own), .lock_fd = -1 };
	return 0;
}

void sock_listener_done(struct sock_listener *l)
{
	if (l->path)
		sock_remove(l->path, &l->file); /* before the lock goes: no other instance replaces it meanwhile */
	if (l->fd > 0)
		close(l->fd);
	if (l->lock_fd > 0)
		close(l->lock_fd);
	free(l->path);
	*l = (struct sock_listener){ .fd = -1, .lock_fd = -1 };
}

void sock_close_sent(int fd)
{
	const struct linger off = {};

	if (fd < 0)
		return;
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off)); /* fails for what is no socket */
	close(fd);
}

static void close_all(const int *fds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		sock_close_sent(fds[i]);
}

void sock_discard(int fd)
{
	char bytes[4096];
	int fds[SOCK_FDS_MAX];
	uint32_t n_fds;
	ssize_t n;

	if (shutdown(fd, SHUT_RDWR) < 0)
		return;
	do { /* has an end: nothing more can come */
		struct err ignored = {};
		n = sock_recv(fd, bytes, sizeof(bytes), fds, &n_fds, &ignored);
		close_all(fds, n_fds);
	} while (n > 0 || n == -EMFILE || n == -EMSGSIZE);
}

/*
 * Copies the descriptors of all control messages out; the kernel never sends more than SOCK_FDS_MAX
 * at once.
 */
static uint32_t take_rights(struct msghdr *msg, int *fds)
{
	uint32_t n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		uint32_t count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds + n, CMSG_DATA(c), count * sizeof(int));
		n += count;
	}
	return n;
}

ssize_t sock_recv(int fd, void *buf, size_t size, int *ret_fds, uint32_t *ret_n_fds, struct err *err)
{
	union rights control;
	struct iovec iov = { .iov_base = buf, .iov_len = size };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	*ret_n_fds = 0;
	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return -EAGAIN;
	if (n < 0)
		return err_sys(err, ERR_INTERNAL, "receive from socket %d", fd);
	*ret_n_fds = take_rights(&msg, ret_fds);
	if (msg.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) {
		close_all(ret_fds, *ret_n_fds);
		*ret_n_fds = 0;
		return err_num(err, ERR_INTERNAL, msg.msg_flags & MSG_CTRUNC ? EMFILE : EMSGSIZE,
			       "receive from socket %d: the message was cut", fd);
	}
	return n;
}

ssize_t sock_send(int fd, const void *buf, size_t len, const int *fds, uint32_t n_fds, struct err *err)
{
	union rights control;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (n_fds > SOCK_FDS_MAX || (n_fds > 0 && len == 0))
		return err_set(err, ERR_INTERNAL, "cannot send %u descriptors with %zu bytes", n_fds, len);
	if (n_fds > 0) {
		control.align = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int) * n_fds),
		};
		memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * n_fds);
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
	}
	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return -EAGAIN;
	if (n < 0)
		return err_sys(err, ERR_INTERNAL, "send to socket %d", fd);
	return n;
}

int sock_connect(int fd, const char *path, struct err *err)
{
	struct sockaddr_un addr;

	if (!to_address(path, &addr))
		return err_set(err, ERR_INVALID, "the socket path '%s' is longer than %d bytes", path, SOCK_PATH_MAX);
	if (fd < 0 || connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)) < 0)
		return err_sys(err, ERR_INTERNAL, "connect to '%s'", path);
	return 0;
}
