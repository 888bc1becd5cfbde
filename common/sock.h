// SPDX-License-Identifier: Apache-2.0
/*
 * Unix sockets and the descriptors that travel over them. A listening path is guarded by a lock file beside it,
 * so that a second instance is refused and a socket left by a dead one is replaced. Nothing here is shared
 * between threads.
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
 * A socket of that type (SOCK_STREAM, SOCK_SEQPACKET), non-blocking, close-on-exec, bound to `path` with mode & ~umask; it does not
 * listen yet. A descriptor or -errno: -ENAMETOOLONG for a path that is longer than SOCK_PATH_MAX.
 */
MUST_CHECK int sock_bind(const char *path, int type, mode_t mode);

struct sock_listener {
	int fd;      /* non-blocking, listening */
	int lock_fd; /* holds the write lock on `<path>.lock`; -1: made from a descriptor */
	char *path;  /* NULL: made from a descriptor */
};

/*
 * Listens at `path` (stream, mode 0700 & ~umask). Takes an OFD write lock on `<path>.lock` (0600), which stays
 * behind for ever: ERR_BUSY when another instance holds it. A stale socket is replaced; any other kind of file is not.
 */
MUST_CHECK int sock_listen(const char *path, struct sock_listener *ret_listener, struct err *err);
/* The same from an inherited socket, which must be listening already. Takes `fd` over, also on failure. */
MUST_CHECK int sock_listen_fd(int fd, struct sock_listener *ret_listener, struct err *err);
/* Removes the socket (never the lock file) and closes. A zeroed listener is fine, and one that is done already. */
void sock_listener_done(struct sock_listener *listener);

/* Connects the unix socket `fd` (-1: making it failed, errno says why) to `path`; with its timeouts, if it has any. */
MUST_CHECK int sock_connect(int fd, const char *path, struct err *err);

/*
 * Receives up to `size` bytes and the descriptors that came with them, close-on-exec, into ret_fds[SOCK_FDS_MAX];
 * *ret_n_fds is always set. Returns the bytes read, 0 at the end, -EAGAIN without an error message when there is
 * nothing. When descriptors were lost on the way (no free numbers: -EMFILE) those that came are closed and it is
 * an error.
 */
MUST_CHECK ssize_t sock_recv(int fd, void *buf, size_t size, int *ret_fds, uint32_t *ret_n_fds, struct err *err);
/*
 * Sends bytes (one at least, when there are descriptors) and up to SOCK_FDS_MAX descriptors, which stay the
 * caller's, with the first of them. Never raises SIGPIPE. Returns the bytes sent, maybe fewer; -EAGAIN without an error message
 * when nothing could be sent.
 */
MUST_CHECK ssize_t sock_send(int fd, const void *buf, size_t len, const int *fds, uint32_t n_fds, struct err *err);

#endif
