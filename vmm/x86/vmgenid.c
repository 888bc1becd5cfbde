// SPDX-License-Identifier: Apache-2.0
/*
 * The generation id of "Virtual Machine Generation ID" (Microsoft, 2012): 16 random bytes in guest
 * memory. The ACPI device VGEN (dsdt.c) says where they are. A machine that is restored gets other
 * bytes before it runs, and an event of ACPI: the guest knows then that it may be one of many
 * copies. Linux from 5.18 on reseeds its random numbers. A reboot makes no copy: the bytes stay.
 */
#include <assert.h>
#include <string.h>
#include <sys/random.h>

#include "vmm/machine/machine.h"
#include "vmm/x86/acpi.h"

static int write_id(struct vm *vm, struct platform_config *platform, struct err *err)
{
	uint64_t id[2] = {};

	static_assert(sizeof(id) == ACPI_VMGENID_BYTES, "an id fits");
	if (platform && platform->has_generation)
		memcpy(id, (uint64_t[]){ platform->generation_low, platform->generation_high }, sizeof(id));
	else if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return err_sys(err, ERR_INTERNAL, "make a generation id");
	if (platform) {
		platform->generation_low = id[0];
		platform->generation_high = id[1];
		platform->has_generation = true;
	}
	return gmem_write(&vm->mem, vm->arch.vmgenid_gpa, id, sizeof(id), "generation id", err);
}

int arch_generation_renew(struct vm *vm, struct err *err)
{
	struct platform_config *platform = vm->config->platform;

	if (!vm->arch.vmgenid_gpa && platform && platform->vmgenid)
		return err_set(err, ERR_INVALID,
			       "config.json has platform.vmgenid, state.json does not say where the guest has its id");
	if (platform)
		platform->has_generation = false;
	return vm->arch.vmgenid_gpa ? write_id(vm, platform, err) : 0;
}

int arch_generation_set(struct vm *vm, struct err *err)
{
	return vm->arch.vmgenid_gpa ? write_id(vm, vm->config->platform, err) : 0;
}

void arch_generation_tell(struct vm *vm)
{
	if (!vm->arch.vmgenid_gpa)
		return;
	acpi_regs_notify_vmgenid(&vm->arch.acpi_regs);
	arch_irq_pulse(vm, ACPI_GSI_GED);
}
