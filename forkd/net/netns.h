// SPDX-License-Identifier: Apache-2.0
/*
 * Network namespaces with names, as `ip netns` has them: bind mounts in /run/netns. What must run
 * inside one runs in a thread that is made for it and ends with it: no other thread ever changes its
 * namespace. Any thread.
 */
#ifndef FORKD_NET_NETNS_H
#define FORKD_NET_NETNS_H

#include <stdbool.h>

#include "common/err.h"

#define NETNS_DIR "/run/netns"

typedef int netns_fn(void *arg, struct err *err);
/* Runs `run(arg)` inside the namespace, and waits for it. ns_fd -1: in a new one, which goes with the thread. */
MUST_CHECK int netns_run(int ns_fd, netns_fn *run, void *arg, struct err *err);
/* Makes a namespace and its name, the caller's to close. ERR_CONFLICT: the name is taken. */
MUST_CHECK int netns_make(const char *name, int *ret_fd, struct err *err);
/* -ENOENT: there is none. */
MUST_CHECK int netns_open(const char *name, int *ret_fd, struct err *err);
/* Takes the name away; the namespace goes when nobody has it. False: it cannot be, and errno says why. */
bool netns_remove(const char *name);
/* Calls `each` for every name. */
void netns_each(void (*each)(void *arg, const char *name), void *arg);
/* Ends the processes whose network namespace this is, and waits for their end. */
void netns_kill_all(int ns_fd);

#endif
