// SPDX-License-Identifier: Apache-2.0
/*
 * ssh host keys: a clone that had some gets one of its own. The agent's thread; nothing here waits:
 * the caller runs ssh-keygen between the two calls.
 */
#ifndef GUEST_SSH_KEYS_H
#define GUEST_SSH_KEYS_H

#include <stdbool.h>

#include "common/err.h"

/* Whether /etc/ssh has a host key. */
bool ssh_has_host_keys(int root_fd);
/*
 * Removes the old host keys, gives the one that ssh-keygen left at SSH_NEW_KEY its name, and tells a
 * running sshd to start anew (SIGHUP), which it does when it is thawed.
 */
#define SSH_NEW_KEY "/etc/ssh/forkd-new-key"
MUST_CHECK int ssh_host_keys_take(int root_fd, struct err *err);

#endif
