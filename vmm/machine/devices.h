// SPDX-License-Identifier: Apache-2.0
/*
 * The devices that a configuration asks for, made in Cloud Hypervisor's order, and their nodes in
 * state.json.
 */
#ifndef VMM_MACHINE_DEVICES_H
#define VMM_MACHINE_DEVICES_H

#include "vmm/machine/machine.h"
#include "vmm/virtio/virtio.h"

/*
 * Makes the serial port and the virtio devices and attaches them. Automatic ids and MACs are
 * written into vm->config.
 */
MUST_CHECK int devices_new(struct vm *vm, struct err *err);
/*
 * As devices_new(), but each device in its slot of the snapshot. `node` is "device-manager";
 * devices_load() comes next.
 */
MUST_CHECK int devices_restore(struct vm *vm, const struct json_node *node, struct err *err);
/*
 * Adds a device to a machine that runs or is paused, as the last of vm->dev[]. Its configuration
 * stays where it is. Main thread.
 */
MUST_CHECK int devices_plug_disk(struct vm *vm, struct disk_config *cfg, struct err *err);
MUST_CHECK int devices_plug_net(struct vm *vm, struct net_config *cfg, struct err *err);
MUST_CHECK int devices_plug_vsock(struct vm *vm, struct vsock_config *cfg, struct err *err);
/* The device with that id, or NULL. */
struct virtio_pci *devices_find(const struct vm *vm, const char *id);
/* Takes a device out of the machine and frees it. No vCPU runs meanwhile. */
void devices_remove(struct vm *vm, struct virtio_pci *t);
void devices_free(struct vm *vm);
/* Main thread, vCPUs parked. Once devices_pause() has returned, nothing is in flight. */
void devices_pause(struct vm *vm);
void devices_resume(struct vm *vm, bool restored);
/* The ids of the nets whose taps were deleted; they stay the devices'. */
unsigned devices_lost_nets(struct vm *vm, char *ret_ids[MAX_PCI_SLOTS]);
/*
 * Holds the nets of a machine that has no devices yet: its nets drop every frame, also nets that come
 * later, until devices_unhold_nets().
 */
void devices_hold_nets(struct vm *vm);
void devices_unhold_nets(struct vm *vm);
/*
 * Connects to a vsock port of the guest: see vsock_mux_dial(), which takes `fd` over on success.
 * ERR_NOT_FOUND: the machine has no vsock device.
 */
MUST_CHECK int devices_dial(struct vm *vm, int fd, uint32_t port, struct err *err);
/* Adds the counters of all devices up. */
void devices_counters(struct vm *vm, struct virtio_counters *ret);
/* The JSON of vm.counters. */
void devices_counters_json(struct vm *vm, struct strbuf *out);
/*
 * Sets the size that the balloon is to have; false: there is no balloon. devices_balloon_bytes() is
 * the size that it has, 0 without one.
 */
bool devices_resize_balloon(struct vm *vm, uint64_t bytes);
uint64_t devices_balloon_bytes(const struct vm *vm);
/* ERR_NOT_FOUND: no disk has that id. */
MUST_CHECK int devices_resize_disk(struct vm *vm, const char *id, uint64_t bytes, struct err *err);
/* As virtio_blk_sync() of the disk with that id, if there is one. */
void devices_sync_disk(struct vm *vm, const char *id);
/* As virtio_blk_put_over() of the disk with the id cfg->id. ERR_NOT_FOUND: there is none. */
MUST_CHECK int devices_put_over_disk(struct vm *vm, struct disk_config *cfg, struct err *err);
/* Writes the node "device-manager" with all its children. */
void devices_save(struct vm *vm, struct strbuf *out);
/*
 * Loads that node into the devices that devices_restore() made. Every device of the configuration
 * must be in the node.
 */
MUST_CHECK int devices_load(struct vm *vm, const struct json_node *node, struct err *err);
/* The object "device_tree" of vm.info and state.json. */
void devices_tree(const struct vm *vm, struct strbuf *out);

#endif
