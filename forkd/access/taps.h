// SPDX-License-Identifier: Apache-2.0
/* Taps for clones: made for one clone, opened by name, or sent with a request. */
#ifndef FORKD_ACCESS_TAPS_H
#define FORKD_ACCESS_TAPS_H

#include <stdint.h>

#include "common/tap.h"

/* What a configuration says of the host's side. */
struct tap_settings {
	const char *host_mac; /* NULL: as it is */
	uint16_t mtu;         /* 0: as it is */
};
/*
 * Opens `n` queues of the interface, which is made when there is none (then it goes away with its descriptors), sets it up and brings
 * it up. E_CONFLICT when it is in use. On failure nothing stays open.
 */
MUST_CHECK int taps_open(const char *name, unsigned n, const struct tap_settings *settings, int ret_fds[TAP_QUEUES_MAX],
			 struct err *err);
/* The name for the i-th net of a clone that gets a tap of its own. */
void taps_auto_name(const char *clone_id, unsigned i, char ret_name[IFNAMSIZ]);
/*
 * Descriptors of a request for net `id`: taps with virtio-net headers, all of one interface, whose name is returned. `first` is
 * the number of the first one within the request, for messages. They are made non-blocking.
 */
MUST_CHECK int taps_check(const int *fds, unsigned n, const char *id, unsigned first, char ret_name[IFNAMSIZ],
			  struct err *err);

#endif
