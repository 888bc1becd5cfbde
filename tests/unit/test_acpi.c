// SPDX-License-Identifier: Apache-2.0
/*
 * Firmware tables: every checksum, length and address, and the register blocks behind them.
 * With --dump DIR key=value… it writes those of one configuration: tests/kvm/compare_tables.sh.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/auto.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/acpi_regs.h"
#include "vmm/x86/aml.h"
#include "vmm/x86/mptable.h"
#include "vmm/x86/smbios.h"

enum { MIB = 1 << 20, FIRMWARE_BYTES = 0x10000 };

static uint8_t tables[ACPI_TABLES_MAX];

static uint64_t get(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;

	memcpy(&v, p, n);
	return v;
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	for (size_t i = 0; i < n; i++)
		s = (uint8_t)(s + p[i]);
	return s;
}

/* The place of the first match, or NULL. */
static const uint8_t *find(const uint8_t *p, size_t n, const void *what, size_t len)
{
	return memmem(p, n, what, len);
}

struct table_case {
	struct acpi_cfg cfg;
	size_t dsdt_bytes; /* Cloud Hypervisor's */
	uint64_t pci_first, pci_last, ged_gpa;
};

#define CFG(boot, max, bits, mib) \
	.boot_vcpus = boot, .max_vcpus = max, .phys_bits = bits, .ram_bytes = (uint64_t)(mib)*MIB

static const struct table_case cases[] = {
	{ { CFG(1, 1, 46, 256), .serial = true }, 4655, 0x100000000, 0x3fffffeeffff, 0x3ffffffed000 },
	{ { CFG(1, 1, 46, 256) }, 4587, 0x100000000, 0x3fffffeeffff, 0x3ffffffed000 },
	{ { CFG(2, 4, 46, 256), .serial = true }, 4961, 0x100000000, 0x3fffffeeffff, 0x3ffffffed000 },
	{ { CFG(8, 17, 40, 3072), .serial = true }, 6301, 0x100000000, 0xffffeeffff, 0xfffffed000 },
	{ { CFG(1, 254, 48, 3074), .serial = true }, 30713, 0x100200000, 0xffffffeeffff, 0xfffffffed000 },
	{ { CFG(1, 255, 46, 5120), .serial = true }, 30816, 0x180000000, 0x3fffffeeffff, 0x3ffffffed000 },
	{ { CFG(1, 1024, 46, 128), .serial = true }, 113097, 0x100000000, 0x3fffffeeffff, 0x3ffffffed000 },
	{ { CFG(6, 12, 46, 256), .serial = true, .topology = { 2, 3, 1 } },
	  5786,
	  0x100000000,
	  0x3fffffeeffff,
	  0x3ffffffed000 },
	{ { CFG(1, 1, 46, 3100), .serial = true, .hotplug_bytes = 256 * MIB },
	  4655,
	  0x118000000,
	  0x3fffffeeffff,
	  0x3ffffffed000 },
	{ { CFG(1, 1, 46, 256), .serial = true, .hotplug_bytes = 512 * MIB, .hotplug_acpi = true },
	  5850,
	  0x120000000,
	  0x3fffffeeffff,
	  0x3ffffffec000 },
};

/* A table that must start where the last one ended; returns its length. */
static size_t check_table(size_t at, size_t total, const char *signature)
{
	assert_true(at + 36 <= total);
	assert_memory_equal(tables + at, signature, 4);
	size_t len = get(tables + at + 4, 4);
	assert_true(len >= 36 && at + len <= total);
	assert_int_equal(sum(tables + at, len), 0);
	assert_memory_equal(tables + at + 10, "CLOUDH", 6);
	return len;
}

