// SPDX-License-Identifier: Apache-2.0
/* The state machine around the one VM of this process. */
#include "vmm/api/machine_state.h"

#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "vmm/core/event_monitor.h"
#include "vmm/machine/devices.h"
#include "vmm/machine/hotplug.h"
#include "vmm/machine/machine.h"
#include "vmm/snapshot/snapshot_write.h"
#include "vmm/state/ondemand.h"
#include "vmm/state/snapshot_read.h"

#define HOTPLUG_ALIGN (128ULL << 20)

enum vm_state { VM_CREATED, VM_RUNNING, VM_PAUSED };
static const char *const state_names[] = { "Created", "Running", "Paused" };

struct vmm {
	struct loop *loop;
	struct vm *vm; /* NULL: not booted */
	struct vm_config config;
	bool has_config;
	bool owns_fds;           /* the VM owns the descriptors in config: kept for a reboot, closed with config */
	struct vmm_owner *owner; /* NULL: run by hand */
	enum vm_state state;
	uint32_t reboots;
	bool ended;       /* an owned VM has ended, and never runs again */
	char *end_reason; /* heap: why a reboot was not possible */
};

static void end(struct vmm *vmm, const char *reason, int exit_code)
{
	vmm->ended = vmm->owner != NULL;
	if (vmm->owner)
		vmm->owner->ended(vmm->owner, reason, exit_code);
	loop_stop(vmm->loop, exit_code);
}

static void set_state(struct vmm *vmm, enum vm_state state)
{
	vmm->state = state;
	if (vmm->owner)
		vmm->owner->state_changed(vmm->owner);
}

/* Ends the VM, for which there is no machine any more, or no kernel. */
static void end_unbooted(struct vmm *vmm, const char *what, const struct err *err)
{
	char line[ERR_MSG_BYTES];

	log_error("%s: %s", what, err_line(err, line, sizeof(line)));
	free(steal_ptr(&vmm->end_reason));
	if (asprintf(&vmm->end_reason, "%s: %s", what, line) < 0)
		vmm->end_reason = NULL;
	end(vmm, vmm->end_reason ? vmm->end_reason : what, vmm->vm ? 0 : 1);
}

static void on_guest_reset(struct vmm *vmm)
{
	struct err err = {};

	log_guest(LOG_INFO, "the guest reset");
	if (vmm_reboot(vmm, &err) < 0 && !vmm->ended)
		end_unbooted(vmm, "the guest reset", &err);
}

static void on_guest_event(struct vm *vm, uint64_t events)
{
	struct vmm *vmm = vm->owner;

	if ((events & GUEST_TAP_LOST) && vmm->owner)
		vmm->owner->state_changed(vmm->owner);
	if (events == GUEST_TAP_LOST)
		return;
	if (events & GUEST_FAULT) {
		log_error("the guest broke: the VM ends");
		end(vmm, "the guest broke", 1);
	} else if (events & GUEST_POWEROFF) {
		log_info("the guest powered off");
		event_emit("vm", "shutdown", NULL, NULL);
		end(vmm, "the guest powered off", 0);
	} else {
		on_guest_reset(vmm);
	}
}

static void drop_vm(struct vmm *vmm)
{
	vm_free(vmm->vm);
	vmm->vm = NULL;
	vmm->state = VM_CREATED;
}

static void close_fds(int32_t *fds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (fds[i] >= 0)
			close(steal_fd(&fds[i]));
}

static void drop_config(struct vmm *vmm)
{
	if (vmm->owns_fds)
		vm_config_close_fds(&vmm->config);
	if (vmm->has_config)
		vm_config_free(&vmm->config);
	vmm->has_config = vmm->owns_fds = false;
}

struct vmm *vmm_new(struct loop *loop, struct err *err)
{
	struct vmm *vmm = calloc(1, sizeof(*vmm));

	if (!vmm)
		err_num(err, ERR_INTERNAL, ENOMEM, "start the VMM");
	else
		vmm->loop = loop;
	return vmm;
}

void vmm_set_owner(struct vmm *vmm, struct vmm_owner *owner)
{
	vmm->owner = owner;
}

