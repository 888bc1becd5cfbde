// SPDX-License-Identifier: Apache-2.0
/* Builds a machine that boots. */
#include <stddef.h>

#include "vmm/core/arch.h"
#include "vmm/machine/build.h"
#include "vmm/machine/devices.h"

static int step_boot_cpu(struct build *b, struct err *err)
{
	return arch_cpu_init(b->vm, err);
}

static int step_boot_memory(struct build *b, struct err *err)
{
	const struct memory_config *m = &b->vm->config->memory;
	struct gmem *mem = &b->vm->mem;

	arch_layout_ram(mem, m->size);
	if (gmem_map_anon(mem, m->thp, m->reserve, err) < 0)
		return err->num;
	if (m->mergeable)
		gmem_merge(mem);
	return m->prefault ? gmem_prefault(mem, err) : 0;
}

static int step_devices(struct build *b, struct err *err)
{
	return devices_new(b->vm, err);
}

static int step_boot_vcpus(struct build *b, struct err *err)
{
	for (unsigned i = 0; i < b->vm->vcpus.n; i++)
		if (arch_vcpu_init(&b->vm->vcpus.vcpu[i], err) < 0)
			return err->num;
	return 0;
}

static int step_payload(struct build *b, struct err *err)
{
	return arch_load_payload(b->vm, err);
}

static int step_threads(struct build *b, struct err *err)
{
	return build_start_vcpus(b, NULL, err);
}

/*
 * The order of the steps, and with it of the ioctls, stands here and nowhere else. Memory slots
 * come before the irqchip: a slot that is set after it waits for a grace period. There is no
 * ioeventfd. `make bench` shows what each step costs.
 */
static const struct step boot_steps[] = {
	{ "events", step_events },
	{ "kvm", step_kvm },
	{ "cpu", step_boot_cpu },
	{ "memory", step_boot_memory },
	{ "slots", step_slots },
	{ "irqchip", step_irqchip },
	{ "buses", step_buses },
	{ "devices", step_devices },
	{ "vcpus", step_vcpus },
	{ "cpu state", step_boot_vcpus },
	{ "payload", step_payload },
	{ "threads", step_threads },
	{},
};

int vm_new_boot(struct loop *loop, struct vm_config *config, const struct vm_boot *how, struct vm **ret_vm,
		struct err *err)
{
	struct vm *vm = build_new(loop, config, err);

	if (!vm)
		return err->num;
	vm->clock = how->clock;
	vm->env.nets_held = how->hold_nets;
	if (build_run(boot_steps, vm->build, err) < 0) {
		vm_free(vm);
		return err->num;
	}
	build_finish(vm);
	*ret_vm = vm;
	return 0;
}