static void tables_are_laid_out(void **state)
{
	static const char *const listed[] = { "FACP", "APIC", "MCFG" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		size_t total = acpi_build(&cases[i].cfg, tables, sizeof(tables));
		assert_true(total <= sizeof(tables));
		assert_memory_equal(tables, "RSD PTR ", 8);
		assert_int_equal(sum(tables, 20), 0);
		assert_int_equal(sum(tables, 36), 0);

		size_t at = 36 + check_table(36, total, "DSDT");
		assert_int_equal(at - 36, cases[i].dsdt_bytes);
		size_t xsdt = get(tables + 24, 8) - ACPI_TABLES_GPA;
		assert_int_equal(check_table(xsdt, total, "XSDT"), 36 + 8 * ARRAY_LEN(listed));
		assert_int_equal(get(tables + at + 140, 8), ACPI_TABLES_GPA + 36); /* X_DSDT */
		for (size_t j = 0; j < ARRAY_LEN(listed); j++) {
			assert_int_equal(get(tables + xsdt + 36 + 8 * j, 8), ACPI_TABLES_GPA + at);
			at += check_table(at, total, listed[j]);
		}
		assert_int_equal(at, xsdt);
		assert_int_equal(xsdt + get(tables + xsdt + 4, 4), total);
	}
}

static void addresses_follow_the_configuration(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct acpi_cfg *cfg = &cases[i].cfg;
		struct acpi_range r = acpi_pci_range(cfg);
		struct acpi_addrs a = acpi_addrs(cfg->phys_bits, acpi_has_memory_block(cfg));

		assert_int_equal(r.first, cases[i].pci_first);
		assert_int_equal(r.last, cases[i].pci_last);
		assert_int_equal(a.ged, cases[i].ged_gpa);
		assert_int_equal(a.cpu, a.ged + 0x1000);
		assert_int_equal(a.pci, a.ged + 0x2000);
		assert_int_equal(a.memory, cfg->hotplug_acpi ? a.ged + 0x3000 : 0);

		size_t total = acpi_build(cfg, tables, sizeof(tables));
		const uint64_t in_table[] = { a.pci, a.cpu, a.ged, r.first, r.last };
		for (size_t j = 0; j < ARRAY_LEN(in_table); j++)
			assert_non_null(find(tables, total, &in_table[j], 8));
	}
}

/* Each possible vCPU has one entry; only those that boot are enabled. */
static void madt_lists_every_vcpu(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct acpi_cfg *cfg = &cases[i].cfg;
		size_t total = acpi_build(cfg, tables, sizeof(tables));
		const uint8_t *madt = find(tables + cases[i].dsdt_bytes, total, "APIC", 4);

		assert_non_null(madt);
		assert_int_equal(get(madt + 4, 4), 44 + 16 * cfg->max_vcpus + 12 + 10);
		for (unsigned n = 0; n < cfg->max_vcpus; n++) {
			const uint8_t *e = madt + 44 + 16 * n;
			assert_int_equal(get(e, 2), 0x1009);
			assert_int_equal(get(e + 4, 4), cpu_apic_id(&cfg->topology, n));
			assert_int_equal(get(e + 8, 4), n < cfg->boot_vcpus ? 3 : 2);
			assert_int_equal(get(e + 12, 4), n);
		}
	}
}

static void cpus_are_named_in_hex_and_slots_in_decimal(void **state)
{
	static const struct acpi_cfg cfg = { CFG(1, 300, 46, 128) };
	static const struct {
		const char *name;
		bool there;
	} names[] = {
		{ "S031\b_SUN", true }, { "S01F\b_SUN", false }, { "C00A\b_HID", true },
		{ "C12B\b_HID", true }, { "C12C\b_HID", false }, { "COM1\b_HID", false },
	};
	size_t total = acpi_build(&cfg, tables, sizeof(tables));

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		assert_int_equal(!!find(tables, total, names[i].name, 9), names[i].there);
}

/* Too small a buffer: the same length is returned and nothing is written past the end. */
static void length_does_not_depend_on_room(void **state)
{
	const struct acpi_cfg *cfg = &cases[2].cfg;
	const struct cpu_topology flat = {};
	const struct smbios_cfg dmi = {};
	size_t acpi = acpi_build(cfg, tables, sizeof(tables));
	size_t smbios = smbios_build(&dmi, tables, sizeof(tables));
	size_t mp = mptable_build(2, &flat, 0xf0090, tables, sizeof(tables));

	(void)state;
	for (size_t room = 0; room < acpi; room = room < 100 ? room + 1 : room + 97) {
		autofree uint8_t *small = malloc(room + 1);
		small[room] = 0xa5;
		assert_int_equal(acpi_build(cfg, small, room), acpi);
		assert_int_equal(small[room], 0xa5);
		assert_int_equal(smbios_build(&dmi, small, room), smbios);
		assert_int_equal(mptable_build(2, &flat, 0xf0090, small, room), mp);
		if (room < smbios)
			assert_int_equal(small[room], 0xa5);
	}
}

