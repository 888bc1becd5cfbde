// SPDX-License-Identifier: Apache-2.0
/*
 * Docker's firewall drops what is forwarded for others. Where its chain for rules of the administrator (DOCKER-USER) is,
 * it gets rules that let slots through; all else that slots may do is in the host's table.
 */
#ifndef FORKD_NET_FIREWALLS_H
#define FORKD_NET_FIREWALLS_H

#include "forkd/net/layout.h"

/* Adds the rules that are missing. Failures are logged: the slots work as far as the firewall lets them. */
void firewalls_open(const struct layout *l);
/* Takes the rules away. */
void firewalls_close(const struct layout *l);

#endif
