// SPDX-License-Identifier: Apache-2.0
/* Building, pausing, resuming and tearing down a machine. */
#include "vmm/machine/machine.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/clock.h"
#include "common/log.h"
#include "vmm/machine/devices.h"
#include "vmm/machine/hotplug.h"
#include "vmm/snapshot/snapshot_write.h"
#include "vmm/state/ondemand.h"
#include "vmm/state/saved.h"
#include "vmm/state/state.h"

/* What a step may need besides the machine. */
struct build {
	struct vm *vm;
	struct snapshot *snap; /* NULL: boot */
	enum restore_mode mode;
	bool prefault;
	struct saved *saved; /* ready, or &own */
	/* The reader's: */
	pthread_t reader;
	bool has_reader;
	unsigned n_cpus;
	int kvm_fd;
	struct saved own;
	struct err reader_err;
};

struct step {
	const char *name;
	int (*run)(struct build *b, struct err *err);
};

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

void vm_eject(struct vm *vm, unsigned pci_slot)
{
	if (pci_eject(&vm->pci, pci_slot))
		tell_main(vm, GUEST_EJECT);
	else
		log_debug("the guest ejects slot %u, which stays", pci_slot);
}

static int step_kvm(struct build *b, struct err *err)
{
	struct vm *vm = b->vm;

	if ((vm->kvm.fd < 0 && kvm_open(&vm->kvm, err) < 0) || kvm_create_vm(&vm->kvm, err) < 0)
		return err->num;
	return arch_vm_init(vm, err);
}

static int step_events(struct build *b, struct err *err)
{
	struct vm *vm = b->vm;

	vm->guest_event = (struct source){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_guest_event };
	if (vm->guest_event.fd < 0)
		return err_sys(err, ERR_INTERNAL, "make an eventfd");
	return loop_add(vm->loop, &vm->guest_event, EPOLLIN, err);
}

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

