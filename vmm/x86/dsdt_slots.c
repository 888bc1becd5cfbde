// SPDX-License-Identifier: Apache-2.0
/* Writes in AML what has slots to be plugged in: CPUs and memory, and methods that scan them. */
#include "vmm/x86/acpi_regs.h"
#include "vmm/x86/dsdt_parts.h"

enum {
	MEMORY_SLOTS = 8,
	STATUS_PRESENT = 0x0f, /* _STA: present, enabled, shown, working */
	APIC_ENABLED = 1,
};

static void put_cpu_registers(struct tbuf *t, uint64_t gpa)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.PRES"));

	AML(t, AML_NAME, aml_ref("_HID"), aml_eisa("PNP0A06"));
	AML(t, AML_NAME, aml_ref("_UID"), aml_str("CPU Hotplug Controller"));
	AML(t, AML_MUTEX, aml_ref("CPLK"), aml_byte(0));
	dsdt_block(t, "PRST", gpa, ACPI_CPU_BLOCK_BYTES);
	size_t field = AML_BEGIN(t, AML_FIELD, aml_ref("PRST"), aml_byte(AML_BYTE_ACC | AML_WRITE_ZEROS));
	aml_field(t, NULL, 32);
	aml_field(t, "CPEN", 1);
	aml_field(t, "CINS", 1);
	aml_field(t, "CRMV", 1);
	aml_field(t, "CEJ0", 1);
	aml_field(t, NULL, 4);
	aml_field(t, "CCMD", 8);
	aml_end(t, field);
	field = AML_BEGIN(t, AML_FIELD, aml_ref("PRST"), aml_byte(AML_DWORD_ACC));
	aml_field(t, "CSEL", 32);
	aml_field(t, NULL, 32);
	aml_field(t, "CDAT", 32);
	aml_end(t, field);
	aml_end(t, dev);
}

/* What CPUs and memory slots have in common. Names are absolute where Cloud Hypervisor's are. */
struct slot_names {
	const char *lock, *select, *enabled, *inserted, *removed;
	const char *status_method, *notify_method, *scan_method;
	char letter;
};

static const struct slot_names cpu_names = {
	.lock = "\\_SB_.PRES.CPLK",
	.select = "\\_SB_.PRES.CSEL",
	.enabled = "\\_SB_.PRES.CPEN",
	.inserted = "\\_SB_.PRES.CINS",
	.removed = "\\_SB_.PRES.CRMV",
	.status_method = "CSTA",
	.notify_method = "CTFY",
	.scan_method = "CSCN",
	.letter = 'C',
};

static const struct slot_names memory_names = {
	.lock = "MLCK",
	.select = "\\_SB_.MHPC.MSEL",
	.enabled = "\\_SB_.MHPC.MEN_",
	.inserted = "\\_SB_.MHPC.MINS",
	.removed = "\\_SB_.MHPC.MRMV",
	.status_method = "MSTA",
	.notify_method = "MTFY",
	.scan_method = "MSCN",
	.letter = 'M',
};

/* CSTA (slot): what the slot's _STA answers. */
static void put_slot_status(struct tbuf *t, const struct slot_names *n)
{
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref(n->status_method), aml_byte(1 | AML_SERIALIZED));

	AML(t, AML_ACQUIRE, aml_ref(n->lock), aml_word(AML_FOREVER));
	AML(t, AML_STORE, aml_arg(0), aml_ref(n->select));
	AML(t, AML_STORE, aml_num(0), aml_local(0));
	size_t if_ = dsdt_if_equal(t, aml_ref(n->enabled), 1);
	AML(t, AML_STORE, aml_num(STATUS_PRESENT), aml_local(0));
	aml_end(t, if_);
	AML(t, AML_RELEASE, aml_ref(n->lock));
	AML(t, AML_RETURN, aml_local(0));
	aml_end(t, m);
}

/* CTFY (slot, event): a Notify needs a fixed name, so there is one per slot. */
static void put_slot_notify(struct tbuf *t, const struct slot_names *n, unsigned n_slots)
{
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref(n->notify_method), aml_byte(2 | AML_SERIALIZED));

	for (unsigned i = 0; i < n_slots; i++) {
		size_t if_ = dsdt_if_equal(t, aml_arg(0), i);
		AML(t, AML_NOTIFY, aml_ref(DSDT_INDEXED(n->letter, HEX, i)), aml_arg(1));
		aml_end(t, if_);
	}
	aml_end(t, m);
}

/* If the flag of the selected slot is set: tells the slot, and writes the flag back to clear it. */
static void put_slot_event(struct tbuf *t, const struct slot_names *n, const char *flag, unsigned event)
{
	size_t if_ = dsdt_if_equal(t, aml_ref(flag), 1);

	AML(t, AML_CALL, aml_ref(n->notify_method), aml_local(0), aml_num(event));
	AML(t, AML_STORE, aml_num(1), aml_ref(flag));
	aml_end(t, if_);
}

