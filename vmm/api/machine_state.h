// SPDX-License-Identifier: Apache-2.0
/*
 * The machine of this process and its life: create, boot, pause, resume, snapshot, restore,
 * shutdown, delete. API and command line use the same state machine. Every call comes from the main
 * thread, and returns when the thing is done. Messages and codes are those of Cloud Hypervisor's
 * API: the chain in *err is what the API answers after "Error from API".
 */
#ifndef VMM_API_MACHINE_STATE_H
#define VMM_API_MACHINE_STATE_H

#include "vmm/config/config.h"
#include "vmm/core/loop.h"
#include "vmm/state/own_pages.h"
#include "vmm/virtio/virtio.h"

struct snapshot;
struct snapshot_dir;
struct vm_restore;
struct vmm;

/* The owner of a VM: forkd. The user of the VM's API may be somebody else. */
struct vmm_owner {
	/* The VM ended, by itself or through its API; the loop stops next. */
	void (*ended)(struct vmm_owner *owner, const char *reason, int exit_code);
	/* The VM runs now, or is paused now, or was rebooted; or one of its nets has lost its tap. */
	void (*state_changed)(struct vmm_owner *owner);
	/*
	 * Opens a directory that the API's user named, if that user may write there, and says whose
	 * the files in it shall be. The caller closes ret->fd.
	 */
	int (*open_dir)(struct vmm_owner *owner, const char *path, struct snapshot_dir *ret, struct err *err);
};

struct vmm *vmm_new(struct loop *loop, struct err *err);
/*
 * To be called first of all. An owned VM whose configuration has no descriptor of a kernel ends where
 * another VM would be rebooted. Once the owned VM has ended, no other VM is created or restored in its place.
 */
void vmm_set_owner(struct vmm *vmm, struct vmm_owner *owner);
void vmm_free(struct vmm *vmm);

/* Stores the configuration: *config is moved from on success. */
MUST_CHECK int vmm_create(struct vmm *vmm, struct vm_config *config, struct err *err);
MUST_CHECK int vmm_boot(struct vmm *vmm, struct err *err);
MUST_CHECK int vmm_pause(struct vmm *vmm, struct err *err);
MUST_CHECK int vmm_resume(struct vmm *vmm, struct err *err);
MUST_CHECK int vmm_snapshot(struct vmm *vmm, const char *destination_url, struct err *err);
/*
 * Restores a VM; there must be none yet. Descriptors in rc->net_fds[].fds are taken over (set to
 * -1) or closed in any case.
 */
MUST_CHECK int vmm_restore(struct vmm *vmm, struct restore_config *rc, struct err *err);
/*
 * Builds the VM of a clone, but not its devices: see vm_new_parked(). *config is moved from, also
 * on failure.
 */
MUST_CHECK int vmm_park(struct vmm *vmm, struct vm_config *config, struct snapshot *snap, const struct vm_restore *how,
			struct err *err);
/*
 * The configuration of the VM, to be completed before vmm_unpark() and vmm_boot(). The VM owns the
 * descriptors in the configuration.
 */
struct vm_config *vmm_config(struct vmm *vmm);
/*
 * Adds the devices of a parked VM, which is paused then. clock: how the guest's clocks go on at each
 * resume.
 */
MUST_CHECK int vmm_unpark(struct vmm *vmm, enum clock_choice clock, struct err *err);
/* Writes a snapshot into an opened directory; `dir` is the directory's name in messages. */
MUST_CHECK int vmm_snapshot_at(struct vmm *vmm, const struct snapshot_dir *dir, struct err *err);
/* Ends the vCPUs and frees taps, disks and locks. vmm_free() releases what is left. */
void vmm_release(struct vmm *vmm);
/* "Created", "Running", "Paused"; "Parked" between vmm_park() and vmm_unpark(). */
const char *vmm_state(const struct vmm *vmm);
/* How often vmm_reboot() has built the machine anew. */
uint32_t vmm_reboots(const struct vmm *vmm);
/* As devices_lost_nets(). */
unsigned vmm_lost_nets(struct vmm *vmm, char *ret_ids[MAX_PCI_SLOTS]);
/*
 * As own_pages_list() and own_pages_make(). There is a VM, maybe a parked one. ERR_CONFLICT: its memory is no
 * mapping of a template's, or not any more.
 */
