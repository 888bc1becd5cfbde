// SPDX-License-Identifier: Apache-2.0
/*
 * The one door to the host's names: whatever a VM process opens, binds, connects or removes because a configuration, a guest or an
 * API call named it, it does here. A process of forkd shuts the door before it does anything else: such names fail from then on, and
 * what it needs comes as descriptors. /dev/kvm, /dev/userfaultfd, /dev/net/tun and /proc/self/pagemap are fixed names of the program
 * and do not pass here. It stands in core/, since console/ and virtio/ need it. Any thread.
 */
#ifndef VMM_CORE_HOST_OPEN_H
#define VMM_CORE_HOST_OPEN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/*
 * Asks for a connection of the guest to `port` of the host, where the door is shut: a connected, non-blocking socket, or -1. May wait for
 * a second at most.
 */
typedef int (*host_connect_fn)(void *opaque, uint32_t port);

/* Shuts the door for good. `connect` NULL: the guest's connections to the host are refused too. One thread runs yet. */
void host_open_shut(host_connect_fn connect, void *opaque);
bool host_open_is_shut(void);

/*
 * open(): a descriptor with O_CLOEXEC, or -1 with errno; EPERM when the door is shut, and the log has the name. Sources of random
 * numbers (ctl_is_random_source()) are open to all.
 */
int host_open(const char *path, int flags, mode_t mode);
/* A non-blocking stream socket that is bound to `path` and does not listen yet: a descriptor, or < 0. `what` begins the message. */
MUST_CHECK int host_bind(const char *path, const char *what, struct err *err);
/* Removes what host_bind() made. */
void host_unbind(const char *path);
/* The unix socket behind port `port` of the host, beside the socket at `path`: a connected, non-blocking descriptor, or -1. */
int host_connect_port(const char *path, uint32_t port);

#endif
