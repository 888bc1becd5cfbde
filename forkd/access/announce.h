// SPDX-License-Identifier: Apache-2.0
/*
 * Telling guests who is behind their tap now. A guest of a snapshot that does not say which MAC address its tap had goes on sending to that
 * one, and nobody hears it. A gratuitous ARP request (RFC 5227) makes it believe in the tap's own: sent for an IPv4 address that the tap of
 * a clone has when the clone is made, or gets later.
 */
#ifndef FORKD_ACCESS_ANNOUNCE_H
#define FORKD_ACCESS_ANNOUNCE_H

#include "forkd/forkd.h"

struct announcer;

/* For the address that the interface has; it may have none. What fails is logged. Any thread. */
void announce_tap(const char *name);

/* Does the same for each address that the tap of a clone gets, in the watcher's thread. NULL: cannot hear of them, which is logged. */
struct announcer *announce_start(struct forkd *d);
void announce_free(struct announcer *a); /* after watch_stop(); NULL is fine */

#endif
