// SPDX-License-Identifier: Apache-2.0
/*
 * The IOAPIC (82093AA) in user space, over KVM's split irqchip: a redirection entry is turned into
 * an MSI. KVM reports the end of a level-triggered interrupt with KVM_EXIT_IOAPIC_EOI, for pins
 * that are in KVM's routing table.
 */
#include "vmm/x86/ioapic.h"

#include <string.h>

#include "common/log.h"
#include "vmm/core/bus.h"
#include "vmm/machine/machine.h"

enum { REG_ID = 0, REG_VERSION = 1, REG_ARBITRATION = 2, REG_ENTRIES = 0x10, VERSION = 0x11 };
enum { IOREGSEL = 0x00, IOWIN = 0x10 };

#define ENTRY_MASKED (1ULL << 16)
#define ENTRY_LEVEL (1ULL << 15)
#define ENTRY_REMOTE_IRR (1ULL << 14)
#define ENTRY_PENDING (1ULL << 12)
#define ENTRY_READONLY (ENTRY_REMOTE_IRR | ENTRY_PENDING)

static const struct field ioapic_fields[] = {
	F(struct ioapic_state, id_reg, .flags = F_REQUIRED),
	F(struct ioapic_state, reg_sel, .flags = F_REQUIRED),
	F_ARRAY(struct ioapic_state, reg_entries, .flags = F_REQUIRED),
	F_ARRAY(struct ioapic_state, used_entries, .flags = F_REQUIRED),
	F(struct ioapic_state, apic_address, .flags = F_REQUIRED),
	F_END,
};

const char arch_irqchip_id[] = "__ioapic";

void ioapic_init(struct ioapic *io)
{
	*io = (struct ioapic){ .lock = PTHREAD_MUTEX_INITIALIZER, .s.apic_address = 0xfee00000 };
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		io->s.reg_entries[i] = ENTRY_MASKED;
}

/* The MSI that an entry stands for (Intel SDM 11.11: address and data have the entry's fields). */
static uint64_t entry_address(uint64_t e)
{
	uint64_t dest = e >> 56, ext_dest = e >> 49 & 0x7f; /* ext_dest: the upper bits of KVM's 15-bit destinations */

	return 0xfee00000 | dest << 12 | ext_dest << 5 | (e >> 11 & 1) << 2;
}

static uint32_t entry_data(uint64_t e)
{
	return (uint32_t)((e & 0xff) | (e >> 8 & 7) << 8 | (e & ENTRY_LEVEL ? 1U << 15 | 1U << 14 : 0));
}

static void deliver_pin(struct vm *vm, unsigned pin)
{
	uint64_t *e = &vm->arch.ioapic.s.reg_entries[pin];

	if (*e & ENTRY_MASKED)
		return;
	if (*e & ENTRY_LEVEL) {
		if (*e & ENTRY_REMOTE_IRR)
			return;
		*e |= ENTRY_REMOTE_IRR;
	}
	kvm_signal_msi(&vm->kvm, entry_address(*e), entry_data(*e));
}

void arch_irq_set(struct vm *vm, unsigned gsi, bool level)
{
	struct ioapic *io = &vm->arch.ioapic;

	if (gsi >= IOAPIC_PINS)
		return;
	pthread_mutex_lock(&io->lock);
	bool rising = level && !io->level[gsi];
	io->level[gsi] = level;
	if (rising)
		deliver_pin(vm, gsi);
	pthread_mutex_unlock(&io->lock);
}

void arch_irq_pulse(struct vm *vm, unsigned gsi)
{
	arch_irq_set(vm, gsi, true);
	arch_irq_set(vm, gsi, false);
}

void ioapic_eoi(struct vm *vm, uint8_t vector)
{
	struct ioapic *io = &vm->arch.ioapic;

	pthread_mutex_lock(&io->lock);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t *e = &io->s.reg_entries[pin];
		if ((*e & 0xff) != vector || !(*e & ENTRY_LEVEL) || !(*e & ENTRY_REMOTE_IRR))
			continue;
		*e &= ~ENTRY_REMOTE_IRR;
		if (io->level[pin])
			deliver_pin(vm, pin);
	}
	pthread_mutex_unlock(&io->lock);
}

