// SPDX-License-Identifier: Apache-2.0
/* Tap devices: open by name, take as descriptors, set up addresses. */
#ifndef VMM_VIRTIO_TAP_H
#define VMM_VIRTIO_TAP_H

#include "common/mac.h"
#include "common/tap.h"
#include "vmm/config/config.h"

/*
 * One descriptor a queue pair into fds[], non-blocking, with virtio-net headers of 12 bytes: those of the configuration, or a
 * tap opened by name (made when there is none; then mtu, address and MAC are set and it is brought up). On failure nothing stays
 * open; descriptors of the configuration stay with it.
 */
MUST_CHECK int tap_open(struct net_config *cfg, int fds[TAP_QUEUES_MAX], struct err *err);
/* Takes a queue of a multi-queue tap in or out of use: the host spreads flows over those in use. */
void tap_use_queue(int fd, bool use);
/* What the guest may be sent without checksums or as large segments: TUN_F_… bits. */
void tap_set_offload(int fd, unsigned tun_features);
/* The interface's MTU, 1500 when it cannot be had. */
unsigned tap_mtu(int fd);
/* The interface's MAC address, in whichever network namespace it is; false: it has none, or is gone. */
bool tap_mac(int fd, uint8_t ret_mac[MAC_BYTES]);

#endif