/* CSCN: goes through all slots for those that came or are to go. */
static void put_slot_scan(struct tbuf *t, const struct slot_names *n, unsigned n_slots)
{
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref(n->scan_method), aml_byte(0 | AML_SERIALIZED));

	AML(t, AML_ACQUIRE, aml_ref(n->lock), aml_word(AML_FOREVER));
	AML(t, AML_STORE, aml_num(0), aml_local(0));
	size_t loop = AML_BEGIN(t, AML_WHILE, aml_op(AML_LESS), aml_local(0), aml_num(n_slots));
	AML(t, AML_STORE, aml_local(0), aml_ref(n->select));
	put_slot_event(t, n, n->inserted, NOTIFY_CHECK);
	put_slot_event(t, n, n->removed, NOTIFY_EJECT);
	AML(t, AML_ADD, aml_local(0), aml_num(1), aml_local(0));
	aml_end(t, loop);
	AML(t, AML_RELEASE, aml_ref(n->lock));
	aml_end(t, m);
}

static void put_cpu_eject(struct tbuf *t)
{
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("CEJ0"), aml_byte(1 | AML_SERIALIZED));

	AML(t, AML_ACQUIRE, aml_ref(cpu_names.lock), aml_word(AML_FOREVER));
	AML(t, AML_STORE, aml_arg(0), aml_ref(cpu_names.select));
	AML(t, AML_STORE, aml_num(1), aml_ref("\\_SB_.PRES.CEJ0"));
	AML(t, AML_RELEASE, aml_ref(cpu_names.lock));
	aml_end(t, m);
}

/* A method that returns what a method of the container says of this slot. */
static void put_forward(struct tbuf *t, const char *name, const char *method, unsigned slot)
{
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref(name), aml_byte(0));

	AML(t, AML_RETURN, aml_ref(method), aml_num(slot));
	aml_end(t, m);
}

static void put_cpu(struct tbuf *t, const struct acpi_cfg *cfg, unsigned vcpu)
{
	uint8_t bytes[16];
	struct tbuf entry = { .buf = bytes, .size = sizeof(bytes) };
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref(DSDT_INDEXED('C', HEX, vcpu)));

	AML(t, AML_NAME, aml_ref("_HID"), aml_str("ACPI0007"));
	AML(t, AML_NAME, aml_ref("_UID"), aml_num(vcpu));
	put_forward(t, "_STA", "CSTA", vcpu);
	dsdt_constant(t, "_PXM", 0);
	dsdt_apic_entry(&entry, cfg, vcpu, APIC_ENABLED);
	AML(t, AML_NAME, aml_ref("_MAT"), aml_buffer(bytes, sizeof(bytes)));
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("_EJ0"), aml_byte(1));
	AML(t, AML_CALL, aml_ref("CEJ0"), aml_num(vcpu));
	aml_end(t, m);
	aml_end(t, dev);
}

void dsdt_cpus(struct tbuf *t, const struct acpi_cfg *cfg, uint64_t gpa)
{
	put_cpu_registers(t, gpa);
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.CPUS"));

	AML(t, AML_NAME, aml_ref("_HID"), aml_str("ACPI0010"));
	AML(t, AML_NAME, aml_ref("_CID"), aml_eisa("PNP0A05"));
	put_slot_status(t, &cpu_names);
	put_slot_notify(t, &cpu_names, cfg->max_vcpus);
	put_cpu_eject(t);
	put_slot_scan(t, &cpu_names, cfg->max_vcpus);
	for (unsigned i = 0; i < cfg->max_vcpus; i++)
		put_cpu(t, cfg, i);
	aml_end(t, dev);
}

static void put_memory_registers(struct tbuf *t, uint64_t gpa)
{
	AML(t, AML_MUTEX, aml_ref("MLCK"), aml_byte(0));
	dsdt_block(t, "MHPR", gpa, ACPI_MEMORY_BLOCK_BYTES);
	size_t field = AML_BEGIN(t, AML_FIELD, aml_ref("MHPR"), aml_byte(AML_DWORD_ACC));
	aml_field(t, "MHBL", 32);
	aml_field(t, "MHBH", 32);
	aml_field(t, "MHLL", 32);
	aml_field(t, "MHLH", 32);
	aml_end(t, field);
	field = AML_BEGIN(t, AML_FIELD, aml_ref("MHPR"), aml_byte(AML_DWORD_ACC));
	aml_field(t, NULL, 128);
	aml_field(t, "MHPX", 32);
	aml_end(t, field);
	field = AML_BEGIN(t, AML_FIELD, aml_ref("MHPR"), aml_byte(AML_BYTE_ACC | AML_WRITE_ZEROS));
	aml_field(t, NULL, 160);
	aml_field(t, "MEN_", 1);
	aml_field(t, "MINS", 1);
	aml_field(t, "MRMV", 1);
	aml_field(t, "MEJ0", 1);
	aml_end(t, field);
	field = AML_BEGIN(t, AML_FIELD, aml_ref("MHPR"), aml_byte(AML_DWORD_ACC));
	aml_field(t, "MSEL", 32);
	aml_field(t, "MOEV", 32);
	aml_field(t, "MOSC", 32);
	aml_end(t, field);
}