/* Tells KVM of the level-triggered pins; edges need no entry, and most guests have only edges. */
static void update_routes(struct vm *vm)
{
	struct ioapic *io = &vm->arch.ioapic;
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[IOAPIC_PINS];
	} table = {};

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t e = io->s.reg_entries[pin];
		if ((e & ENTRY_MASKED) || !(e & ENTRY_LEVEL))
			continue;
		struct kvm_irq_routing_entry *r = &table.entry[table.head.nr++];
		r->gsi = pin;
		r->type = KVM_IRQ_ROUTING_MSI;
		r->u.msi.address_lo = (uint32_t)entry_address(e);
		r->u.msi.data = entry_data(e);
	}
	if (table.head.nr == 0 && !io->routed)
		return;
	struct err err = {};
	if (kvm_ioctl(vm->kvm.vm_fd, KVM_SET_GSI_ROUTING, &table, "set interrupt routes", &err) < 0)
		log_guest(LOG_WARN, "%s", err.msg);
	io->routed = true;
}

static uint32_t read_reg(const struct ioapic *io)
{
	uint32_t reg = io->s.reg_sel;

	if (reg == REG_VERSION)
		return VERSION | (IOAPIC_PINS - 1) << 16;
	if (reg == REG_ID || reg == REG_ARBITRATION)
		return (io->s.id_reg & 0xf) << 24;
	if (reg < REG_ENTRIES || reg >= REG_ENTRIES + 2 * IOAPIC_PINS)
		return 0;
	uint64_t e = io->s.reg_entries[(reg - REG_ENTRIES) / 2];
	return (uint32_t)(reg & 1 ? e >> 32 : e);
}

static void write_entry(struct vm *vm, unsigned pin, bool high, uint32_t value)
{
	struct ioapic *io = &vm->arch.ioapic;
	uint64_t old = io->s.reg_entries[pin];
	uint64_t e = high ? (old & 0xffffffff) | (uint64_t)value << 32 : (old & ~0xffffffffULL) | value;

	e = (e & ~ENTRY_READONLY) | (old & ENTRY_READONLY);
	if (!(e & ENTRY_LEVEL))
		e &= ~ENTRY_REMOTE_IRR;
	io->s.reg_entries[pin] = e;
	io->s.used_entries[pin] = !(e & ENTRY_MASKED);
	if ((e ^ old) & ~ENTRY_READONLY)
		update_routes(vm);
	if ((e & ENTRY_LEVEL) && io->level[pin])
		deliver_pin(vm, pin);
}

static void ioapic_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	struct vm *vm = opaque;
	struct ioapic *io = &vm->arch.ioapic;

	pthread_mutex_lock(&io->lock);
	reg_put(data, len, off == IOREGSEL ? io->s.reg_sel : off == IOWIN ? read_reg(io) : 0);
	pthread_mutex_unlock(&io->lock);
}

static void ioapic_write(void *opaque, uint64_t off, const void *data, unsigned len)
{
	struct vm *vm = opaque;
	struct ioapic *io = &vm->arch.ioapic;
	uint32_t v = (uint32_t)reg_get(data, len);

	pthread_mutex_lock(&io->lock);
	uint32_t reg = io->s.reg_sel;
	if (off == IOREGSEL)
		io->s.reg_sel = v & 0xff;
	else if (off == IOWIN && reg == REG_ID)
		io->s.id_reg = v >> 24 & 0xf;
	else if (off == IOWIN && reg >= REG_ENTRIES && reg < REG_ENTRIES + 2 * IOAPIC_PINS)
		write_entry(vm, (reg - REG_ENTRIES) / 2, reg & 1, v);
	pthread_mutex_unlock(&io->lock);
}

int ioapic_map(struct vm *vm, struct err *err)
{
	struct bus_range range = {
		.base = IOAPIC_BASE,
		.size = IOAPIC_BYTES,
		.dev = vm,
		.read = ioapic_read,
		.write = ioapic_write,
	};

	return bus_add(&vm->mmio, &range, err);
}

void arch_irqchip_save(struct vm *vm, struct strbuf *out)
{
	struct ioapic *io = &vm->arch.ioapic;

	pthread_mutex_lock(&io->lock);
	fields_save(ioapic_fields, &io->s, out);
	pthread_mutex_unlock(&io->lock);
}

int arch_irqchip_load(struct vm *vm, const struct json_node *state, struct err *err)
{
	if (fields_load(ioapic_fields, &vm->arch.ioapic.s, state, arch_irqchip_id, err) < 0)
		return err_wrap(err, "state.json");
	update_routes(vm);
	return 0;
}
