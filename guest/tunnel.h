// SPDX-License-Identifier: Apache-2.0
/*
 * Byte tunnels from the daemon to TCP ports on the guest's loopback. Each direction has one buffer;
 * its source is read when the buffer is empty, so whoever does not read holds up the other side
 * alone. The end of one direction is passed on as a shutdown() of that direction. The loop's thread.
 */
#ifndef GUEST_TUNNEL_H
#define GUEST_TUNNEL_H

#include "guest/http.h"

enum { TUNNELS_MAX = 256, TUNNEL_BUFFER = 64 << 10 };

struct tunnels {
	struct tunnel *first; /* a list */
	unsigned n;
};

/*
 * GET /v1/tunnel?port=N with "Upgrade: tcp". Answers 101 when the port has accepted, on 127.0.0.1 or
 * on ::1, and the connection is the tunnel from then on. 400: no port, no upgrade; 502: nobody
 * listens there; 503: there are TUNNELS_MAX already.
 */
void tunnel_begin(struct exchange *ex);
/* Ends all. */
void tunnels_done(struct tunnels *tunnels);

#endif
