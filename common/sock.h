// SPDX-License-Identifier: Apache-2.0
/*
 * Unix sockets, and the descriptors that travel over them. A lock file beside a listening path
 * guards the path: a second instance is refused, and a socket that a dead one left is replaced.
 * Nothing here is shared between threads.
 */
#ifndef COMMON_SOCK_H
#define COMMON_SOCK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

enum { SOCK_FDS_MAX = 253 };  /* the kernel's limit for one message (SCM_MAX_FD) */
enum { SOCK_PATH_MAX = 107 }; /* bytes of a unix socket's path (sun_path without its NUL) */

/*
 * Which file a socket was bound to: another file may have the name by now. Plain data; all zero: not
 * known.
 */
struct sock_file {
	uint64_t dev, ino;
	uint64_t born_ns; /* file systems use numbers again; 0: this one does not say it */
};

/*
 * Makes a socket of that type (SOCK_STREAM, SOCK_SEQPACKET), non-blocking and close-on-exec, and
 * binds it to `path`, whose mode becomes mode & ~umask. The socket does not listen yet. A
 * descriptor or -errno; -ENAMETOOLONG: the path is longer than SOCK_PATH_MAX. *ret_file is for
 * sock_remove(); NULL: nobody asks.
 */
MUST_CHECK int sock_bind(const char *path, int type, mode_t mode, struct sock_file *ret_file);
/* What is there now. */
struct sock_file sock_file_at(const char *path);
/* Removes the socket at `path`; leaves any other file there, and everything when it is not known. */
void sock_remove(const char *path, const struct sock_file *file);

struct sock_listener {
	int fd;      /* non-blocking, listening */
	int lock_fd; /* holds the write lock on `<path>.lock`; -1: made from a descriptor */
	char *path;  /* NULL: made from a descriptor */
	struct sock_file file;
};

/*
 * Listens at `path` with a stream socket of mode 0700 & ~umask. Takes an OFD write lock on
 * `<path>.lock` (0600), which stays behind for ever. ERR_BUSY: another instance has the lock. A
 * stale socket is replaced; any other kind of file is not.
 */
MUST_CHECK int sock_listen(const char *path, struct sock_listener *ret_listener, struct err *err);
/*
 * The same with an inherited socket, which must be listening already. Takes `fd` over, also on
 * failure.
 */
MUST_CHECK int sock_listen_fd(int fd, struct sock_listener *ret_listener, struct err *err);
/*
 * Removes the socket's file, never the lock file, and closes. The listener may be zeroed, or done
 * already.
 */
void sock_listener_done(struct sock_listener *listener);

/*
 * Connects the unix socket `fd` to `path`, within the socket's timeouts, if it has any. fd -1:
 * making the socket has failed, and errno says why.
 */
MUST_CHECK int sock_connect(int fd, const char *path, struct err *err);

/*
 * Receives up to `size` bytes, and the descriptors that came with them, close-on-exec, into
 * ret_fds[SOCK_FDS_MAX]; *ret_n_fds is always set. Returns the number of bytes; 0: end of file;
 * -EAGAIN, without an error message: there is nothing. It is an error when descriptors were lost on
 * the way (-EMFILE: this process has no free numbers); those that came are closed then.
 */
MUST_CHECK ssize_t sock_recv(int fd, void *buf, size_t size, int *ret_fds, uint32_t *ret_n_fds, struct err *err);
/*
 * Sends bytes, and with the first of them up to SOCK_FDS_MAX descriptors, which stay the caller's;
 * with descriptors there must be a byte. Never raises SIGPIPE. Returns the number of bytes sent,
 * which may be fewer; -EAGAIN, without an error message: nothing could be sent.
 */
MUST_CHECK ssize_t sock_send(int fd, const void *buf, size_t len, const int *fds, uint32_t n_fds, struct err *err);

/*
 * Closes a descriptor that somebody sent. A socket with SO_LINGER would hold up whoever closes it
 * last, for as long as the sender has set. fd < 0: nothing is done.
 */
void sock_close_sent(int fd);
/*
 * Before a unix stream socket is closed: shuts it down, and throws away what is unread, with the
 * descriptors in it. Otherwise close() closes those, and waits as described above.
 */
void sock_discard(int fd);

#endif