MUST_CHECK int vmm_list_own_pages(const struct vmm *vmm, struct own_pages *ret, struct err *err);
void vmm_make_own_pages(struct vmm *vmm, const struct own_pages *list);
/* As devices_sync_disk(), of a running VM. */
void vmm_sync_disk(struct vmm *vmm, const char *id);
/*
 * Of a paused VM: as devices_put_over_disk(). `over` has id, path, image_type and descriptors; what the guest
 * knows of the disk stays as configured. On success the configuration has what `over` had, and the other way round.
 */
MUST_CHECK int vmm_put_over_disk(struct vmm *vmm, struct disk_config *over, struct err *err);
/* Of a parked VM: as devices_hold_nets(). */
void vmm_hold_nets(struct vmm *vmm);
/* As devices_unhold_nets(). Without a VM, and for nets that are not held, there is nothing to do. */
void vmm_unhold_nets(struct vmm *vmm);
bool vmm_holds_nets(const struct vmm *vmm);
/* As devices_dial(); ERR_CONFLICT: there is no VM yet. */
MUST_CHECK int vmm_dial(struct vmm *vmm, int fd, uint32_t port, struct err *err);
/* The counters of all devices, added up; zeros without a VM. */
void vmm_counters(struct vmm *vmm, struct virtio_counters *ret);
/* What vm.resize asks for. */
struct vm_resize {
	uint32_t desired_vcpus;
	uint64_t desired_ram, desired_balloon; /* bytes */
	bool has_desired_vcpus, has_desired_ram, has_desired_balloon;
};
/*
 * Resizes the balloon of a running VM, whose vCPUs and RAM cannot change. For a VM that was not
 * booted, sets all three values in the configuration.
 */
MUST_CHECK int vmm_resize(struct vmm *vmm, const struct vm_resize *want, struct err *err);
MUST_CHECK int vmm_resize_disk(struct vmm *vmm, const char *id, uint64_t bytes, struct err *err);
/*
 * Adds a device to the configuration, or removes a device. When there is a machine, the same is done
 * there, and *out becomes {"id", "bdf"}. On success the device's configuration is moved from. After a
 * failure what is left in *disk, *net or *vsock is the caller's, and descriptors that are not -1 are
 * the caller's to close. A clone takes only a net whose descriptors come with the request: forkd alone
 * opens files and taps.
 */
MUST_CHECK int vmm_add_disk(struct vmm *vmm, struct disk_config *disk, struct strbuf *out, struct err *err);
MUST_CHECK int vmm_add_net(struct vmm *vmm, struct net_config *net, struct strbuf *out, struct err *err);
MUST_CHECK int vmm_add_vsock(struct vmm *vmm, struct vsock_config *vsock, struct strbuf *out, struct err *err);
MUST_CHECK int vmm_remove_device(struct vmm *vmm, const char *id, struct err *err);
MUST_CHECK int vmm_power_button(struct vmm *vmm, struct err *err);
/* Gives every vCPU a non-maskable interrupt. */
MUST_CHECK int vmm_nmi(struct vmm *vmm, struct err *err);
/* Ends the VM and keeps its configuration. */
MUST_CHECK int vmm_shutdown(struct vmm *vmm, struct err *err);
/* Ends the VM, if there is one, and forgets its configuration. */
MUST_CHECK int vmm_delete(struct vmm *vmm, struct err *err);
/*
 * Builds the machine anew, from the descriptors and names in the configuration, and lets it run. An owned VM
 * whose old machine is gone and whose new one cannot be built ends.
 */
MUST_CHECK int vmm_reboot(struct vmm *vmm, struct err *err);
/* Writes the JSON of vm.info, and of vm.counters. */
MUST_CHECK int vmm_info(struct vmm *vmm, struct strbuf *out, struct err *err);
MUST_CHECK int vmm_counters_json(struct vmm *vmm, struct strbuf *out, struct err *err);

#endif
