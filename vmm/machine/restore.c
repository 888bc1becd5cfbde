// SPDX-License-Identifier: Apache-2.0
/*
 * Builds a machine from its snapshot: first all that does not depend on the request, then the
 * devices.
 */
#include <stddef.h>

#include "common/log.h"
#include "vmm/core/arch.h"
#include "vmm/machine/build.h"
#include "vmm/machine/devices.h"
#include "vmm/state/ondemand.h"
#include "vmm/state/snapshot_read.h"
#include "vmm/state/state.h"

/* Maps memory in the mode that was asked for, never in another one. */
static int step_restore_memory(struct build *b, struct err *err)
{
	const struct memory_config *m = &b->vm->config->memory;
	struct gmem *mem = &b->vm->mem;

	arch_layout_ram(mem, m->size);
	if (b->saved == &b->own &&
	    snapshot_check_memory(b->snap, mem, err) < 0) /* else the template host has checked it */
		return err->num;
	int r;
	if (b->mode == RESTORE_COPYONWRITE)
		r = snapshot_map_memory(b->snap, mem, err);
	else
		r = gmem_map_anon(mem, m->thp && b->mode == RESTORE_COPY, m->reserve, err);
	if (r < 0)
		return r;
	if (m->mergeable)
		gmem_merge(mem);
	if (b->mode == RESTORE_COPYONWRITE)
		return 0;
	mem->refills = b->mode == RESTORE_ONDEMAND;
	if (b->mode == RESTORE_ONDEMAND)
		return ondemand_start(mem, &b->snap->mem_fd, &b->vm->ondemand, err);
	if (b->prefault && gmem_prefault(mem, err) < 0)
		return err->num;
	return snapshot_read_memory(b->snap, mem, err);
}

/* ---- the reader: a thread that turns state.json into structs while this one waits for KVM ---- */

static void *read_state(void *arg)
{
	struct build *b = arg;

	log_thread_name("reader");
	if (saved_read(&b->own, b->snap, b->n_cpus, &b->reader_err) < 0 ||
	    arch_needs_check(b->kvm_fd, &b->own.needs, false, &b->reader_err) < 0)
		log_debug("state.json is of no use here");
	return NULL;
}

static int step_reader(struct build *b, struct err *err)
{
	if (b->saved)
		return 0;
	b->saved = &b->own;
	b->n_cpus = b->vm->config->cpus.boot_vcpus;
	if (kvm_open(&b->vm->kvm, err) < 0)
		return err->num;
	b->kvm_fd = b->vm->kvm.fd;
	int r = pthread_create(&b->reader, NULL, read_state, b);
	b->has_reader = r == 0;
	return r ? err_num(err, ERR_INTERNAL, r, "start a thread") : 0;
}

/*
 * Waits until state.json is read; the reader has checked that the host's CPU has what the guest was
 * told.
 */
static int step_state(struct build *b, struct err *err)
{
	build_join_reader(b);
	if (b->reader_err.code != ERR_NONE) {
		*err = b->reader_err;
		return err->num;
	}
	arch_state_load(b->vm, &b->saved->arch);
	return 0;
}

/* On the vCPU's thread. */
static int load_vcpu(struct vcpu *vcpu, void *arg, struct err *err)
{
	const struct build *b = arg;

	return arch_vcpu_load(vcpu, &b->saved->cpu[vcpu->index], err) < 0 ? err_wrap(err, "vCPU %u", vcpu->index) : 0;
}

static int step_restore_vcpus(struct build *b, struct err *err)
{
	return build_start_vcpus(b, load_vcpu, err);
}

static int step_restore_devices(struct build *b, struct err *err)
{
	const struct json_node *node = NULL;

	if (state_child(&b->snap->state.nodes[0], "device-manager", &node, err) < 0)
		return err->num;
	return devices_restore(b->vm, node, err) < 0 ? err->num : devices_load(b->vm, node, err);
}

/* Also of a machine that only parks: each clone has an id of its own from the beginning. */
static int step_generation(struct build *b, struct err *err)
{
	return arch_generation_renew(b->vm, err);
}

static int step_finish(struct build *b, struct err *err)
{
	return vcpus_wait(&b->vm->vcpus, err);
}

/* As in boot.c, memory slots come before the irqchip. */
static const struct step park_steps[] = {
	{ "events", step_events },
	{ "reader", step_reader },
	{ "kvm", step_kvm },
	{ "memory", step_restore_memory },
	{ "slots", step_slots },
	{ "irqchip", step_irqchip },
	{ "vcpus", step_vcpus },
	{ "state", step_state },
	{ "threads", step_restore_vcpus },
	{ "generation", step_generation },
	{},
};
static const struct step restore_steps[] = {
	{ "buses", step_buses },
	{ "devices", step_restore_devices },
	{ "all threads", step_finish },
	{},
};

int vm_new_parked(struct loop *loop, struct vm_config *config, struct snapshot *snap, const struct vm_restore *how,
		  struct vm **ret_vm, struct err *err)
{
	struct vm *vm = build_new(loop, config, err);

	if (!vm)
		return err->num;
	vm->restored = true;
	vm->clock = how->clock;
	vm->build->snap = snap;
	vm->build->mode = how->mode;
	vm->build->prefault = how->prefault;
	vm->build->saved = how->saved;
	if (how->kvm)
		vm->kvm = *how->kvm;
	if (build_run(park_steps, vm->build, err) < 0) {
		vm_free(vm);
		return err->num;
	}
	*ret_vm = vm;
	return 0;
}

int vm_finish_restore(struct vm *vm, struct err *err)
{
	if (build_run(restore_steps, vm->build, err) < 0)
		return err->num;
	build_finish(vm);
	return 0;
}
