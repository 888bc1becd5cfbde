// SPDX-License-Identifier: Apache-2.0
/* A stream of bytes to a TCP port of a guest, through the daemon: an upgraded connection of libcurl's, in transfer.h's loop. One thread. */
#ifndef FORKCTL_TUNNEL_H
#define FORKCTL_TUNNEL_H

#include "forkctl/transfer.h"

enum tunnel_state { TUNNEL_CONNECTS, TUNNEL_ASKS, TUNNEL_OPEN, TUNNEL_FAILED };

/* Zeroed before tunnel_begin(); must not move. */
struct tunnel {
	enum tunnel_state state;
	struct transfer transfer;
	struct strbuf path, request, head;
	size_t sent, head_len; /* of the request; of the answer with its empty line, 0: not known */
};

/* Begins to connect to `port` of the clone's guest. EXIT_FINE, or said why not. */
MUST_CHECK int tunnel_begin(struct client *c, struct tunnel *t, const char *id, unsigned port);
void tunnel_done(struct tunnel *t);
/* Goes on with what comes before the bytes. TUNNEL_FAILED: said why, once. */
enum tunnel_state tunnel_step(struct tunnel *t);
/* Its socket, and what tunnel_step() waits for there; -1: nothing, transfers_turn() does. */
int tunnel_fd(const struct tunnel *t);
short tunnel_wants(const struct tunnel *t);

/* As recv() and send() of a TUNNEL_OPEN one, without a wait: -EAGAIN; other negative numbers: it is broken. */
ssize_t tunnel_recv(struct tunnel *t, char *buf, size_t size);
ssize_t tunnel_send(struct tunnel *t, const char *bytes, size_t len);
/* Nothing more is sent; the other direction goes on. */
void tunnel_shut(struct tunnel *t);

#endif
