// SPDX-License-Identifier: Apache-2.0
/* Taps for clones: made for one clone, opened by name, or sent with a request. */
#ifndef FORKD_ACCESS_TAPS_H
#define FORKD_ACCESS_TAPS_H

#include <stdint.h>

#include "common/tap.h"

/* What a configuration says of the host's side of a tap. */
struct tap_settings {
	const char *host_mac; /* NULL: as it is */
	uint16_t mtu;         /* 0: as it is */
};
/*
 * Opens `n` queues of interface `name`, applies the settings, and brings the interface up. An
 * interface that does not exist is made, and goes away when its descriptors are closed. E_CONFLICT:
 * the interface is in use. The descriptors are the caller's to close; on failure nothing stays
 * open.
 */
MUST_CHECK int taps_open(const char *name, unsigned n, const struct tap_settings *settings, int ret_fds[TAP_QUEUES_MAX],
			 struct err *err);
/*
 * Applies the settings to a tap that is open, and brings it up; in the tap's network namespace.
 * taps_set_mac() works from any: it sets the MAC address, unless the tap has this address already.
 */
MUST_CHECK int taps_settle(const char *name, int tap_fd, const struct tap_settings *settings, struct err *err);
MUST_CHECK int taps_set_mac(const char *name, int tap_fd, const char *text, struct err *err);
/* The name of the tap that is made for the i-th net of a clone. */
void taps_auto_name(const char *clone_id, unsigned i, char ret_name[IFNAMSIZ]);
/*
 * Checks the descriptors that a request sent for net `id`: taps with virtio-net headers, all of one
 * interface, whose name is returned. E_BAD_FDS: a descriptor is something else. `first` is the
 * number of the first descriptor within the request, for messages. The descriptors are made
 * non-blocking.
 */
MUST_CHECK int taps_check(const int *fds, unsigned n, const char *id, unsigned first, char ret_name[IFNAMSIZ],
			  struct err *err);

#endif
