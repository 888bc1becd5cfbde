// SPDX-License-Identifier: Apache-2.0
/*
 * One virtual machine: its KVM objects, memory, buses and devices. The main thread builds it and
 * tears it down; while it runs, vCPU threads call into buses and devices.
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
	struct vm_config *config; /* the caller's; automatic ids and MACs are written into it */
	struct kvm kvm;
	struct gmem mem;
	struct bus pio, mmio;
	struct pci_bus pci;
	struct arch_vm arch;
	struct vcpus vcpus;
	struct device_env env; /* what devices see of the machine */
	struct serial *serial;
	struct virtio_pci *dev[MAX_PCI_SLOTS]; /* in creation order */
	unsigned n_devs;
	unsigned device_id_cnt;   /* for automatic ids */
	struct vm_config removed; /* disks, nets and vsock that were asked to go and are still there; see hotplug.h */
	uint32_t tell_up, tell_down;   /* PCI slots that the guest of a restored machine is to be told of */
	_Atomic unsigned guest_events; /* enum guest_event, told to the main thread */
	struct source guest_event;     /* an eventfd whose bits are enum guest_event */
	void (*on_guest_event)(struct vm *vm, uint64_t events);
	void *owner;
	struct ondemand *ondemand; /* fills memory still; NULL: memory is complete */
	struct build *build;       /* while the machine is being built, or parked; NULL otherwise */
	bool restored;             /* loaded from a snapshot and never ran */
	enum clock_choice clock;   /* how the guest's clocks go on at each resume */
};

/* What a machine that boots takes over from the one that ran before it in this process; zeros: nothing. */
struct vm_boot {
	enum clock_choice clock;
	bool hold_nets; /* as after devices_hold_nets() */
};
/* Builds a machine that boots config->payload. Its vCPUs are parked. */
MUST_CHECK int vm_new_boot(struct loop *loop, struct vm_config *config, const struct vm_boot *how, struct vm **ret_vm,
			   struct err *err);
/* How a machine comes from its snapshot. */
struct vm_restore {
	enum restore_mode mode;
	enum clock_choice clock;
	bool prefault;
	const struct kvm *kvm; /* an opened /dev/kvm, taken over, also on failure; NULL: it is opened here */
	struct saved *saved; /* read before, and memory ranges checked; its lists are moved from. NULL: it is read here */
};
/*
 * Builds all of a machine that does not depend on its configuration's devices, from an opened,
 * parsed snapshot. Configuration and snapshot must stay until vm_finish_restore(), which adds the
 * devices. The machine is paused then.
 */
MUST_CHECK int vm_new_parked(struct loop *loop, struct vm_config *config, struct snapshot *snap,
			     const struct vm_restore *how, struct vm **ret_vm, struct err *err);
MUST_CHECK int vm_finish_restore(struct vm *vm, struct err *err);
/* Ends the vCPUs and releases all that the devices hold. */
void vm_release(struct vm *vm);
void vm_free(struct vm *vm);

MUST_CHECK int vm_pause(struct vm *vm, struct err *err);
/* `first`: the machine was booted, and has not run yet. */
MUST_CHECK int vm_resume(struct vm *vm, bool first, struct err *err);

/* A step of building: makes vm->guest_event and puts it into the loop. */
MUST_CHECK int vm_watch_guest(struct vm *vm, struct err *err);

static inline struct vm *vcpu_vm(const struct vcpu *vcpu)
{
	return container_of(vcpu->set, struct vm, vcpus);
}

/* The guest ended or broke. On a vCPU's thread. */
void vm_guest_event(struct vm *vm, enum guest_event event);
/* A net of the machine has lost its tap. Any thread. */
void vm_tap_lost(void *vm);
/* The guest lets go of the device in a PCI slot. On a vCPU's thread. */
void vm_eject(struct vm *vm, unsigned pci_slot);

#endif
