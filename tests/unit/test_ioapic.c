// SPDX-License-Identifier: Apache-2.0
/* vmm/x86/ioapic: registers, edge and level, masks, remote IRR and its end, routes. KVM is fake_kvm(). */
#include "vmm/x86/ioapic.h"

#include "tests/unit/fake_kvm.h"

#include <errno.h>

#include "vmm/core/bus.h"
#include "vmm/machine/machine.h"

enum { SEL = IOAPIC_BASE, WIN = IOAPIC_BASE + 0x10 };
#define MASKED (1ULL << 16)
#define LEVEL (1ULL << 15)
#define IRR (1ULL << 14)
#define LOW_PRIORITY (1ULL << 8)
#define LOGICAL (1ULL << 11)
#define TO(id) ((uint64_t)(id) << 56)

static struct kvm_msi last;
static unsigned n_msi, n_routings;
static struct {
	struct kvm_irq_routing head;
	struct kvm_irq_routing_entry entry[IOAPIC_PINS];
} routes;
static int routing_errno;

static int fake_kvm(unsigned long request, void *arg)
{
	if (request == KVM_SIGNAL_MSI) {
		last = *(struct kvm_msi *)arg;
		n_msi++;
		return 1;
	}
	assert_int_equal(request, KVM_SET_GSI_ROUTING);
	n_routings++;
	memcpy(&routes, arg, sizeof(routes.head) + ((struct kvm_irq_routing *)arg)->nr * sizeof(routes.entry[0]));
	return -routing_errno;
}

static struct vm vm;

static int make(void **state)
{
	struct err err = {};

	(void)state;
	vm = (struct vm){ .kvm = { .fd = -1, .vm_fd = FAKE_FD } };
	bus_init(&vm.mmio);
	ioapic_init(&vm.arch.ioapic);
	n_msi = n_routings = 0;
	routing_errno = 0;
	return ioapic_map(&vm, &err);
}

static void put(uint32_t reg, uint32_t v)
{
	bus_write(&vm.mmio, SEL, &reg, 4);
	bus_write(&vm.mmio, WIN, &v, 4);
}

static uint32_t get(uint32_t reg)
{
	uint32_t v;

	bus_write(&vm.mmio, SEL, &reg, 4);
	bus_read(&vm.mmio, WIN, &v, 4);
	return v;
}

/* As Linux does: the half with the mask last. */
static void set_pin(unsigned pin, uint64_t e)
{
	put(0x11 + 2 * pin, (uint32_t)(e >> 32));
	put(0x10 + 2 * pin, (uint32_t)e);
}

static uint64_t get_pin(unsigned pin)
{
	return (uint64_t)get(0x11 + 2 * pin) << 32 | get(0x10 + 2 * pin);
}

static void registers(void **state)
{
	uint32_t v;

	(void)state;
	assert_int_equal(get(1), 0x00170011);
	assert_int_equal(get(0), 0);
	put(0, 0xffffffff);
	assert_int_equal(get(0), 0x0f000000);
	assert_int_equal(get(2), 0x0f000000);
	put(1, 0);
	assert_int_equal(get(1), 0x00170011);
	assert_int_equal(get(3), 0);
	assert_int_equal(get(0xf), 0);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		assert_int_equal(get_pin(pin), MASKED);
	put(0x10 + 2 * IOAPIC_PINS, 0);
	assert_int_equal(get(0x10 + 2 * IOAPIC_PINS), 0);
	assert_int_equal(get(0xff), 0);
	put(0x110, 0); /* the select register has eight bits */
	bus_read(&vm.mmio, SEL, &v, 4);
	assert_int_equal(v, 0x10);
	bus_read(&vm.mmio, IOAPIC_BASE + 4, &v, 4);
	assert_int_equal(v, 0);
	bus_write(&vm.mmio, IOAPIC_BASE + 4, &(uint32_t){ 5 }, 4);
	bus_read(&vm.mmio, SEL, &v, 4);
	assert_int_equal(v, 0x10);
	assert_int_equal(n_msi, 0);
	assert_int_equal(vm.arch.ioapic.s.apic_address, 0xfee00000);
}

