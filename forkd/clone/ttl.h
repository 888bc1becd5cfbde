// SPDX-License-Identifier: Apache-2.0
/*
 * Clones whose time is over: clones with a TTL, and the records of clones that have exited. In the
 * watcher's thread.
 */
#ifndef FORKD_CLONE_TTL_H
#define FORKD_CLONE_TTL_H

#include <stdint.h>

struct forkd;

/* Deletes the clones whose time is over. Returns when to look again, CLOCK_MONOTONIC in ns. */
uint64_t ttl_look(struct forkd *d);

#endif
