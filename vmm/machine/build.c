// SPDX-License-Identifier: Apache-2.0
/* The steps that a boot and a restore share, and what runs them. */
#include "vmm/machine/build.h"

#include <errno.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "vmm/core/arch.h"

struct vm *build_new(struct loop *loop, struct vm_config *config, struct err *err)
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
		.loop = loop,
		.mem = &vm->mem,
		.kvm = &vm->kvm,
		.mmio = &vm->mmio,
		.pci = &vm->pci,
		.tap_lost = vm_tap_lost,
		.opaque = vm,
	};
	b->vm = vm;
	return vm;
}

int build_run(const struct step *steps, struct build *b, struct err *err)
{
	for (const struct step *s = steps; s->name; s++) {
		uint64_t begin = monotonic_ns();
		if (s->run(b, err) < 0)
			return err->num;
		log_guest(LOG_INFO, "built %s in %llu us", s->name,
			  (unsigned long long)(monotonic_ns() - begin) / 1000);
	}
	return 0;
}

void build_finish(struct vm *vm)
{
	build_free(vm->build);
	vm->build = NULL;
	vm->env.hot = true;
}

void build_join_reader(struct build *b)
{
	if (b->has_reader)
		pthread_join(b->reader, NULL);
	b->has_reader = false;
}

void build_free(struct build *b)
{
	if (!b)
		return;
	build_join_reader(b);
	saved_done(&b->own);
	free(b);
}

int step_kvm(struct build *b, struct err *err)
{
	struct vm *vm = b->vm;
	bool by_template_host = b->saved && b->saved != &b->own;

	if ((vm->kvm.fd < 0 && kvm_open(&vm->kvm, err) < 0) || kvm_create_vm(&vm->kvm, err) < 0)
		return err->num;
	return arch_vm_init(vm, by_template_host, err);
}

int step_events(struct build *b, struct err *err)
{
	return vm_watch_guest(b->vm, err);
}

int step_slots(struct build *b, struct err *err)
{
	return kvm_set_memory(&b->vm->kvm, &b->vm->mem, err);
}

int step_irqchip(struct build *b, struct err *err)
{
	return arch_irqchip_init(b->vm, err);
}

int step_buses(struct build *b, struct err *err)
{
	bus_init(&b->vm->pio);
	bus_init(&b->vm->mmio);
	return arch_platform_init(b->vm, err);
}

static void on_vcpu_event(void *opaque, enum guest_event event)
{
	vm_guest_event(opaque, event);
}

int step_vcpus(struct build *b, struct err *err)
{
	struct vm *vm = b->vm;
	const struct vcpu_env env = {
		.kvm = &vm->kvm, .pio = &vm->pio, .mmio = &vm->mmio, .guest_event = on_vcpu_event, .opaque = vm
	};

	return vcpus_create(&vm->vcpus, &env, vm->config->cpus.boot_vcpus, err);
}

int build_start_vcpus(struct build *b, vcpu_prepare_fn prepare, struct err *err)
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