static void edge(void **state)
{
	(void)state;
	set_pin(4, TO(3) | 0x31);
	assert_true(vm.arch.ioapic.s.used_entries[4]);
	assert_false(vm.arch.ioapic.s.used_entries[5]);
	arch_irq_pulse(&vm, 4);
	assert_int_equal(n_msi, 1);
	assert_int_equal(last.address_lo, 0xfee03000);
	assert_int_equal(last.address_hi, 0);
	assert_int_equal(last.data, 0x31);
	arch_irq_set(&vm, 4, true);
	arch_irq_set(&vm, 4, true); /* no new edge */
	assert_int_equal(n_msi, 2);
	arch_irq_set(&vm, 4, false);
	assert_int_equal(n_msi, 2);
	arch_irq_set(&vm, 4, true);
	assert_int_equal(n_msi, 3);
	assert_false(get_pin(4) & IRR);
	assert_int_equal(n_routings, 0); /* edges need none */
	arch_irq_pulse(&vm, IOAPIC_PINS);
	arch_irq_pulse(&vm, UINT32_MAX);
	assert_int_equal(n_msi, 3);
}

static void message_fields(void **state)
{
	static const struct {
		uint64_t entry;
		uint32_t address, data;
	} cases[] = {
		{ TO(0) | 0xef, 0xfee00000, 0xef },
		{ TO(255) | 0x20, 0xfeeff000, 0x20 },
		{ TO(1) | LOGICAL | LOW_PRIORITY | 0x20, 0xfee01004, 0x120 },
		{ TO(1) | 7 << 8 | 0x20, 0xfee01000, 0x720 },
		{ 0x12ULL << 56 | 0x7fULL << 49 | 0x20, 0xfee12fe0, 0x20 }, /* KVM's 15-bit destination */
		{ TO(1) | LEVEL | 0x20, 0xfee01000, 0xc020 },
		{ TO(1) | 1 << 13 | 0x20, 0xfee01000, 0x20 }, /* polarity is not told */
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		make(state);
		set_pin(9, cases[i].entry);
		arch_irq_set(&vm, 9, true);
		assert_int_equal(n_msi, 1);
		assert_int_equal(last.address_lo, cases[i].address);
		assert_int_equal(last.data, cases[i].data);
	}
}

static void masked_edge_is_lost(void **state)
{
	(void)state;
	set_pin(4, MASKED | 0x31);
	assert_false(vm.arch.ioapic.s.used_entries[4]);
	arch_irq_set(&vm, 4, true);
	set_pin(4, 0x31);
	assert_int_equal(n_msi, 0);
	arch_irq_set(&vm, 4, false);
	arch_irq_set(&vm, 4, true);
	assert_int_equal(n_msi, 1);
}

static void level(void **state)
{
	(void)state;
	set_pin(5, TO(1) | LEVEL | 0x40);
	arch_irq_set(&vm, 5, true);
	assert_int_equal(n_msi, 1);
	assert_int_equal(get_pin(5), TO(1) | LEVEL | IRR | 0x40);
	arch_irq_set(&vm, 5, false);
	arch_irq_set(&vm, 5, true); /* not before the end of the first */
	assert_int_equal(n_msi, 1);
	ioapic_eoi(&vm, 0x41); /* another vector */
	assert_true(get_pin(5) & IRR);
	ioapic_eoi(&vm, 0x40); /* the line is up still: again */
	assert_int_equal(n_msi, 2);
	assert_true(get_pin(5) & IRR);
	arch_irq_set(&vm, 5, false);
	ioapic_eoi(&vm, 0x40);
	assert_int_equal(n_msi, 2);
	assert_false(get_pin(5) & IRR);
	ioapic_eoi(&vm, 0x40); /* nothing to end */
	assert_int_equal(n_msi, 2);
	arch_irq_set(&vm, 5, true);
	assert_int_equal(n_msi, 3);
}

static void level_and_masks(void **state)
{
	(void)state;
	set_pin(5, MASKED | LEVEL | 0x40);
	arch_irq_set(&vm, 5, true);
	assert_int_equal(n_msi, 0);
	put(0x10 + 10, LEVEL | 0x40); /* unmasked while up */
	assert_int_equal(n_msi, 1);
	put(0x10 + 10, MASKED | LEVEL | 0x40);
	ioapic_eoi(&vm, 0x40);
	assert_int_equal(n_msi, 1);
	assert_false(get_pin(5) & IRR);
	put(0x10 + 10, LEVEL | 0x40);
	assert_int_equal(n_msi, 2);
	put(0x11 + 10, 7 << 24); /* moved to another CPU while in service: not sent twice */
	assert_int_equal(n_msi, 2);
	assert_true(get_pin(5) & IRR);
}

static void read_only_bits(void **state)
{
	(void)state;
	set_pin(5, LEVEL | IRR | 1 << 12 | 0x40);
	assert_int_equal(get_pin(5), LEVEL | 0x40);
	arch_irq_set(&vm, 5, true);
	put(0x10 + 10, LEVEL | 0x40); /* a written 0 does not end it */
	assert_true(get_pin(5) & IRR);
	assert_int_equal(n_msi, 1);
	put(0x10 + 10, 0x40); /* an edge pin has none: Linux ends interrupts so */
	assert_int_equal(get_pin(5), 0x40);
	put(0x10 + 10, LEVEL | 0x40);
	assert_int_equal(n_msi, 2);
}

