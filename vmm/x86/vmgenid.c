// SPDX-License-Identifier: Apache-2.0
/*
 * The generation id of "Virtual Machine Generation ID" (Microsoft, 2012): 16 random bytes in guest
 * memory. The ACPI device VGEN (dsdt.c) says where they are. A machine that is restored gets other
 * bytes before it runs, and an event of ACPI: the guest knows then that it may be one of many
 * copies. Linux from 5.18 on reseeds its random numbers.
 */
#include <sys/random.h>

#include "vmm/machine/machine.h"
#include "vmm/x86/acpi.h"

int arch_generation_renew(struct vm *vm, struct err *err)
{
	const struct platform_config *platform = vm->config->platform;
	uint64_t gpa = vm->arch.vmgenid_gpa;
	uint8_t id[ACPI_VMGENID_BYTES];

	if (!gpa && platform && platform->vmgenid)
		return err_set(err, ERR_INVALID,
			       "config.json has platform.vmgenid, state.json does not say where the guest has its id");
	if (!gpa)
		return 0;
	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return err_sys(err, ERR_INTERNAL, "make a generation id");
	return gmem_write(&vm->mem, gpa, id, sizeof(id), "generation id", err);
}

void arch_generation_tell(struct vm *vm)
{
	if (!vm->arch.vmgenid_gpa)
		return;
	acpi_regs_notify_vmgenid(&vm->arch.acpi_regs);
	arch_irq_pulse(vm, ACPI_GSI_GED);
}
