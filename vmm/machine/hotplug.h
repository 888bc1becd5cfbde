// SPDX-License-Identifier: Apache-2.0
/*
 * Devices that come to a machine and go: vm.add-disk, vm.add-net, vm.add-vsock, vm.remove-device,
 * and what the guest does about them. A device that is asked to go leaves the configuration at
 * once, and the machine when the guest ejects it. In between its configuration is in vm->removed.
 * Main thread.
 */
#ifndef VMM_MACHINE_HOTPLUG_H
#define VMM_MACHINE_HOTPLUG_H

#include "vmm/config/config.h"

struct json_node;
struct vm;

/*
 * Each adds a device to the configuration, and to the machine when there is one (`vm` not NULL),
 * which writes {"id", "bdf"} to `out`. The new entry is moved from in any case; its descriptors
 * become the configuration's, or are closed on failure.
 */
MUST_CHECK int hotplug_add_disk(struct vm_config *config, struct vm *vm, struct disk_config *disk, struct strbuf *out,
				struct err *err);
MUST_CHECK int hotplug_add_net(struct vm_config *config, struct vm *vm, struct net_config *net, struct strbuf *out,
			       struct err *err);
MUST_CHECK int hotplug_add_vsock(struct vm_config *config, struct vm *vm, struct vsock_config *vsock,
				 struct strbuf *out, struct err *err);
/*
 * Takes a device out of the configuration and asks the guest to let go of it; without a machine the
 * former is all. ERR_NOT_FOUND: nothing has that id.
 */
MUST_CHECK int hotplug_remove(struct vm_config *config, struct vm *vm, const char *id, struct err *err);
/* Frees the devices that the guest has ejected. */
void hotplug_ejected(struct vm *vm);

/* Writes config.json of a snapshot: with the devices that the machine has now. */
void hotplug_save_config(const struct vm *vm, struct strbuf *out);
/*
 * Writes what the guest has not seen yet, as a member of "device-manager"; nothing when there is
 * nothing. hotplug_load() reads it back.
 */
void hotplug_save(struct vm *vm, struct strbuf *out);
MUST_CHECK int hotplug_load(struct vm *vm, const struct json_node *manager, struct err *err);
/* Before a restored machine goes on: tells its guest what it had not seen before the snapshot. */
void hotplug_tell_again(struct vm *vm);
/* Releases vm->removed. */
void hotplug_done(struct vm *vm);

#endif