static void apic_ids_follow_the_topology(void **state)
{
	static const struct {
		struct cpu_topology topo;
		unsigned vcpu;
		uint32_t id;
	} ids[] = {
		{ { 0, 0, 0 }, 300, 300 }, { { 1, 1, 1 }, 7, 7 }, { { 2, 3, 1 }, 5, 5 },   { { 2, 3, 1 }, 6, 8 },
		{ { 1, 5, 2 }, 4, 4 },     { { 1, 5, 2 }, 5, 8 }, { { 1, 5, 2 }, 10, 16 }, { { 1, 65, 3 }, 194, 320 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ids); i++)
		assert_int_equal(cpu_apic_id(&ids[i].topo, ids[i].vcpu), ids[i].id);
}

/* Package lengths change their own size at 63, 4095 and 1048575 bytes, and count it. */
static void aml_lengths(void **state)
{
	static const struct {
		size_t body, coded, bytes;
	} lens[] = {
		{ 0, 1, 1 },       { 62, 63, 1 },       { 63, 65, 2 },           { 4093, 4095, 2 },
		{ 4094, 4097, 3 }, { 70000, 70003, 3 }, { 1048572, 1048575, 3 }, { 1048573, 1048577, 4 },
	};
	size_t room = 2 * MIB;
	autofree uint8_t *buf = malloc(room);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		struct tbuf t = { .buf = buf, .size = room };
		size_t mark = AML_BEGIN(&t, AML_IF, aml_byte(0));
		tbuf_zero(&t, lens[i].body);
		t.len -= 1; /* the byte above is part of the body */
		if (!lens[i].body)
			t.len = mark;
		aml_end(&t, mark);
		size_t v = lens[i].bytes == 1 ? buf[1] : (get(buf + 2, 4) << 4) | (buf[1] & 0xf);
		if (lens[i].bytes > 1)
			v &= (1ul << (8 * lens[i].bytes - 4)) - 1;
		assert_int_equal(v, lens[i].coded);
		assert_int_equal(t.len, 1 + lens[i].bytes + lens[i].body);
	}
}

