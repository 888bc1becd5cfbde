// SPDX-License-Identifier: Apache-2.0
/* Tap devices: open by name, take as descriptors, set up addresses. */
#ifndef VMM_VIRTIO_TAP_H
#define VMM_VIRTIO_TAP_H

#include "common/mac.h"
#include "common/tap.h"
#include "vmm/config/config.h"

/*
 * Fills fds[] with one descriptor for each queue pair, non-blocking, with virtio-net headers of 12
 * bytes. The descriptors are duplicates of those in the configuration or, when the configuration has
 * none, a tap that is opened by name. A tap that does not exist is made. A tap that was opened by name
 * gets the MTU and the MAC of the configuration, a new tap the address too, and is brought up. The
 * caller closes the descriptors; after a failure all are closed. The configuration's descriptors stay
 * open.
 */
MUST_CHECK int tap_open(struct net_config *cfg, int fds[TAP_QUEUES_MAX], struct err *err);
/*
 * Takes a queue of a multi-queue tap in or out of use: the host spreads flows over the queues in use.
 */
void tap_use_queue(int fd, bool use);
/* Says which frames the guest takes without checksums or as large segments: TUN_F_… bits. */
void tap_set_offload(int fd, unsigned tun_features);
/* The interface's MTU; 1500 when the MTU cannot be read. */
unsigned tap_mtu(int fd);
/* The interface's MAC address, in any network namespace; false: the interface has none, or is gone. */
bool tap_mac(int fd, uint8_t ret_mac[MAC_BYTES]);

#endif
