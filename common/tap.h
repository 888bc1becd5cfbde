// SPDX-License-Identifier: Apache-2.0
/* Taps of virtio network cards: how one is opened, whoever opens it. Any thread. */
#ifndef COMMON_TAP_H
#define COMMON_TAP_H

#include <net/if.h>
#include <stdbool.h>

#include "common/err.h"

enum { VNET_HEADER_BYTES = 12, TAP_QUEUES_MAX = 32 };

/*
 * Opens a queue of the interface `name`, which is made when there is none: a non-blocking descriptor
 * with virtio-net headers, or < 0. A "%d" in the name stands for the first free number; ret_name has
 * the name that it became. ERR_CONFLICT: the interface is in use. ERR_INVALID: it is no such tap;
 * one that has a single queue takes no `multi_queue`, nor the other way round.
 */
MUST_CHECK int tap_open_queue(const char *name, bool multi_queue, char ret_name[IFNAMSIZ], struct err *err);
/* Makes the headers of a tap those of virtio-net. -errno: the descriptor is none. */
MUST_CHECK int tap_set_header(int fd);

#endif