void vmm_free(struct vmm *vmm)
{
	if (!vmm)
		return;
	drop_vm(vmm);
	drop_config(vmm);
	free(vmm->end_reason);
	free(vmm);
}

static void adopt(struct vmm *vmm, struct vm *vm, enum vm_state state)
{
	vmm->vm = vm;
	vmm->state = state;
	vm->owner = vmm;
	vm->on_guest_event = on_guest_event;
}

static bool is_parked(const struct vmm *vmm)
{
	return vmm->vm && vmm->vm->build;
}

const char *vmm_state(const struct vmm *vmm)
{
	return is_parked(vmm) ? "Parked" : state_names[vmm->state];
}

static int need_vm(const struct vmm *vmm, struct err *err)
{
	return vmm->vm && !is_parked(vmm) ? 0 : err_set(err, ERR_INTERNAL, "VM is not running");
}

/*
 * A VM that belongs to forkd is made once, by forkd. After the end of that VM the API makes no other
 * VM.
 */
static int check_made_by_owner(const struct vmm *vmm, struct err *err)
{
	return vmm->ended ? err_set(err, ERR_INTERNAL,
				    "this VM has ended: it belongs to forkd, delete it and take another")
			  : 0;
}

int vmm_create(struct vmm *vmm, struct vm_config *config, struct err *err)
{
	if (check_made_by_owner(vmm, err) < 0)
		return err->num;
	if (vmm->has_config)
		return err_set(err, ERR_INTERNAL, "VM is already created");
	vmm->owns_fds = vmm->owner != NULL;
	vmm->config = *config;
	vm_config_init(config);
	vmm->has_config = true;
	return 0;
}

static int check_config(const struct vmm *vmm, struct err *err)
{
	return vm_config_check(&vmm->config, err) < 0 ? err_wrap(err, "Failed to validate config") : 0;
}

static int boot_machine(struct vmm *vmm, const struct vm_boot *how, struct err *err)
{
	struct vm *vm;

	if (check_config(vmm, err) < 0 || vm_new_boot(vmm->loop, &vmm->config, how, &vm, err) < 0)
		return err->num;
	adopt(vmm, vm, VM_RUNNING);
	if (vm_resume(vm, true, err) < 0) {
		drop_vm(vmm);
		return err->num;
	}
	return 0;
}

int vmm_boot(struct vmm *vmm, struct err *err)
{
	if (check_made_by_owner(vmm, err) < 0)
		return err->num;
	if (vmm->vm)
		return err_set(err, ERR_INTERNAL, "VM is already created");
	event_emit("vm", "booting", NULL, NULL);
	if (!vmm->has_config)
		return err_set(err, ERR_NOT_FOUND, "VM config is missing");
	if (boot_machine(vmm, &(struct vm_boot){}, err) < 0)
		return err->num;
	event_emit("vm", "booted", NULL, NULL);
	return 0;
}

static int wrong_state(const struct vmm *vmm, const char *wanted, struct err *err)
{
	return err_set(err, ERR_INTERNAL, "Invalid transition: InvalidStateTransition(%s, %s)", state_names[vmm->state],
		       wanted);
}

int vmm_pause(struct vmm *vmm, struct err *err)
{
	if (need_vm(vmm, err) < 0)
		return err->num;
	event_emit("vm", "pausing", NULL, NULL);
	if (vmm->state != VM_RUNNING) {
		wrong_state(vmm, "Paused", err);
		err_wrap(err, "Failed to pause migratable component");
		return err_wrap(err, "Cannot pause VM");
	}
	if (vm_pause(vmm->vm, err) < 0) {
		struct err ignored = {};
		(void)!vm_resume(vmm->vm, false, &ignored); /* the VM goes on running */
		return err->num;
	}
	set_state(vmm, VM_PAUSED);
	event_emit("vm", "paused", NULL, NULL);
	return 0;
}

