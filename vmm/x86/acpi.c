// SPDX-License-Identifier: Apache-2.0
/* Lays out the ACPI tables: RSDP, DSDT, FADT, MADT, MCFG, XSDT, one after the other. */
#include "vmm/x86/acpi.h"

#include "vmm/x86/acpi_regs.h"
#include "vmm/x86/dsdt.h"
#include "vmm/x86/tbuf.h"

enum {
	RSDP_BYTES = 36,
	RSDP_OLD_BYTES = 20, /* the RSDP without what revision 2 added */
	RSDP_OLD_CHECKSUM = 8,
	RSDP_XSDT = 24,
	RSDP_CHECKSUM = 32,
	TABLE_LENGTH = 4,
	TABLE_CHECKSUM = 9, /* offsets in every table's header */
	FADT_BYTES = 276,
	MADT_ENABLED = 1,
	MADT_CAPABLE = 2, /* MADT_ENABLED: the CPU is there now; MADT_CAPABLE: it may come */
	LAPIC_GPA = 0xfee00000,
	IOAPIC_GPA = 0xfec00000,
	BLOCK_STEP = 0x1000,      /* each register block has a page */
	TOP_RESERVED = 0x10000,   /* these bytes below the end of guest addresses are never used */
	BLOCKS_BYTES = 0x100000,  /* below those, for the register blocks */
	MEMORY_ALIGN = 128 << 20, /* hot-plugged memory starts on it */
};

static const uint64_t low_ram_max = 0xc0000000, high_ram_start = 0x100000000;

struct acpi_addrs acpi_addrs(unsigned phys_bits, bool has_memory_block)
{
	uint64_t next = (1ull << phys_bits) - TOP_RESERVED;
	struct acpi_addrs a = {};

	if (has_memory_block)
		a.memory = next -= BLOCK_STEP;
	a.pci = next -= BLOCK_STEP;
	a.cpu = next -= BLOCK_STEP;
	a.ged = next -= BLOCK_STEP;
	return a;
}

bool acpi_has_memory_block(const struct acpi_cfg *cfg)
{
	return cfg->hotplug_acpi && cfg->hotplug_bytes;
}

struct acpi_range acpi_pci_range(const struct acpi_cfg *cfg)
{
	uint64_t high = cfg->ram_bytes > low_ram_max ? cfg->ram_bytes - low_ram_max : 0;
	uint64_t first = high_ram_start + high;

	if (cfg->hotplug_bytes)
		first = ((first + MEMORY_ALIGN - 1) & ~(uint64_t)(MEMORY_ALIGN - 1)) + cfg->hotplug_bytes;
	return (struct acpi_range){
		.first = first,
		.last = (1ull << cfg->phys_bits) - TOP_RESERVED - BLOCKS_BYTES - 1,
	};
}

/* Writes a table's header; table_end() fills in length and checksum. */
static size_t table_begin(struct tbuf *t, const char *signature, uint8_t revision, const char *id)
{
	size_t start = t->len;

	tbuf_put(t, signature, 4);
	tbuf_u32(t, 0);
	tbuf_u8(t, revision);
	tbuf_u8(t, 0);
	tbuf_put(t, "CLOUDH", 6);
	tbuf_put(t, id, 8);
	tbuf_u32(t, 1);
	tbuf_put(t, "RVAT", 4);
	tbuf_u32(t, 0x01000000);
	return start;
}

static void table_end(struct tbuf *t, size_t start)
{
	uint32_t len = (uint32_t)(t->len - start);

	tbuf_set(t, start + TABLE_LENGTH, &len, sizeof(len));
	tbuf_checksum(t, start, t->len, start + TABLE_CHECKSUM);
}

/* Sets a generic address in I/O space; access: 1 byte, 3 double word. */
static void set_port(struct tbuf *t, size_t at, uint8_t bits, uint8_t access, uint64_t port)
{
	tbuf_set(t, at, (const uint8_t[]){ 1, bits, 0, access }, 4);
	tbuf_set(t, at + 4, &port, sizeof(port));
}

