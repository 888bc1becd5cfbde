// SPDX-License-Identifier: Apache-2.0
/*
 * The one door to the host's names: whatever a VM process opens, binds, connects to or removes
 * because a configuration, a guest or an API call named it, it does here. A VM process of forkd
 * shuts the door first of all: such names fail from then on, and what the process needs comes as
 * descriptors. Fixed names of the program do not pass here: /dev/kvm, /dev/userfaultfd,
 * /dev/net/tun and /proc/self/pagemap. The file stands in core/, since console/ and virtio/ need
 * it. Any thread.
 */
#ifndef VMM_CORE_HOST_OPEN_H
#define VMM_CORE_HOST_OPEN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/sock.h"

/*
 * Where the door is shut: asks for a connection of the guest to `port` of the host. Returns a
 * connected, non-blocking socket, or -1. May wait for a second at most.
 */
typedef int (*host_connect_fn)(void *opaque, uint32_t port);

/*
 * Shuts the door for good. `connect` NULL: the guest's connections to the host are refused too. To
 * be called while the process has one thread.
 */
void host_open_shut(host_connect_fn connect, void *opaque);
bool host_open_is_shut(void);

/*
 * As open(2), with O_CLOEXEC: a descriptor, or -1 with errno. EPERM: the door is shut, and the log
 * has the name. Sources of random numbers (ctl_is_random_source()) are open to all.
 */
int host_open(const char *path, int flags, mode_t mode);
/*
 * Opens what a stream goes to: it is made when it is not there, `flags` may empty it (O_TRUNC), and each write() goes to its end and waits for
 * nobody. A FIFO needs no reader: readers may come later, go, and come again, and the pipe keeps what it has room for.
 */
int host_open_output(const char *path, int flags, mode_t mode);
/*
 * Binds a non-blocking stream socket to `path`; it does not listen yet. A descriptor, or < 0;
 * `what` begins the message.
 */
MUST_CHECK int host_bind(const char *path, const char *what, struct sock_file *ret_file, struct err *err);
/* Removes what host_bind() made; not what others have put in its place. */
void host_unbind(const char *path, const struct sock_file *file);
/*
 * Connects to the unix socket that stands for port `port` of the host, beside the socket at `path`:
 * a non-blocking descriptor, or -1.
 */
int host_connect_port(const char *path, uint32_t port);

#endif
