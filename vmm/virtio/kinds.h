// SPDX-License-Identifier: Apache-2.0
/*
 * The kinds of virtio devices: a constructor for each kind (in the file of the kind's name), and what
 * the host does to single kinds.
 */
#ifndef VMM_VIRTIO_KINDS_H
#define VMM_VIRTIO_KINDS_H

#include "common/mac.h"
#include "vmm/config/config.h"
#include "vmm/virtio/virtio.h"

/*
 * A constructor opens the back-end. The caller attaches the device or frees the device. `env` and
 * `cfg` stay the caller's and outlive the device.
 */
MUST_CHECK int virtio_console_new(const struct device_env *env, struct console_config *cfg, struct virtio_dev **ret,
				  struct err *err);
MUST_CHECK int virtio_blk_new(const struct device_env *env, struct disk_config *cfg, struct virtio_dev **ret,
			      struct err *err);
MUST_CHECK int virtio_net_new(const struct device_env *env, struct net_config *cfg, struct virtio_dev **ret,
			      struct err *err);
MUST_CHECK int virtio_rng_new(const struct device_env *env, struct rng_config *cfg, struct virtio_dev **ret,
			      struct err *err);
MUST_CHECK int virtio_balloon_new(const struct device_env *env, struct balloon_config *cfg, struct virtio_dev **ret,
				  struct err *err);
MUST_CHECK int virtio_vsock_new(const struct device_env *env, struct vsock_config *cfg, struct virtio_dev **ret,
				struct err *err);

/*
 * The size of a balloon in bytes: sets the size that the host wants; gets the size that the guest
 * states. Main thread.
 */
void virtio_balloon_resize(struct virtio_dev *vdev, uint64_t bytes);
uint64_t virtio_balloon_bytes(struct virtio_dev *vdev);
/*
 * Gives the image a size of `bytes` and tells the guest. A block device must have that size already.
 * Main thread.
 */
MUST_CHECK int virtio_blk_resize(struct virtio_dev *vdev, uint64_t bytes, struct err *err);
/*
 * Puts an image over the present one, which stands behind it from now on and is not written any more: cfg
 * has the descriptors, the present image's first among those behind. The VM is paused. ERR_CONFLICT: another
 * file comes first. After an error the disk is as it was. Main thread.
 */
MUST_CHECK int virtio_blk_put_over(struct virtio_dev *vdev, struct disk_config *cfg, struct err *err);
/*
 * Writes what a guest would read of the qcow2 image cfg->fd, with what is behind it, into the empty file: raw,
 * zeroes as holes. No guest, no lock; not synced.
 */
MUST_CHECK int virtio_blk_flatten(const struct disk_config *cfg, int out_fd, struct err *err);
/* Writes what the page cache has of the image to disk, so that a pause that follows is short. */
void virtio_blk_sync(struct virtio_dev *vdev);
/*
 * The present MAC of a net's tap: the address by which the guest knows the host. false: the tap is
 * gone, or has the guest's own MAC (a macvtap).
 */
bool virtio_net_host_mac(struct virtio_dev *vdev, char ret_text[MAC_TEXT_BYTES]);
/*
 * Connects to a port of a vsock device's guest: see vsock_mux_dial(), which says the errors. Main
 * thread.
 */
MUST_CHECK int virtio_vsock_dial(struct virtio_dev *vdev, int fd, uint32_t port, struct err *err);
/*
 * Ends the holding of a net: from now on frames pass. What the host has sent until now is dropped, too.
 * Does nothing to a net that is not held, and to devices of other kinds. Main thread.
 */
void virtio_net_unhold(struct virtio_dev *vdev);
/* Whether the device is a net whose tap was deleted. Main thread. */
bool virtio_net_is_lost(struct virtio_dev *vdev);

#endif