/* The template that MCRS fills in, and names for the parts of its only descriptor. */
static void put_memory_template(struct tbuf *t)
{
	size_t crs = aml_resources_begin(t, "MR64");

	aml_res_memory64(t, AML_CACHED, 0, UINT64_MAX - 1);
	aml_resources_end(t, crs);
	AML(t, AML_QWORD_FIELD, aml_ref("MR64"), aml_num(14), aml_ref("MINL"));
	AML(t, AML_DWORD_FIELD, aml_ref("MR64"), aml_num(18), aml_ref("MINH"));
	AML(t, AML_QWORD_FIELD, aml_ref("MR64"), aml_num(22), aml_ref("MAXL"));
	AML(t, AML_DWORD_FIELD, aml_ref("MR64"), aml_num(26), aml_ref("MAXH"));
	AML(t, AML_QWORD_FIELD, aml_ref("MR64"), aml_num(38), aml_ref("LENL"));
	AML(t, AML_DWORD_FIELD, aml_ref("MR64"), aml_num(42), aml_ref("LENH"));
}

/*
 * MCRS (slot): what the slot's _CRS answers. The range is put together from two halves of 32 bits.
 */
static void put_memory_resources(struct tbuf *t)
{
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("MCRS"), aml_byte(1 | AML_SERIALIZED));

	AML(t, AML_ACQUIRE, aml_ref("MLCK"), aml_word(AML_FOREVER));
	AML(t, AML_STORE, aml_arg(0), aml_ref(memory_names.select));
	put_memory_template(t);
	AML(t, AML_STORE, aml_ref("\\_SB_.MHPC.MHBL"), aml_ref("MINL"));
	AML(t, AML_STORE, aml_ref("\\_SB_.MHPC.MHBH"), aml_ref("MINH"));
	AML(t, AML_STORE, aml_ref("\\_SB_.MHPC.MHLL"), aml_ref("LENL"));
	AML(t, AML_STORE, aml_ref("\\_SB_.MHPC.MHLH"), aml_ref("LENH"));
	AML(t, AML_ADD, aml_ref("MINL"), aml_ref("LENL"), aml_ref("MAXL"));
	AML(t, AML_ADD, aml_ref("MINH"), aml_ref("LENH"), aml_ref("MAXH"));
	size_t if_ = AML_BEGIN(t, AML_IF, aml_op(AML_LESS), aml_ref("MAXL"), aml_ref("MINL"));
	AML(t, AML_ADD, aml_num(1), aml_ref("MAXH"), aml_ref("MAXH"));
	aml_end(t, if_);
	AML(t, AML_SUBTRACT, aml_ref("MAXL"), aml_num(1), aml_ref("MAXL"));
	AML(t, AML_RELEASE, aml_ref("MLCK"));
	AML(t, AML_RETURN, aml_ref("MR64"));
	aml_end(t, m);
}

static void put_memory_slot(struct tbuf *t, unsigned slot)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref(DSDT_INDEXED('M', HEX, slot)));

	AML(t, AML_NAME, aml_ref("_HID"), aml_eisa("PNP0C80"));
	AML(t, AML_NAME, aml_ref("_UID"), aml_num(slot));
	put_forward(t, "_STA", "MSTA", slot);
	put_forward(t, "_CRS", "MCRS", slot);
	aml_end(t, dev);
}

/* The controller is always there, since ESCN names it; without slots it scans nothing. */
void dsdt_memory(struct tbuf *t, uint64_t gpa)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.MHPC"));

	AML(t, AML_NAME, aml_ref("_HID"), aml_eisa("PNP0A06"));
	AML(t, AML_NAME, aml_ref("_UID"), aml_str("Memory Hotplug Controller"));
	if (gpa) {
		put_memory_registers(t, gpa);
		put_slot_notify(t, &memory_names, MEMORY_SLOTS);
		put_slot_scan(t, &memory_names, MEMORY_SLOTS);
		put_slot_status(t, &memory_names);
		put_memory_resources(t);
		for (unsigned i = 0; i < MEMORY_SLOTS; i++)
			put_memory_slot(t, i);
	} else {
		size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("MSCN"), aml_byte(0 | AML_SERIALIZED));
		aml_end(t, m);
	}
	aml_end(t, dev);
}
