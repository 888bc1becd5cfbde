// SPDX-License-Identifier: Apache-2.0
/* Pausing, resuming and tearing down a machine; what its guest does to it. */
#include "vmm/machine/machine.h"

#include <stdatomic.h>
#include <sys/eventfd.h>

#include "common/log.h"
#include "vmm/machine/build.h"
#include "vmm/machine/devices.h"
#include "vmm/machine/hotplug.h"
#include "vmm/state/ondemand.h"

static void on_guest_event(struct source *s, uint32_t events)
{
	struct vm *vm = container_of(s, struct vm, guest_event);
	uint64_t n;

	(void)events;
	if (read(s->fd, &n, sizeof(n)) != sizeof(n))
		return;
	unsigned what = atomic_exchange(&vm->guest_events, 0);
	if (what & GUEST_EJECT)
		hotplug_ejected(vm);
	if ((what & ~(unsigned)GUEST_EJECT) && vm->on_guest_event)
		vm->on_guest_event(vm, what);
}

int vm_watch_guest(struct vm *vm, struct err *err)
{
	vm->guest_event = (struct source){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_guest_event };
	if (vm->guest_event.fd < 0)
		return err_sys(err, ERR_INTERNAL, "make an eventfd");
	return loop_add(vm->loop, &vm->guest_event, EPOLLIN, err);
}

static void tell_main(struct vm *vm, enum guest_event event)
{
	atomic_fetch_or(&vm->guest_events, event);
	(void)!write(vm->guest_event.fd, &(uint64_t){ 1 }, sizeof(uint64_t));
}

void vm_guest_event(struct vm *vm, enum guest_event event)
{
	vm->vcpus.guest_ended = true;
	tell_main(vm, event);
}

void vm_tap_lost(void *vm)
{
	tell_main(vm, GUEST_TAP_LOST);
}

void vm_eject(struct vm *vm, unsigned pci_slot)
{
	if (pci_eject(&vm->pci, pci_slot))
		tell_main(vm, GUEST_EJECT);
	else
		log_guest(LOG_DEBUG, "the guest ejects slot %u, which stays", pci_slot);
}

void vm_release(struct vm *vm)
{
	vcpus_destroy(&vm->vcpus);
	devices_free(vm);
	hotplug_done(vm);
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	if (vm->build)
		build_join_reader(vm->build); /* the reader uses what is closed below */
	vcpus_destroy(&vm->vcpus);
	build_free(vm->build); /* the vCPU threads used it */
	devices_free(vm);
	hotplug_done(vm);
	ondemand_stop(vm->ondemand);
	if (vm->guest_event.fd >= 0) {
		loop_del(vm->loop, &vm->guest_event);
		close(vm->guest_event.fd);
	}
	kvm_close(&vm->kvm);
	gmem_unmap(&vm->mem);
	arch_vm_done(vm);
	free(vm);
}

int vm_pause(struct vm *vm, struct err *err)
{
	vcpus_park(&vm->vcpus);
	int r = arch_clock_pause(vm, err); /* at once: what passes before counts as time of the guest */
	hotplug_ejected(vm);               /* a device that the guest has let go of belongs to no snapshot */
	devices_pause(vm);
	for (unsigned i = 0; i < vm->vcpus.n; i++)
		arch_vcpu_paused(&vm->vcpus.vcpu[i]);
	return r;
}

/* The clocks go on first, then the interrupts of the devices, then the guest. */
int vm_resume(struct vm *vm, bool first, struct err *err)
{
	if (!first || vm->restored) {
		if (arch_clock_resume(vm, vm->restored, err) < 0)
			return err->num;
		devices_resume(vm, vm->restored);
		if (vm->restored) {
			hotplug_tell_again(vm);
			arch_generation_tell(vm);
		}
	}
	vm->restored = false;
	vcpus_run(&vm->vcpus);
	return 0;
}