int vmm_resume(struct vmm *vmm, struct err *err)
{
	if (need_vm(vmm, err) < 0)
		return err->num;
	event_emit("vm", "resuming", NULL, NULL);
	if (vmm->state != VM_PAUSED) {
		wrong_state(vmm, "Running", err);
		err_wrap(err, "Failed to resume migratable component");
		return err_wrap(err, "Cannot resume VM");
	}
	if (vm_resume(vmm->vm, false, err) < 0)
		return err->num;
	set_state(vmm, VM_RUNNING);
	event_emit("vm", "resumed", NULL, NULL);
	return 0;
}

static int check_snapshot(const struct vmm *vmm, struct err *err)
{
	if (need_vm(vmm, err) < 0)
		return err->num;
	event_emit("vm", "snapshotting", NULL, NULL);
	if (vmm->state != VM_PAUSED)
		err_set(err, ERR_INTERNAL, "Trying to snapshot while VM is running");
	else if (!ondemand_complete(vmm->vm->ondemand))
		err_set(err, ERR_INTERNAL, "VM on-demand memory restore is still in progress");
	else
		return 0;
	err_wrap(err, "Failed to snapshot migratable component");
	return err_wrap(err, "Cannot snapshot VM");
}

static int not_sent(struct err *err)
{
	err_wrap(err, "Failed to send migratable component snapshot");
	return err_wrap(err, "Cannot send VM snapshot");
}

static int save_at(struct vmm *vmm, const struct snapshot_dir *dir, struct err *err)
{
	if (snapshot_save_at(vmm->vm, dir, err) < 0)
		return not_sent(err);
	event_emit("vm", "snapshotted", NULL, NULL);
	return 0;
}

int vmm_snapshot_at(struct vmm *vmm, const struct snapshot_dir *dir, struct err *err)
{
	return check_snapshot(vmm, err) < 0 ? err->num : save_at(vmm, dir, err);
}

/* The API's user names a directory of the host, and the owner opens the directory. */
static int owned_snapshot(struct vmm *vmm, const char *url, struct err *err)
{
	const char *path = url_path(url, err);
	struct snapshot_dir dir;

	if (!path || vmm->owner->open_dir(vmm->owner, path, &dir, err) < 0)
		return not_sent(err);
	int r = save_at(vmm, &dir, err);
	close(dir.fd);
	return r;
}

int vmm_snapshot(struct vmm *vmm, const char *destination_url, struct err *err)
{
	if (check_snapshot(vmm, err) < 0)
		return err->num;
	if (vmm->owner)
		return owned_snapshot(vmm, destination_url, err);
	if (snapshot_save(vmm->vm, destination_url, err) < 0)
		return not_sent(err);
	event_emit("vm", "snapshotted", NULL, NULL);
	return 0;
}

/* ---- restore ---- */

static int check_restore(const struct restore_config *rc, struct err *err)
{
	static const char *const modes[] = { "copy", "ondemand", "copyonwrite" };

	if (rc->prefault && rc->memory_restore_mode != RESTORE_COPY)
		return err_set(err, ERR_INVALID, "'prefault' cannot be combined with 'memory_restore_mode=%s'",
			       modes[rc->memory_restore_mode]);
	for (uint32_t i = 0; i < rc->n_net_fds; i++)
		for (uint32_t k = 0; k < i; k++)
			if (strcmp(rc->net_fds[i].id, rc->net_fds[k].id) == 0)
				return err_set(err, ERR_CONFLICT, "Identifier %s is not unique", rc->net_fds[i].id);
	return 0;
}

/* Descriptors in config.json are the source process's numbers, and mean nothing here. */
static void forget_fds(struct vm_config *config)
{
	for (uint32_t i = 0; i < config->n_net; i++)
		for (uint32_t k = 0; k < config->net[i].n_fds; k++)
			config->net[i].fds[k] = -1;
}