static void aml_numbers(void **state)
{
	static const struct {
		uint64_t n;
		uint8_t bytes[9], len;
	} nums[] = {
		{ 0, { 0 }, 1 },
		{ 1, { 1 }, 1 },
		{ 2, { 0x0a, 2 }, 2 },
		{ 255, { 0x0a, 255 }, 2 },
		{ 256, { 0x0b, 0, 1 }, 3 },
		{ 65536, { 0x0c, 0, 0, 1, 0 }, 5 },
		{ 1ull << 32, { 0x0e, 0, 0, 0, 0, 1, 0, 0, 0 }, 9 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(nums); i++) {
		uint8_t buf[16];
		struct tbuf t = { .buf = buf, .size = sizeof(buf) };
		AML(&t, AML_RETURN, aml_num(nums[i].n));
		assert_int_equal(t.len, 1 + nums[i].len);
		assert_int_equal(buf[0], AML_RETURN);
		assert_memory_equal(buf + 1, nums[i].bytes, nums[i].len);
	}
}

#define TEXT(s) s, sizeof(s) /* with the NUL at its end */

static void smbios_has_the_given_strings(void **state)
{
	static const char *const oem[] = { "aa", "b" };
	static const struct {
		struct smbios_cfg cfg;
		size_t len;
		uint8_t last_handle;
		const char *text;
		size_t text_len;
	} dmi[] = {
		{ {}, 0x84, 3, TEXT("Cloud Hypervisor\0cloud-hypervisor") },
		{ { .family = "Fami" }, 0x89, 3, TEXT("cloud-hypervisor\0Fami") },
		{ { .chassis_asset_tag = "Asst" }, 0x9f, 4, TEXT("\0Asst") },
		{ { .oem_strings = oem, .n_oem_strings = 2 },
		  0x8f,
		  4,
		  TEXT("\x02"
		       "aa\0b") },
		{ { .manufacturer = "M", .serial_number = "S" }, 0x77, 3, TEXT("M\0cloud-hypervisor\0S") },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(dmi); i++) {
		uint8_t buf[512];
		size_t len = smbios_build(&dmi[i].cfg, buf, sizeof(buf));
		assert_int_equal(len, dmi[i].len);
		assert_memory_equal(buf, "_SM3_", 5);
		assert_int_equal(sum(buf, 24), 0);
		assert_int_equal(get(buf + 12, 4), len - 24);
		assert_int_equal(get(buf + 16, 8), SMBIOS_GPA + 24);
		assert_int_equal(buf[len - 6], 127);
		assert_int_equal(buf[len - 4], dmi[i].last_handle);
		assert_non_null(find(buf, len, dmi[i].text, dmi[i].text_len));
	}
}

static void smbios_uuid_is_mixed_endian(void **state)
{
	static const struct smbios_cfg cfg = {
		.uuid = { 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
			  0xff },
	};
	static const uint8_t stored[] = { 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99 };
	uint8_t buf[512];
	size_t len = smbios_build(&cfg, buf, sizeof(buf));

	(void)state;
	assert_non_null(find(buf, len, stored, sizeof(stored)));
}

static void mptable_stops_where_apic_ids_do(void **state)
{
	static const struct {
		unsigned vcpus;
		struct cpu_topology topo;
		size_t len;
	} mp[] = {
		{ 1, {}, 16 + 44 + 20 + 8 + 8 + 18 * 8 },
		{ 254, {}, 16 + 44 + 254 * 20 + 8 + 8 + 18 * 8 },
		{ 255, {}, 0 },
		{ 66, { 1, 65, 3 }, 16 + 44 + 66 * 20 + 8 + 8 + 18 * 8 },
		{ 254, { 1, 127, 2 }, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(mp); i++) {
		size_t len = mptable_build(mp[i].vcpus, &mp[i].topo, 0xf0090, tables, sizeof(tables));
		assert_int_equal(len, mp[i].len);
		if (!len)
			continue;
		assert_memory_equal(tables, "_MP_", 4);
		assert_int_equal(sum(tables, 16), 0);
		assert_int_equal(get(tables + 4, 4), 0xf00a0);
		assert_memory_equal(tables + 16, "PCMP", 4);
		assert_int_equal(get(tables + 20, 2), len - 16);
		assert_int_equal(sum(tables + 16, len - 16), 0);
	}
}

static uint32_t reg_read(struct acpi_regs *regs, enum acpi_block block, uint64_t off, unsigned len)
{
	uint8_t data[8];

	memset(data, 0xff, sizeof(data));
	acpi_regs_read(regs, block, off, data, len);
	for (unsigned i = len; i < sizeof(data); i++)
		assert_int_equal(data[i], 0xff);
	return (uint32_t)get(data, len < 4 ? len : 4);
}

/* As CSTA does: select, then read the status byte. */
static void cpus_that_run_are_enabled(void **state)
{
	struct acpi_regs regs = { .n_vcpus = 300 };
	static const struct {
		uint32_t vcpu, status;
	} cpus[] = { { 0, 1 }, { 299, 1 }, { 300, 0 }, { UINT32_MAX, 0 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cpus); i++) {
		acpi_regs_write(&regs, ACPI_BLOCK_CPU, 0, &cpus[i].vcpu, 4);
		assert_int_equal(reg_read(&regs, ACPI_BLOCK_CPU, 4, 1), cpus[i].status);
		assert_int_equal(reg_read(&regs, ACPI_BLOCK_CPU, 0, 4), cpus[i].vcpu);
		acpi_regs_write(&regs, ACPI_BLOCK_CPU, 4, &(const uint8_t){ 8 }, 1); /* eject */
		assert_int_equal(reg_read(&regs, ACPI_BLOCK_CPU, 4, 1), cpus[i].status);
	}
}

static void power_button_is_seen_once(void **state)
{
	struct acpi_regs regs = { .n_vcpus = 1 };

	(void)state;
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_GED, 0, 1), 0);
	acpi_regs_notify_power_button(&regs);
	acpi_regs_notify_power_button(&regs);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_GED, 0, 4), 0); /* too wide */
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_GED, 0, 1), ACPI_EVENT_POWER_BUTTON);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_GED, 0, 1), 0);
}