static void two_pins_one_vector(void **state)
{
	(void)state;
	set_pin(5, LEVEL | 0x40);
	set_pin(6, LEVEL | 0x40);
	set_pin(7, 0x40);
	arch_irq_set(&vm, 5, true);
	arch_irq_set(&vm, 6, true);
	arch_irq_set(&vm, 7, true);
	assert_int_equal(n_msi, 3);
	arch_irq_set(&vm, 5, false);
	ioapic_eoi(&vm, 0x40);
	assert_int_equal(n_msi, 4);
	assert_false(get_pin(5) & IRR);
	assert_true(get_pin(6) & IRR);
}

static void routes_of_level_pins(void **state)
{
	(void)state;
	set_pin(4, 0x31);
	set_pin(5, MASKED | LEVEL | 0x40);
	assert_int_equal(n_routings, 0);
	set_pin(5, TO(2) | LEVEL | 0x40);
	assert_true(n_routings > 0);
	assert_int_equal(routes.head.nr, 1);
	assert_int_equal(routes.entry[0].gsi, 5);
	assert_int_equal(routes.entry[0].type, KVM_IRQ_ROUTING_MSI);
	assert_int_equal(routes.entry[0].u.msi.address_lo, 0xfee02000);
	assert_int_equal(routes.entry[0].u.msi.data, 0xc040);
	set_pin(23, LEVEL | 0x50);
	assert_int_equal(routes.head.nr, 2);
	assert_int_equal(routes.entry[1].gsi, 23);
	unsigned before = n_routings;
	set_pin(23, LEVEL | 0x50); /* nothing changed */
	assert_int_equal(n_routings, before);
	set_pin(5, MASKED | LEVEL | 0x40);
	set_pin(23, MASKED);
	assert_int_equal(routes.head.nr, 0); /* the last one is taken out too */
	routing_errno = EINVAL;              /* logged, the machine goes on */
	set_pin(5, LEVEL | 0x41);
	arch_irq_set(&vm, 5, true);
	assert_int_equal(n_msi, 1);
}

static void save_and_load(void **state)
{
	autostrbuf struct strbuf out = {}, again = {};
	autojson struct json json = {};
	struct err err = {};

	(void)state;
	put(0, 0x05000000);
	set_pin(4, TO(3) | 0x31);
	set_pin(5, TO(1) | LEVEL | 0x40);
	arch_irq_set(&vm, 5, true);
	put(0x14, 0);
	arch_irqchip_save(&vm, &out);
	autofree char *text = exact_copy(out.text, out.len);
	assert_non_null(strstr(out.text, "{\"id_reg\":5,\"reg_sel\":20,\"reg_entries\":[65536,65536,0,65536,"));
	assert_non_null(strstr(out.text, "\"apic_address\":4276092928}"));
	make(state);
	assert_int_equal(json_parse(&json, text, out.len, &err), 0);
	assert_int_equal(arch_irqchip_load(&vm, &json.nodes[0], &err), 0);
	assert_int_equal(routes.head.nr, 1);
	assert_int_equal(n_routings, 1);
	arch_irqchip_save(&vm, &again);
	assert_string_equal(again.text, out.text);
	assert_int_equal(get_pin(5), TO(1) | LEVEL | IRR | 0x40);
	ioapic_eoi(&vm, 0x40);
	assert_int_equal(get_pin(5), TO(1) | LEVEL | 0x40);

	char bad[] = "{\"id_reg\":0}";
	assert_int_equal(json_parse(&json, bad, strlen(bad), &err), 0);
	assert_int_equal(arch_irqchip_load(&vm, &json.nodes[0], &err), -EINVAL);
	assert_string_equal(err.msg, "state.json\n__ioapic.reg_sel: missing");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(registers, make),
		cmocka_unit_test_setup(edge, make),
		cmocka_unit_test_setup(message_fields, make),
		cmocka_unit_test_setup(masked_edge_is_lost, make),
		cmocka_unit_test_setup(level, make),
		cmocka_unit_test_setup(level_and_masks, make),
		cmocka_unit_test_setup(read_only_bits, make),
		cmocka_unit_test_setup(two_pins_one_vector, make),
		cmocka_unit_test_setup(routes_of_level_pins, make),
		cmocka_unit_test_setup(save_and_load, make),
	};

	return cmocka_run_group_tests_name("ioapic", tests, NULL, NULL);
}