/* Each net that had descriptors needs new descriptors, which come from *rc. */
static int take_net_fds(struct vmm *vmm, const struct restore_config *rc, struct err *err)
{
	struct vm_config *config = &vmm->config;
	unsigned used = 0;

	forget_fds(config);
	vmm->owns_fds = true;
	for (uint32_t i = 0; i < config->n_net; i++) {
		struct net_config *n = &config->net[i];
		int at = LIST_FIND_ID(rc->net_fds, rc->n_net_fds, n->id);
		struct restored_net *given = at < 0 ? NULL : &rc->net_fds[at];
		if (!n->fds)
			continue;
		if (!given)
			return err_set(err, ERR_INVALID, "Net id %s is associated with FDs and is required",
				       n->id ? n->id : "");
		if (given->n_fds != n->n_fds)
			return err_set(err, ERR_INVALID,
				       "Number of Net FDs passed for '%s' during Restore: %u. Expected: %u", n->id,
				       given->n_fds, n->n_fds);
		for (uint32_t k = 0; k < n->n_fds; k++)
			n->fds[k] = steal_fd(&given->fds[k]);
		used++;
	}
	if (used < rc->n_net_fds)
		log_warn("Ignoring unused 'net_fds' for VM restore.");
	return 0;
}

/* An error in the snapshot's files is no error of the request: ERR_INTERNAL. */
static int open_snapshot(struct vmm *vmm, struct snapshot *snap, const char *source_url, struct err *err)
{
	if (snapshot_open(snap, source_url, err) >= 0 && snapshot_config(snap, &vmm->config, err) >= 0)
		return 0;
	err->code = ERR_INTERNAL;
	return err->num;
}

static int restore_machine(struct vmm *vmm, const struct restore_config *rc, struct err *err)
{
	autosnapshot struct snapshot snap = { .mem_fd = -1 };
	struct vm *vm;

	if (open_snapshot(vmm, &snap, rc->source_url, err) < 0)
		return err->num;
	if (check_restore(rc, err) < 0 || take_net_fds(vmm, rc, err) < 0)
		return err_wrap(err, "Failed to validate config");
	if (check_config(vmm, err) < 0)
		return err->num;
	const struct vm_restore how = { .mode = rc->memory_restore_mode, .clock = rc->clock, .prefault = rc->prefault };
	if (vm_new_parked(vmm->loop, &vmm->config, &snap, &how, &vm, err) < 0)
		return err->num;
	if (vm_finish_restore(vm, err) < 0) {
		vm_free(vm);
		return err->num;
	}
	adopt(vmm, vm, VM_PAUSED);
	return 0;
}

int vmm_restore(struct vmm *vmm, struct restore_config *rc, struct err *err)
{
	int r = check_made_by_owner(vmm, err);

	if (r == 0 && vmm->has_config)
		r = err_set(err, ERR_INTERNAL, "VM is already created");
	if (r == 0) {
		vm_config_init(&vmm->config);
		vmm->has_config = true;
		r = restore_machine(vmm, rc, err);
		if (r < 0)
			drop_config(vmm);
	}
	for (uint32_t i = 0; i < rc->n_net_fds; i++) /* descriptors that no net took */
		close_fds(rc->net_fds[i].fds, rc->net_fds[i].n_fds);
	if (r < 0)
		return r;
	event_emit("vm", "restoring", NULL, NULL); /* late, as in Cloud Hypervisor: no event for a restore that fails */
	event_emit("vm", "restored", NULL, NULL);
	if (rc->resume && vmm_resume(vmm, err) < 0) {
		drop_vm(vmm);
		drop_config(vmm);
		return err->num;
	}
	return 0;
}

/* ---- clones ---- */

struct vm_config *vmm_config(struct vmm *vmm)
{
	return &vmm->config;
}

int vmm_park(struct vmm *vmm, struct vm_config *config, struct snapshot *snap, const struct vm_restore *how,
	     struct err *err)
{
	vmm->config = *config;
	vm_config_init(config);
	vmm->has_config = vmm->owns_fds = true;
	forget_fds(&vmm->config);
	return vm_new_parked(vmm->loop, &vmm->config, snap, how, &vmm->vm, err);
}

int vmm_unpark(struct vmm *vmm, enum clock_choice clock, struct err *err)
{
	vmm->vm->clock = clock;
	if (vm_config_check(&vmm->config, err) < 0 || vm_finish_restore(vmm->vm, err) < 0)
		return err->num;
	adopt(vmm, vmm->vm, VM_PAUSED);
	event_emit("vm", "restored", NULL, NULL);
	return 0;
}