static uint32_t ejected;

static void on_eject(void *owner, unsigned slot)
{
	assert_ptr_equal(owner, &ejected);
	ejected |= 1U << slot;
}

/* As PCNT and PCEJ do. */
static void pci_slots_come_and_go(void **state)
{
	struct acpi_regs regs = { .n_vcpus = 2, .eject = on_eject, .owner = &ejected };
	const uint32_t slots = 1U << 31 | 1U << 5 | 1;

	(void)state;
	ejected = 0;
	for (unsigned off = 0; off < ACPI_PCI_BLOCK_BYTES; off += 4)
		assert_int_equal(reg_read(&regs, ACPI_BLOCK_PCI, off, 4), 0);
	acpi_regs_notify_pci(&regs, 1U << 4, 0);
	acpi_regs_notify_pci(&regs, 1U << 6, 1U << 9);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_GED, 0, 1), ACPI_EVENT_PCI);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_GED, 0, 1), 0);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_PCI, 0, 1), 0); /* only the whole register takes them */
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_PCI, 0, 8), 0);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_PCI, 0, 4), 1U << 4 | 1U << 6);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_PCI, 0, 4), 0);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_PCI, 4, 4), 1U << 9);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_PCI, 4, 4), 0);
	acpi_regs_write(&regs, ACPI_BLOCK_PCI, 8, &slots, 1);
	acpi_regs_write(&regs, ACPI_BLOCK_PCI, 0, &slots, 4);
	assert_int_equal(ejected, 0);
	acpi_regs_write(&regs, ACPI_BLOCK_PCI, 8, &slots, 4);
	assert_int_equal(ejected, slots);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_PCI, 8, 4), 0);
	acpi_regs_write(&regs, ACPI_BLOCK_PCI, 12, &slots, 4); /* there is no such segment */
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_PCI, 12, 4), 0);
}

static int write_area(const char *dir, const char *name, const uint8_t *data, size_t n)
{
	autofree char *path = NULL;

	if (asprintf(&path, "%s/%s", dir, name) < 0)
		return -1;
	FILE *f = fopen(path, "we");
	if (!f)
		return -1;
	size_t done = fwrite(data, 1, n, f);
	return fclose(f) == 0 && done == n ? 0 : -1;
}

/* ---- the generation id ---- */

static int shell(const char *command)
{
	return system(command); /* NOLINT(cert-env33-c): our own words */
}

/* The DSDT, in the disassembler's words; NULL: there is no disassembler. */
static char *disassembled(const struct acpi_cfg *cfg)
{
	char dir[] = "/tmp/forkd-test-acpi-XXXXXX", command[200];
	autofree char *aml = NULL;
	char *text = NULL;
	size_t room = 0;

	if (shell("command -v iasl >/dev/null") != 0)
		return NULL;
	assert_true(acpi_build(cfg, tables, sizeof(tables)) <= sizeof(tables));
	assert_non_null(mkdtemp(dir));
	assert_true(asprintf(&aml, "%s/dsdt.aml", dir) > 0);
	assert_int_equal(write_area(dir, "dsdt.aml", tables + 36, get(tables + 40, 4)), 0);
	/* What it has read it must be able to write again, without an error. */
	snprintf(command, sizeof(command), "cd %s && iasl -d dsdt.aml >log 2>&1 && iasl -p again dsdt.dsl >log 2>&1",
		 dir);
	if (shell(command) != 0)
		fail_msg("iasl: see %s/log", dir);
	snprintf(command, sizeof(command), "%s/dsdt.dsl", dir);
	FILE *f = fopen(command, "re");
	assert_non_null(f);
	assert_true(getdelim(&text, &room, '\0', f) > 0);
	fclose(f);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(shell(command), 0);
	return text;
}

