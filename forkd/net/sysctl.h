// SPDX-License-Identifier: Apache-2.0
/* Switches under /proc/sys/net, of the calling thread's network namespace. */
#ifndef FORKD_NET_SYSCTL_H
#define FORKD_NET_SYSCTL_H

#include "common/err.h"

/* `name` is the path below /proc/sys/net, as in "ipv4/ip_forward". */
MUST_CHECK int sysctl_set(const char *name, int value, struct err *err);
/* The same for conf/INTERFACE/KEY of an IP version. */
MUST_CHECK int sysctl_set_of(const char *version, const char *interface, const char *key, int value, struct err *err);
/* The number; -1: there is no such switch. */
int sysctl_get(const char *name);

#endif
