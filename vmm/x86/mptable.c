// SPDX-License-Identifier: Apache-2.0
/* Writes the MP floating pointer and the configuration table: CPUs, ISA bus, IOAPIC, interrupts. */
#include "vmm/x86/mptable.h"

#include "vmm/x86/tbuf.h"

enum {
	SPEC_1_4 = 4,
	POINTER_BYTES = 16,
	POINTER_CHECKSUM = 10,
	TABLE_LENGTH = 4,
	TABLE_CHECKSUM = 7, /* offsets in the table's header */
	PROCESSOR = 0,
	BUS = 1,
	IOAPIC = 2,
	IO_INTERRUPT = 3,
	LOCAL_INTERRUPT = 4,
	APIC_VERSION = 0x14,
	IOAPIC_ID = 0xff,
	ALL_APICS = 0xff,
	APIC_ID_MAX = 253,
	CPU_ENABLED = 1,
	CPU_BOOT = 2,
	CPU_SIGNATURE = 0x600,
	CPU_FEATURES = 0x201, /* FPU and APIC */
	TYPE_INT = 0,
	TYPE_NMI = 1,
	TYPE_EXTINT = 3,
	N_ISA_IRQS = 16,
	LAPIC_GPA = 0xfee00000,
	IOAPIC_GPA = 0xfec00000,
};

static void put_pointer(struct tbuf *t, uint64_t gpa)
{
	tbuf_put(t, "_MP_", 4);
	tbuf_u32(t, (uint32_t)(gpa + POINTER_BYTES));
	tbuf_put(t, (const uint8_t[]){ 1, SPEC_1_4, 0 }, 3); /* 16 bytes long */
	tbuf_zero(t, 5);
	tbuf_checksum(t, 0, POINTER_BYTES, POINTER_CHECKSUM);
}

static void put_header(struct tbuf *t)
{
	tbuf_put(t, "PCMP", 4);
	tbuf_put(t, (const uint8_t[]){ 0, 0, SPEC_1_4, 0 }, 4);
	tbuf_put(t, "FC      000000000000", 20);
	tbuf_zero(t, 8);
	tbuf_u32(t, LAPIC_GPA);
	tbuf_u32(t, 0);
}

static void put_processor(struct tbuf *t, uint8_t apic_id, uint8_t flags)
{
	tbuf_put(t, (const uint8_t[]){ PROCESSOR, apic_id, APIC_VERSION, flags }, 4);
	tbuf_u32(t, CPU_SIGNATURE);
	tbuf_u32(t, CPU_FEATURES);
	tbuf_u64(t, 0);
}

/* Writes an interrupt of bus 0: its type, its source and where it goes. */
static void put_interrupt(struct tbuf *t, uint8_t entry, uint8_t type, uint8_t irq, uint8_t apic, uint8_t pin)
{
	tbuf_put(t, (const uint8_t[]){ entry, type, 0, 0, 0, irq, apic, pin }, 8);
}

static void put_ioapic(struct tbuf *t)
{
	tbuf_put(t, (const uint8_t[]){ IOAPIC, IOAPIC_ID, APIC_VERSION, 1 }, 4);
	tbuf_u32(t, IOAPIC_GPA);
}

size_t mptable_build(unsigned boot_vcpus, const struct cpu_topology *topo, uint64_t gpa, uint8_t *buf, size_t size)
{
	struct tbuf t = { .buf = buf, .size = size };

	if (cpu_apic_id(topo, boot_vcpus - 1) > APIC_ID_MAX)
		return 0;
	put_pointer(&t, gpa);
	put_header(&t);
	for (unsigned i = 0; i < boot_vcpus; i++)
		put_processor(&t, (uint8_t)cpu_apic_id(topo, i), CPU_ENABLED | (i ? 0 : CPU_BOOT));
	tbuf_put(&t, (const uint8_t[]){ BUS, 0, 'I', 'S', 'A', ' ', ' ', ' ' }, 8);
	put_ioapic(&t);
	for (unsigned i = 0; i < N_ISA_IRQS; i++)
		put_interrupt(&t, IO_INTERRUPT, TYPE_INT, (uint8_t)i, IOAPIC_ID, (uint8_t)i);
	put_interrupt(&t, LOCAL_INTERRUPT, TYPE_EXTINT, 0, 0, 0);
	put_interrupt(&t, LOCAL_INTERRUPT, TYPE_NMI, 0, ALL_APICS, 1);

	uint16_t len = (uint16_t)(t.len - POINTER_BYTES);
	tbuf_set(&t, POINTER_BYTES + TABLE_LENGTH, &len, sizeof(len));
	tbuf_checksum(&t, POINTER_BYTES, t.len, POINTER_BYTES + TABLE_CHECKSUM);
	return t.len;
}