void vmm_release(struct vmm *vmm)
{
	if (vmm->vm)
		vm_release(vmm->vm);
	if (vmm->owns_fds)
		vm_config_close_fds(&vmm->config);
}

uint32_t vmm_reboots(const struct vmm *vmm)
{
	return vmm->reboots;
}

unsigned vmm_lost_nets(struct vmm *vmm, char *ret_ids[MAX_PCI_SLOTS])
{
	return vmm->vm ? devices_lost_nets(vmm->vm, ret_ids) : 0;
}

int vmm_list_own_pages(const struct vmm *vmm, struct own_pages *ret, struct err *err)
{
	if (vmm->vm->mem.backing != GMEM_FILE_COW)
		return err_set(err, ERR_CONFLICT, "the VM's memory does not begin as a template's");
	return own_pages_list(&vmm->vm->mem, ret, err);
}

void vmm_make_own_pages(struct vmm *vmm, const struct own_pages *list)
{
	own_pages_make(&vmm->vm->mem, list);
}

void vmm_sync_disk(struct vmm *vmm, const char *id)
{
	if (vmm->vm && !is_parked(vmm))
		devices_sync_disk(vmm->vm, id);
}

int vmm_put_over_disk(struct vmm *vmm, struct disk_config *over, struct err *err)
{
	int i = LIST_FIND_ID(vmm->config.disks, vmm->config.n_disks, over->id);

	if (need_vm(vmm, err) < 0)
		return err->num;
	if (i < 0 || vmm->state != VM_PAUSED)
		return err_set(err, ERR_CONFLICT, "the VM has no disk '%s', or is not paused", over->id);
	struct disk_config *now = &vmm->config.disks[i], was = *now;
	over->readonly = now->readonly;
	over->direct = now->direct;
	over->lock_granularity = now->lock_granularity;
	over->disable_io_uring = now->disable_io_uring;
	if (devices_put_over_disk(vmm->vm, over, err) < 0)
		return err->num;
	now->path = over->path;
	now->image_type = over->image_type;
	now->backing_files = over->backing_files;
	now->fd = over->fd;
	now->lock_fd = over->lock_fd;
	now->base_fds = over->base_fds;
	now->n_base_fds = over->n_base_fds;
	now->base_qcow2 = over->base_qcow2;
	over->path = was.path;
	over->fd = was.fd;
	over->lock_fd = was.lock_fd;
	over->base_fds = was.base_fds;
	over->n_base_fds = was.n_base_fds;
	return 0;
}

void vmm_hold_nets(struct vmm *vmm)
{
	devices_hold_nets(vmm->vm);
}

void vmm_unhold_nets(struct vmm *vmm)
{
	if (vmm->vm)
		devices_unhold_nets(vmm->vm);
}

bool vmm_holds_nets(const struct vmm *vmm)
{
	return vmm->vm && vmm->vm->env.nets_held;
}

int vmm_dial(struct vmm *vmm, int fd, uint32_t port, struct err *err)
{
	if (!vmm->vm || is_parked(vmm))
		return err_set(err, ERR_CONFLICT, "there is no VM whose port %u could be reached", port);
	return devices_dial(vmm->vm, fd, port, err);
}

void vmm_counters(struct vmm *vmm, struct virtio_counters *ret)
{
	*ret = (struct virtio_counters){};
	if (vmm->vm)
		devices_counters(vmm->vm, ret);
}

int vmm_counters_json(struct vmm *vmm, struct strbuf *out, struct err *err)
{
	if (need_vm(vmm, err) < 0)
		return err->num;
	devices_counters_json(vmm->vm, out);
	return out->failed ? err_num(err, ERR_INTERNAL, ENOMEM, "vm.counters") : 0;
}

/* ---- resize, buttons ---- */

