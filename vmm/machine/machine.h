// SPDX-License-Identifier: Apache-2.0
/*
 * One virtual machine: its KVM objects, memory, buses and devices, and the steps that build it. Built and torn
 * down by the main thread; while it runs, vCPU threads call into buses and devices.
 */
#ifndef VMM_MACHINE_MACHINE_H
#define VMM_MACHINE_MACHINE_H

#include "vmm/config/config.h"
#include "vmm/core/arch.h"
#include "vmm/core/bus.h"
#include "vmm/core/gmem.h"
#include "vmm/core/kvm.h"
#include "vmm/core/loop.h"
#include "vmm/core/vcpu.h"
#include "vmm/pci/pci.h"
#include "vmm/virtio/virtio.h"

struct build;
struct chardev;
struct saved;
struct serial;
struct snapshot;
struct virtio_pci;

struct vm {
	struct loop *loop;
	struct vm_config *config; /* the caller's; automatic ids, MACs … are written into it */
	struct kvm kvm;
	struct gmem mem;
	struct bus pio, mmio;
	struct pci_bus pci;
	struct arch_vm arch;
	struct vcpus vcpus;
	struct device_env env; /* what devices see of it */
	struct serial *serial;
	struct virtio_pci *dev[MAX_PCI_SLOTS]; /* in creation order */
	unsigned n_devs;
	unsigned device_id_cnt;        /* for automatic ids */
	struct vm_config removed;      /* disks, nets and vsock that were asked to go, and did not yet; see hotplug.h */
	uint32_t tell_up, tell_down;   /* PCI slots of a restored machine that its guest is to be told of */
	_Atomic unsigned guest_events; /* enum guest_event, told to the main thread */
	struct source guest_event;     /* an eventfd whose bits are enum guest_event */
	void (*on_guest_event)(struct vm *vm, uint64_t events);
	void *owner;
	struct ondemand *ondemand; /* filling memory still; NULL otherwise */
	struct build *build;       /* while it is being built, or parked; NULL otherwise */
	bool restored;             /* loaded from a snapshot and never ran */
};

/* Builds a machine that boots config->payload; its vCPUs are parked. `restored` fds … are in the config's nets. */
MUST_CHECK int vm_new_boot(struct loop *loop, struct vm_config *config, struct vm **ret_vm, struct err *err);
/* How a machine comes from its snapshot. */
struct vm_restore {
	enum restore_mode mode;
	bool prefault;
	const struct kvm *kvm; /* an opened /dev/kvm, taken over on success and closed on failure; NULL: it is opened */
	struct saved *saved; /* read before (its lists are moved from), memory ranges checked; NULL: read at the side */
};
/*
 * Builds all of a machine that does not depend on its configuration's devices, from an opened, parsed snapshot. Both must stay until
 * vm_finish_restore(), which adds the devices; the machine is paused then.
 */
MUST_CHECK int vm_new_parked(struct loop *loop, struct vm_config *config, struct snapshot *snap,
			     const struct vm_restore *how, struct vm **ret_vm, struct err *err);
MUST_CHECK int vm_finish_restore(struct vm *vm, struct err *err);
/* Parks the vCPUs for good and lets go of all that the devices hold. */
void vm_release(struct vm *vm);
void vm_free(struct vm *vm);

MUST_CHECK int vm_pause(struct vm *vm, struct err *err);
/* `first`: this boot has not run yet. */
MUST_CHECK int vm_resume(struct vm *vm, bool first, struct err *err);

/* Makes vm->guest_event and puts it into the loop. A step of building. */
MUST_CHECK int vm_watch_guest(struct vm *vm, struct err *err);

static inline struct vm *vcpu_vm(const struct vcpu *vcpu)
{
	return container_of(vcpu->set, struct vm, vcpus);
}

/* From a vCPU thread: the guest ended or broke. */
void vm_guest_event(struct vm *vm, enum guest_event event);
/* From a vCPU thread: the guest lets go of the device in a PCI slot. */
void vm_eject(struct vm *vm, unsigned pci_slot);

#endif