static void generation_id_as_iasl_reads_it(void **state)
{
	static const char *const wanted[] = {
		"Device (_SB.VGEN)", "\"VM_Gen_Counter\"", "\"VMGENCTR\"", "0x000FE000", "Notify (\\_SB.VGEN, 0x80)",
	};
	struct acpi_cfg cfg = { CFG(2, 2, 46, 256), .serial = true };

	(void)state;
	autofree char *without = disassembled(&cfg);
	cfg.vmgenid = true;
	autofree char *with = disassembled(&cfg);
	if (!with) {
		print_message(
			"SKIPPED: there is no iasl (Debian: acpica-tools), the AML is NOT READ by another program\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
		assert_null(strstr(without, wanted[i]));
		if (!strstr(with, wanted[i]))
			fail_msg("iasl does not find: %s", wanted[i]);
	}
}

/* What comes before the device is the same with it. Lengths of the tables without it are Cloud Hypervisor's, see above. */
static void generation_id_only_when_asked(void **state)
{
	static const char device[] = "\x5b\x82";
	static uint8_t plain[ACPI_TABLES_MAX];
	struct acpi_regs regs = {};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct acpi_cfg cfg = cases[i].cfg;
		size_t total = acpi_build(&cfg, plain, sizeof(plain));
		assert_null(find(plain, total, "VGEN", 4));
		cfg.vmgenid = true;
		assert_true(acpi_build(&cfg, tables, sizeof(tables)) <= sizeof(tables));
		const uint8_t *at = find(tables, sizeof(tables), "VGEN\x08_HID", 9);
		assert_non_null(at);
		size_t before = (size_t)(at - tables) - 9; /* "_SB_" and all before it */
		while (memcmp(tables + before, device, 2) != 0)
			before--;
		assert_memory_equal(tables + 36 + 36, plain + 36 + 36,
				    before - 72); /* what follows the DSDT's header */
	}
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_GED, 0, 1), 0);
	acpi_regs_notify_vmgenid(&regs);
	acpi_regs_notify_power_button(&regs);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_GED, 0, 1), ACPI_EVENT_POWER_BUTTON | ACPI_EVENT_VMGENID);
	assert_int_equal(reg_read(&regs, ACPI_BLOCK_GED, 0, 1), 0);
}

static void memory_is_never_plugged(void **state)
{
	struct acpi_regs regs = { .n_vcpus = 2 };

	(void)state;
	for (unsigned off = 0; off < ACPI_MEMORY_BLOCK_BYTES; off += 4) {
		assert_int_equal(reg_read(&regs, ACPI_BLOCK_MEMORY, off, 4), 0);
		assert_int_equal(reg_read(&regs, ACPI_BLOCK_MEMORY, off, 8), 0);
	}
}

struct dump_args {
	struct acpi_cfg cfg;
	struct smbios_cfg dmi;
	const char *oem[8];
};

static int hex_pair(const char *s)
{
	return (int)strtol((const char[]){ s[0], s[1], 0 }, NULL, 16);
}

static void parse_uuid(uint8_t ret_uuid[16], const char *s)
{
	for (unsigned i = 0; i < 16 && s[0] && s[1]; i++, s += 2) {
		if (*s == '-')
			s++;
		ret_uuid[i] = (uint8_t)hex_pair(s);
	}
}