/* Only the present number of vCPUs and the present amount of RAM are accepted. */
static int check_resize(const struct vm_config *c, const struct vm_resize *want, struct err *err)
{
	if (want->has_desired_vcpus && want->desired_vcpus != c->cpus.boot_vcpus) {
		err_set(err, ERR_INTERNAL, "%s",
			want->desired_vcpus > c->cpus.max_vcpus ? "Requested vCPUs exceed maximum"
			: want->desired_vcpus == 0              ? "Requested zero vCPUs"
								: "hotplug is not supported by this program");
		return err_wrap(err, "Error from CPU manager");
	}
	if (want->has_desired_ram && want->desired_ram != c->memory.size) {
		err_set(err, ERR_INTERNAL, "%s",
			want->desired_ram < c->memory.size ? "hotplug is not supported by this program"
			: (want->desired_ram - c->memory.size) % HOTPLUG_ALIGN
				? "The requested hotplug memory addition is not a valid size"
				: "Not enough space in the hotplug RAM region");
		return err_wrap(err, "Memory manager error");
	}
	return want->has_desired_balloon && c->balloon ? vm_config_check_balloon(c, want->desired_balloon, err) : 0;
}

static int resize_running(struct vmm *vmm, const struct vm_resize *want, struct err *err)
{
	if (check_resize(&vmm->config, want, err) < 0)
		return err->num;
	if (want->has_desired_balloon && !devices_resize_balloon(vmm->vm, want->desired_balloon)) {
		err_set(err, ERR_INTERNAL, "Missing virtio-balloon, can't proceed as expected");
		return err_wrap(err, "Error from device manager");
	}
	return 0;
}

int vmm_resize(struct vmm *vmm, const struct vm_resize *want, struct err *err)
{
	struct vm_config *c = &vmm->config;

	if (!vmm->has_config)
		return err_set(err, ERR_NOT_FOUND, "VM is not created");
	if (is_parked(vmm))
		return need_vm(vmm, err);
	if (vmm->vm) {
		event_emit("vm", "resizing", NULL, NULL);
		if (resize_running(vmm, want, err) < 0)
			return err->num;
		event_emit("vm", "resized", NULL, NULL);
	}
	if (want->has_desired_vcpus)
		c->cpus.boot_vcpus = want->desired_vcpus;
	if (want->has_desired_ram)
		c->memory.size = want->desired_ram;
	if (want->has_desired_balloon && c->balloon)
		c->balloon->size = want->desired_balloon;
	return 0;
}

int vmm_resize_disk(struct vmm *vmm, const char *id, uint64_t bytes, struct err *err)
{
	if (!vmm->has_config)
		return err_set(err, ERR_NOT_FOUND, "VM is not created");
	if (!vmm->vm || is_parked(vmm))
		return err_set(err, ERR_INTERNAL, "Failed resizing a disk image");
	return devices_resize_disk(vmm->vm, id, bytes, err) < 0 ? err_wrap(err, "Error from device manager") : 0;
}

/* ---- hot-plug ---- */

static int check_hotplug(const struct vmm *vmm, struct err *err)
{
	if (!vmm->has_config)
		return err_set(err, ERR_NOT_FOUND, "VM is not created");
	return is_parked(vmm) ? need_vm(vmm, err) : 0;
}

/* A clone opens nothing of the host by itself: a new device's descriptors come with the request. */
static int check_owned(const struct vmm *vmm, const char *what, struct err *err)
{
	if (!vmm->owner)
		return 0;
	return err_set(err, ERR_INTERNAL, "a clone opens no files or taps by name: %s", what);
}

int vmm_add_disk(struct vmm *vmm, struct disk_config *disk, struct strbuf *out, struct err *err)
{
	if (check_hotplug(vmm, err) < 0 || check_owned(vmm, "no disk can be added to it", err) < 0)
		return err->num;
	return hotplug_add_disk(&vmm->config, vmm->vm, disk, out, err);
}

int vmm_add_net(struct vmm *vmm, struct net_config *net, struct strbuf *out, struct err *err)
{
	if (check_hotplug(vmm, err) < 0 ||
	    (net->n_fds == 0 && check_owned(vmm, "descriptors must come with the request", err) < 0))
		return err->num;
	vmm->owns_fds |= net->n_fds > 0;
	return hotplug_add_net(&vmm->config, vmm->vm, net, out, err);
}