/* Hardware-reduced ACPI: most of this table is zero, so the rest is set by offset. */
static void put_fadt(struct tbuf *t, uint64_t dsdt_gpa)
{
	/* hardware-reduced, reset register, 32-bit timer */
	static const uint32_t flags = 1 << 20 | 1 << 10 | 1 << 8;
	size_t start = table_begin(t, "FACP", 6, "CHFACP  ");

	tbuf_zero(t, start + FADT_BYTES - t->len);
	tbuf_set(t, start + 112, &flags, sizeof(flags));
	set_port(t, start + 116, 8, 1, ACPI_PORT_SLEEP); /* RESET_REG */
	tbuf_set(t, start + 128, &(const uint8_t){ ACPI_SLEEP_RESET }, 1);
	tbuf_set(t, start + 131, &(const uint8_t){ 3 }, 1); /* minor version */
	tbuf_set(t, start + 140, &dsdt_gpa, sizeof(dsdt_gpa));
	set_port(t, start + 208, 32, 3, ACPI_PORT_PM_TIMER); /* X_PM_TMR_BLK */
	set_port(t, start + 244, 8, 1, ACPI_PORT_SLEEP);     /* SLEEP_CONTROL_REG */
	set_port(t, start + 256, 8, 1, ACPI_PORT_SLEEP);     /* SLEEP_STATUS_REG */
	tbuf_set(t, start + 268, "CLOUDHYP", 8);
	table_end(t, start);
}

static void put_madt(struct tbuf *t, const struct acpi_cfg *cfg)
{
	size_t start = table_begin(t, "APIC", 5, "CHMADT  ");

	tbuf_u32(t, LAPIC_GPA);
	tbuf_u32(t, 0);
	for (unsigned i = 0; i < cfg->max_vcpus; i++)
		dsdt_apic_entry(t, cfg, i, (i < cfg->boot_vcpus ? MADT_ENABLED : 0) | MADT_CAPABLE);

	tbuf_put(t, (const uint8_t[]){ 1, 12, 0, 0 }, 4); /* IOAPIC 0 */
	tbuf_u32(t, IOAPIC_GPA);
	tbuf_u32(t, 0);                                                 /* its first GSI */
	tbuf_put(t, (const uint8_t[]){ 2, 10, 0, ACPI_GSI_SERIAL }, 4); /* ISA interrupt to GSI */
	tbuf_u32(t, ACPI_GSI_SERIAL);
	tbuf_u16(t, 0);
	table_end(t, start);
}

static void put_mcfg(struct tbuf *t)
{
	size_t start = table_begin(t, "MCFG", 1, "CHMCFG  ");

	tbuf_u64(t, 0);
	tbuf_u64(t, ACPI_MMCONFIG_GPA);
	tbuf_u16(t, 0); /* segment */
	tbuf_u8(t, 0);  /* first and last bus */
	tbuf_u8(t, 0);
	tbuf_u32(t, 0);
	table_end(t, start);
}

/* The RSDP has two checksums: one over what revision 0 had, one over all. */
static void put_rsdp(struct tbuf *t)
{
	tbuf_put(t, "RSD PTR ", 8);
	tbuf_u8(t, 0);
	tbuf_put(t, "CLOUDH", 6);
	tbuf_u8(t, 2);
	tbuf_u32(t, 0);
	tbuf_checksum(t, 0, RSDP_OLD_BYTES, RSDP_OLD_CHECKSUM);
	tbuf_u32(t, RSDP_BYTES);
	tbuf_u64(t, 0);
	tbuf_u32(t, 0);
}

size_t acpi_build(const struct acpi_cfg *cfg, uint8_t *buf, size_t size)
{
	struct tbuf t = { .buf = buf, .size = size };
	uint64_t gpas[3];

	put_rsdp(&t);
	size_t dsdt = table_begin(&t, "DSDT", 6, "CHDSDT  ");
	dsdt_body(&t, cfg);
	table_end(&t, dsdt);

	gpas[0] = ACPI_TABLES_GPA + t.len;
	put_fadt(&t, ACPI_TABLES_GPA + dsdt);
	gpas[1] = ACPI_TABLES_GPA + t.len;
	put_madt(&t, cfg);
	gpas[2] = ACPI_TABLES_GPA + t.len;
	put_mcfg(&t);

	uint64_t xsdt_gpa = ACPI_TABLES_GPA + t.len;
	size_t xsdt = table_begin(&t, "XSDT", 1, "CHXSDT  ");
	tbuf_put(&t, gpas, sizeof(gpas));
	table_end(&t, xsdt);

	tbuf_set(&t, RSDP_XSDT, &xsdt_gpa, sizeof(xsdt_gpa));
	tbuf_checksum(&t, 0, RSDP_BYTES, RSDP_CHECKSUM);
	return t.len;
}
