// SPDX-License-Identifier: Apache-2.0
/*
 * Tells guests the MAC address of the tap that they are behind now. Some snapshots do not say which
 * MAC address the old tap had. The guest of such a snapshot goes on sending frames to the old tap's
 * address, and nobody receives these frames. A gratuitous ARP request (RFC 5227) tells the guest
 * the new tap's MAC address. The request is sent for the IPv4 address that the tap of a clone has
 * when the clone is made and when its link comes up, and for each IPv4 address that the tap gets later.
 */
#ifndef FORKD_ACCESS_ANNOUNCE_H
#define FORKD_ACCESS_ANNOUNCE_H

#include "forkd/forkd.h"

struct announcer;

/*
 * Sends the request for the IPv4 address of the interface, if the interface has one. A failure is
 * logged. Any thread.
 */
void announce_tap(const char *name);

/*
 * From now on the watcher's thread sends the request for each IPv4 address that the tap of a clone
 * gets, and when its link comes up. The kernel's news that cannot be heard are logged; NULL: no memory.
 */
struct announcer *announce_start(struct forkd *d);
void announce_free(struct announcer *a); /* after watch_stop(); NULL is fine */

#endif