int vmm_add_vsock(struct vmm *vmm, struct vsock_config *vsock, struct strbuf *out, struct err *err)
{
	if (check_hotplug(vmm, err) < 0 || check_owned(vmm, "no vsock device can be added to it", err) < 0)
		return err->num;
	return hotplug_add_vsock(&vmm->config, vmm->vm, vsock, out, err);
}

int vmm_remove_device(struct vmm *vmm, const char *id, struct err *err)
{
	return check_hotplug(vmm, err) < 0 ? err->num : hotplug_remove(&vmm->config, vmm->vm, id, err);
}

int vmm_power_button(struct vmm *vmm, struct err *err)
{
	if (need_vm(vmm, err) < 0)
		return err->num;
	arch_power_button(vmm->vm);
	return 0;
}

int vmm_nmi(struct vmm *vmm, struct err *err)
{
	return need_vm(vmm, err) < 0 ? err->num : vcpus_nmi(&vmm->vm->vcpus, err);
}

/* ---- end and reboot ---- */

int vmm_shutdown(struct vmm *vmm, struct err *err)
{
	if (need_vm(vmm, err) < 0)
		return err->num;
	drop_vm(vmm);
	event_emit("vm", "shutdown", NULL, NULL);
	if (vmm->owner)
		end(vmm, "ended through its API", 0);
	return 0;
}

int vmm_delete(struct vmm *vmm, struct err *err)
{
	if (vmm->vm && vmm_shutdown(vmm, err) < 0)
		return err->num;
	if (!vmm->has_config)
		return 0;
	drop_config(vmm);
	event_emit("vm", "deleted", NULL, NULL);
	return 0;
}

/* A VM that is run by hand opens what it boots by name; an owned one has got descriptors, or no kernel. */
static int check_reboot(const struct vmm *vmm, struct err *err)
{
	const struct payload_config *p = vmm->config.payload;

	if (!vmm->vm)
		return err_set(err, ERR_NOT_FOUND, "VM is not created");
	if (!vmm->owner || (p && p->kernel_fd > 0 && (!p->initramfs || p->initramfs_fd > 0)))
		return 0;
	return err_set(err, ERR_INTERNAL, "the VM cannot boot again: its template has not kept the kernel");
}

int vmm_reboot(struct vmm *vmm, struct err *err)
{
	event_emit("vm", "rebooting", NULL, NULL);
	if (check_reboot(vmm, err) < 0)
		return err->num;
	const struct vm_boot how = { .clock = vmm->vm->clock, .hold_nets = vmm->vm->env.nets_held };
	drop_vm(vmm);
	if (boot_machine(vmm, &how, err) < 0) {
		err_wrap(err, "reboot");
		if (vmm->owner)
			end_unbooted(vmm, "the VM ended", err);
		return err->num;
	}
	vmm->reboots++;
	set_state(vmm, VM_RUNNING);
	event_emit("vm", "rebooted", NULL, NULL);
	return 0;
}

/* Bytes of RAM without the balloon. The guest may claim any size of the balloon. */
static uint64_t actual_ram(const struct vmm *vmm)
{
	uint64_t given = vmm->vm ? devices_balloon_bytes(vmm->vm) : 0, all = vmm->config.memory.size;

	return given < all ? all - given : 0;
}

int vmm_info(struct vmm *vmm, struct strbuf *out, struct err *err)
{
	if (!vmm->has_config)
		return err_set(err, ERR_NOT_FOUND, "VM is not created");
	strbuf_puts(out, "{\"config\":");
	fields_save(vm_config_fields, &vmm->config, out);
	strbuf_printf(out, ",\"state\":\"%s\",\"memory_actual_size\":%llu", state_names[vmm->state],
		      (unsigned long long)actual_ram(vmm));
	if (vmm->vm) {
		strbuf_puts(out, ",\"device_tree\":");
		devices_tree(vmm->vm, out);
	}
	strbuf_putc(out, '}');
	return out->failed ? err_num(err, ERR_INTERNAL, ENOMEM, "vm.info") : 0;
}