/* In the mode that was asked for; never in another one. */
static int step_restore_memory(struct build *b, struct err *err)
{
	const struct memory_config *m = &b->vm->config->memory;
	struct gmem *mem = &b->vm->mem;

	arch_layout_ram(mem, m->size);
	if (b->saved == &b->own && snapshot_check_memory(b->snap, mem, err) < 0) /* else the template host did */
		return err->num;
	int r;
	if (b->mode == RESTORE_COPYONWRITE)
		r = gmem_map_cow(mem, &b->snap->mem_fd, err);
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

static int step_slots(struct build *b, struct err *err)
{
	return kvm_set_memory(&b->vm->kvm, &b->vm->mem, err);
}

static int step_irqchip(struct build *b, struct err *err)
{
	return arch_irqchip_init(b->vm, err);
}

static int step_buses(struct build *b, struct err *err)
{
	bus_init(&b->vm->pio);
	bus_init(&b->vm->mmio);
	return arch_platform_init(b->vm, err);
}

static int step_devices(struct build *b, struct err *err)
{
	return devices_new(b->vm, err);
}

static void on_vcpu_event(void *opaque, enum guest_event event)
{
	vm_guest_event(opaque, event);
}

static int step_vcpus(struct build *b, struct err *err)
{
	struct vm *vm = b->vm;
	const struct vcpu_env env = {
		.kvm = &vm->kvm, .pio = &vm->pio, .mmio = &vm->mmio, .guest_event = on_vcpu_event, .opaque = vm
	};

	return vcpus_create(&vm->vcpus, &env, vm->config->cpus.boot_vcpus, err);
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

/* ---- the reader: a thread that turns state.json into structs while this one waits for KVM ---- */

static void *reader(void *arg)
{
	struct build *b = arg;

	log_thread_name("reader");
	if (saved_read(&b->own, b->snap, b->kvm_fd, b->n_cpus, &b->reader_err) < 0)
		log_debug("state.json was not read");
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
	int r = pthread_create(&b->reader, NULL, reader, b);
	b->has_reader = r == 0;
	return r ? err_num(err, ERR_INTERNAL, r, "start a thread") : 0;
}

static void join_reader(struct build *b)
{
	if (b->has_reader)
		pthread_join(b->reader, NULL);
	b->has_reader = false;
}

/* All is read, and the host's CPU has what the guest was told. */
static int step_state(struct build *b, struct err *err)
{
	join_reader(b);
	if (b->reader_err.code != ERR_NONE) {
		*err = b->reader_err;
		return err->num;
	}
	arch_state_load(b->vm, &b->saved->arch);
	return 0;
}

/* On the host CPUs that the configuration names; of several entries for a vCPU the last one counts. */
static int start_vcpus(struct build *b, vcpu_prepare_fn prepare, struct err *err)
{
	struct vcpus *vs = &b->vm->vcpus;
	const struct cpus_config *cfg = &b->vm->config->cpus;

	if (vcpus_start(vs, prepare, b, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < cfg->n_affinity; i++) {
		const struct cpu_affinity *a = &cfg->affinity[i];
		if (a->vcpu < vs->n && vcpu_pin(&vs->vcpu[a->vcpu], a->host_cpus, a->n_host_cpus, err) < 0)
			return err->num;
	}
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
	return start_vcpus(b, load_vcpu, err);
}

static void build_free(struct build *b)
{
	if (!b)
		return;
	join_reader(b);
	saved_done(&b->own);
	free(b);
}

static int step_restore_devices(struct build *b, struct err *err)
{
	const struct json_node *node = NULL;

	if (state_child(&b->snap->state.nodes[0], "device-manager", &node, err) < 0)
		return err->num;
	return devices_restore(b->vm, node, err) < 0 ? err->num : devices_load(b->vm, node, err);
}

static int step_threads(struct build *b, struct err *err)
{
	return start_vcpus(b, NULL, err);
}

static int step_finish(struct build *b, struct err *err)
{
	return vcpus_wait(&b->vm->vcpus, err);
}

/*
 * The order of work, and with it of ioctls, is here and nowhere else: memory slots before the irqchip (a slot set after
 * it waits for a grace period), no ioeventfd. `make bench` shows what each step costs.
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
	{},
};
static const struct step restore_steps[] = {
	{ "buses", step_buses },
	{ "devices", step_restore_devices },
	{ "all threads", step_finish },
	{},
};

static int run_steps(const struct step *steps, struct build *b, struct err *err)
{
	for (const struct step *s = steps; s->name; s++) {
		uint64_t begin = monotonic_ns();
		if (s->run(b, err) < 0)
			return err->num;
		log_info("built %s in %llu us", s->name, (unsigned long long)(monotonic_ns() - begin) / 1000);
	}
	return 0;
}

/* The machine and what builds it; vm_free() releases both. */
static struct vm *vm_new(struct loop *loop, struct vm_config *config, struct err *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	struct build *b = calloc(1, sizeof(*b));

	if (!vm || !b) {
		free(vm);
		free(b);
		err_num(err, ERR_INTERNAL, ENOMEM, "make a VM");
		return NULL;
	}
	vm->loop = loop;
	vm->config = config;
	vm->kvm = (struct kvm){ .fd = -1, .vm_fd = -1 };
	vm->guest_event.fd = -1;
	vm->mem.file_fd = -1;
	vm->build = b;
	vm->env = (struct device_env){
		.loop = loop, .mem = &vm->mem, .kvm = &vm->kvm, .mmio = &vm->mmio, .pci = &vm->pci
	};
	b->vm = vm;
	return vm;
}

static void built(struct vm *vm)
{
	build_free(vm->build);
	vm->build = NULL;
	vm->env.hot = true;
}

int vm_new_boot(struct loop *loop, struct vm_config *config, struct vm **ret_vm, struct err *err)
{
	struct vm *vm = vm_new(loop, config, err);

	if (!vm)
		return err->num;
	if (run_steps(boot_steps, vm->build, err) < 0) {
		vm_free(vm);
		return err->num;
	}
	built(vm);
	*ret_vm = vm;
	return 0;
}

int vm_new_parked(struct loop *loop, struct vm_config *config, struct snapshot *snap, const struct vm_restore *how,
		  struct vm **ret_vm, struct err *err)
{
	struct vm *vm = vm_new(loop, config, err);

	if (!vm)
		return err->num;
	vm->restored = true;
	vm->build->snap = snap;
	vm->build->mode = how->mode;
	vm->build->prefault = how->prefault;
	vm->build->saved = how->saved;
	if (how->kvm)
		vm->kvm = *how->kvm;
	if (run_steps(park_steps, vm->build, err) < 0) {
		vm_free(vm);
		return err->num;
	}
	*ret_vm = vm;
	return 0;
}

int vm_finish_restore(struct vm *vm, struct err *err)
{
	if (run_steps(restore_steps, vm->build, err) < 0)
		return err->num;
	built(vm);
	return 0;
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
		join_reader(vm->build); /* which uses what is closed here */
	vcpus_destroy(&vm->vcpus);
	build_free(vm->build); /* which vCPU threads use */
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
	hotplug_ejected(vm); /* what the guest has let go of belongs to no snapshot */
	devices_pause(vm);
	for (unsigned i = 0; i < vm->vcpus.n; i++)
		arch_vcpu_paused(&vm->vcpus.vcpu[i]);
	return arch_clock_pause(vm, err);
}

/* Time first, then the interrupts of the devices, then the guest. */
int vm_resume(struct vm *vm, bool first, struct err *err)
{
	if (!first || vm->restored) {
		if (arch_clock_resume(vm, vm->restored, err) < 0)
			return err->num;
		devices_resume(vm, vm->restored);
		if (vm->restored)
			hotplug_tell_again(vm);
	}
	vm->restored = false;
	vcpus_run(&vm->vcpus);
	return 0;
}