static int parse_dump_arg(struct dump_args *a, char *arg)
{
	char *value = strchr(arg, '=');

	if (!value)
		return -1;
	*value++ = 0;
	struct {
		const char *key;
		unsigned *to;
	} numbers[] = {
		{ "boot", &a->cfg.boot_vcpus },
		{ "max", &a->cfg.max_vcpus },
		{ "bits", &a->cfg.phys_bits },
		{ "threads", &a->cfg.topology.threads_per_core },
		{ "cores", &a->cfg.topology.cores_per_die },
		{ "dies", &a->cfg.topology.dies_per_package },
	};
	struct {
		const char *key, **to;
	} strings[] = {
		{ "system_manufacturer", &a->dmi.manufacturer },
		{ "system_product_name", &a->dmi.product_name },
		{ "system_version", &a->dmi.version },
		{ "system_serial_number", &a->dmi.serial_number },
		{ "system_sku_number", &a->dmi.sku_number },
		{ "system_family", &a->dmi.family },
		{ "chassis_asset_tag", &a->dmi.chassis_asset_tag },
	};
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
		if (!strcmp(arg, numbers[i].key))
			return *numbers[i].to = (unsigned)atoi(value), 0;
	for (size_t i = 0; i < ARRAY_LEN(strings); i++)
		if (!strcmp(arg, strings[i].key))
			return *strings[i].to = value, 0;
	if (!strcmp(arg, "ram_mib"))
		a->cfg.ram_bytes = strtoull(value, NULL, 10) * MIB;
	else if (!strcmp(arg, "hotplug_mib"))
		a->cfg.hotplug_bytes = strtoull(value, NULL, 10) * MIB;
	else if (!strcmp(arg, "hotplug_acpi"))
		a->cfg.hotplug_acpi = atoi(value);
	else if (!strcmp(arg, "vmgenid"))
		a->cfg.vmgenid = atoi(value);
	else if (!strcmp(arg, "serial"))
		a->cfg.serial = atoi(value);
	else if (!strcmp(arg, "system_uuid"))
		parse_uuid(a->dmi.uuid, value);
	else if (!strcmp(arg, "oem") && a->dmi.n_oem_strings < ARRAY_LEN(a->oem))
		a->oem[a->dmi.n_oem_strings++] = value;
	else
		return -1;
	return 0;
}

/* The guest's memory as the tables leave it, so that what must be zero is compared too. */
static int dump(int argc, char **argv)
{
	static uint8_t firmware[FIRMWARE_BYTES];
	struct dump_args a = {
		.cfg = { CFG(1, 0, 46, 512), .serial = true, .hotplug_acpi = true },
	};

	a.dmi.oem_strings = a.oem;
	for (int i = 3; i < argc; i++) {
		if (parse_dump_arg(&a, argv[i]) < 0) {
			fprintf(stderr, "bad argument '%s'\n", argv[i]);
			return 2;
		}
	}
	if (!a.cfg.max_vcpus)
		a.cfg.max_vcpus = a.cfg.boot_vcpus;
	if (acpi_build(&a.cfg, tables, sizeof(tables)) > sizeof(tables))
		return 1;
	size_t at = smbios_build(&a.dmi, firmware, sizeof(firmware));
	at = (at + MPTABLE_ALIGN - 1) / MPTABLE_ALIGN * MPTABLE_ALIGN;
	mptable_build(a.cfg.boot_vcpus, &a.cfg.topology, SMBIOS_GPA + at, firmware + at, sizeof(firmware) - at);
	return write_area(argv[2], "acpi", tables, sizeof(tables)) < 0 ||
	       write_area(argv[2], "firmware", firmware, sizeof(firmware)) < 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_are_laid_out),
		cmocka_unit_test(addresses_follow_the_configuration),
		cmocka_unit_test(madt_lists_every_vcpu),
		cmocka_unit_test(cpus_are_named_in_hex_and_slots_in_decimal),
		cmocka_unit_test(length_does_not_depend_on_room),
		cmocka_unit_test(apic_ids_follow_the_topology),
		cmocka_unit_test(aml_lengths),
		cmocka_unit_test(aml_numbers),
		cmocka_unit_test(smbios_has_the_given_strings),
		cmocka_unit_test(smbios_uuid_is_mixed_endian),
		cmocka_unit_test(mptable_stops_where_apic_ids_do),
		cmocka_unit_test(cpus_that_run_are_enabled),
		cmocka_unit_test(power_button_is_seen_once),
		cmocka_unit_test(pci_slots_come_and_go),
		cmocka_unit_test(generation_id_only_when_asked),
		cmocka_unit_test(generation_id_as_iasl_reads_it),
		cmocka_unit_test(memory_is_never_plugged),
	};

	if (argc > 2 && !strcmp(argv[1], "--dump"))
		return dump(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
