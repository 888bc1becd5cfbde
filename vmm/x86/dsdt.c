// SPDX-License-Identifier: Apache-2.0
/* Writes the guest's devices in AML: PCI, board, serial port, power button, events. */
#include "vmm/x86/dsdt.h"

#include "vmm/x86/acpi_regs.h"
#include "vmm/x86/dsdt_parts.h"

enum {
	N_SLOTS = 32,
	LOW_MMIO_FIRST = 0xc0000000,
	LOW_MMIO_LAST = 0xe7ffffff,
	MMCONFIG_BYTES = 0x100000,
	PCI_CONFIG_PORT = 0xcf8,
	PCI_CONFIG_PORTS = 8,
	LAST_PORT = 0xffff,
	SERIAL_PORT = 0x3f8,
	SERIAL_PORTS = 8,
	STATUS_HIDDEN = 0x0b, /* _STA: present, enabled and working, but not shown */
	NOTIFY_STATUS = 0x80, /* the button was pressed; the generation id is another one */
};

/* PCI hot-plug: bit maps of slots that came and go, and the register that ejects. */
static void put_phpr(struct tbuf *t, uint64_t gpa)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.PHPR"));

	AML(t, AML_NAME, aml_ref("_HID"), aml_eisa("PNP0A06"));
	AML(t, AML_NAME, aml_ref("_STA"), aml_num(STATUS_HIDDEN));
	AML(t, AML_NAME, aml_ref("_UID"), aml_str("PCI Hotplug Controller"));
	AML(t, AML_MUTEX, aml_ref("BLCK"), aml_byte(0));
	dsdt_block(t, "PCST", gpa, ACPI_PCI_BLOCK_BYTES);
	size_t field = AML_BEGIN(t, AML_FIELD, aml_ref("PCST"), aml_byte(AML_DWORD_ACC | AML_WRITE_ZEROS));
	aml_field(t, "PCIU", 32);
	aml_field(t, "PCID", 32);
	aml_field(t, "B0EJ", 32);
	aml_field(t, "PSEG", 32);
	aml_end(t, field);

	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("PCEJ"), aml_byte(2 | AML_SERIALIZED));
	AML(t, AML_ACQUIRE, aml_ref("BLCK"), aml_word(AML_FOREVER));
	AML(t, AML_STORE, aml_arg(1), aml_ref("PSEG"));
	AML(t, AML_SHIFT_LEFT, aml_num(1), aml_arg(0), aml_ref("B0EJ"));
	AML(t, AML_RELEASE, aml_ref("BLCK"));
	AML(t, AML_RETURN, aml_num(0));
	aml_end(t, m);

	m = AML_BEGIN(t, AML_METHOD, aml_ref("PSCN"), aml_byte(0 | AML_SERIALIZED));
	AML(t, AML_CALL, aml_ref("\\_SB_.PC00.PCNT"));
	aml_end(t, m);
	aml_end(t, dev);
}

/* Device labelling: function 5 answers 0, that the boot configuration of PCI need not be kept. */
static void put_pci_dsm(struct tbuf *t)
{
	static const uint8_t uuid[] = { 0xd0, 0x37, 0xc9, 0xe5, 0x53, 0x35, 0x7a, 0x4d,
					0x91, 0x17, 0xea, 0x4d, 0x19, 0xc3, 0x43, 0x4d };
	static const uint8_t functions = 0x21, none = 0;
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("_DSM"), aml_byte(4));
	size_t outer = AML_BEGIN(t, AML_IF, aml_op(AML_EQUAL), aml_arg(0), aml_buffer(uuid, sizeof(uuid)));

	size_t inner = dsdt_if_equal(t, aml_arg(2), 0);
	AML(t, AML_RETURN, aml_buffer(&functions, 1));
	aml_end(t, inner);
	inner = dsdt_if_equal(t, aml_arg(2), 5);
	AML(t, AML_RETURN, aml_num(0));
	aml_end(t, inner);
	aml_end(t, outer);
	AML(t, AML_RETURN, aml_buffer(&none, 1));
	aml_end(t, m);
}

static void put_pci_resources(struct tbuf *t, const struct acpi_cfg *cfg)
{
	struct acpi_range high = acpi_pci_range(cfg);
	size_t crs = aml_resources_begin(t, "_CRS");

	aml_res_bus_range(t, 0, 0);
	aml_res_io_port(t, PCI_CONFIG_PORT, 1, PCI_CONFIG_PORTS);
	aml_res_memory32(t, ACPI_MMCONFIG_GPA, MMCONFIG_BYTES);
	aml_res_memory64(t, AML_UNCACHED, LOW_MMIO_FIRST, LOW_MMIO_LAST);
	aml_res_memory64(t, AML_UNCACHED, high.first, high.last);
	aml_res_io_range(t, 0, PCI_CONFIG_PORT - 1);
	aml_res_io_range(t, PCI_CONFIG_PORT + PCI_CONFIG_PORTS, LAST_PORT);
	aml_resources_end(t, crs);
}

static void put_pci_slot(struct tbuf *t, unsigned slot)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref(DSDT_INDEXED('S', DECIMAL, slot)));

	AML(t, AML_NAME, aml_ref("_SUN"), aml_num(slot));
	AML(t, AML_NAME, aml_ref("_ADR"), aml_num(slot << 16));
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("_EJ0"), aml_byte(1 | AML_SERIALIZED));
	AML(t, AML_CALL, aml_ref("\\_SB_.PHPR.PCEJ"), aml_ref("_SUN"), aml_ref("_SEG"));
	aml_end(t, m);
	aml_end(t, dev);
}

/* DVNT (map, event) tells every slot in the map; PCNT asks the hot-plug block for both maps. */
static void put_pci_notify(struct tbuf *t)
{
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("DVNT"), aml_byte(2 | AML_SERIALIZED));

	for (unsigned slot = 0; slot < N_SLOTS; slot++) {
		AML(t, AML_AND, aml_arg(0), aml_num(1u << slot), aml_local(0));
		size_t if_ = dsdt_if_equal(t, aml_local(0), 1u << slot);
		AML(t, AML_NOTIFY, aml_ref(DSDT_INDEXED('S', DECIMAL, slot)), aml_arg(1));
		aml_end(t, if_);
	}
	aml_end(t, m);

	m = AML_BEGIN(t, AML_METHOD, aml_ref("PCNT"), aml_byte(0 | AML_SERIALIZED));
	AML(t, AML_ACQUIRE, aml_ref("\\_SB_.PHPR.BLCK"), aml_word(AML_FOREVER));
	AML(t, AML_STORE, aml_ref("_SEG"), aml_ref("\\_SB_.PHPR.PSEG"));
	AML(t, AML_CALL, aml_ref("DVNT"), aml_ref("\\_SB_.PHPR.PCIU"), aml_num(NOTIFY_CHECK));
	AML(t, AML_CALL, aml_ref("DVNT"), aml_ref("\\_SB_.PHPR.PCID"), aml_num(NOTIFY_EJECT));
	AML(t, AML_RELEASE, aml_ref("\\_SB_.PHPR.BLCK"));
	aml_end(t, m);
}

/* _PRT: interrupt pin A of each slot. */
static void put_pci_routing(struct tbuf *t)
{
	AML(t, AML_NAME, aml_ref("_PRT"));
	size_t prt = AML_BEGIN(t, AML_PACKAGE, aml_byte(N_SLOTS));
	for (unsigned slot = 0; slot < N_SLOTS; slot++) {
		size_t row = AML_BEGIN(t, AML_PACKAGE, aml_byte(4), aml_num(slot << 16 | 0xffff), aml_num(0),
				       aml_num(0), aml_num(ACPI_GSI_PCI + slot % ACPI_N_PCI_GSIS));
		aml_end(t, row);
	}
	aml_end(t, prt);
}

static void put_pci(struct tbuf *t, const struct acpi_cfg *cfg)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.PC00"));

	AML(t, AML_NAME, aml_ref("_HID"), aml_eisa("PNP0A08"));
	AML(t, AML_NAME, aml_ref("_CID"), aml_eisa("PNP0A03"));
	AML(t, AML_NAME, aml_ref("_ADR"), aml_num(0));
	AML(t, AML_NAME, aml_ref("_SEG"), aml_num(0));
	AML(t, AML_NAME, aml_ref("_UID"), aml_num(0));
	AML(t, AML_NAME, aml_ref("_CCA"), aml_num(1));
	AML(t, AML_NAME, aml_ref("SUPP"), aml_num(0));
	dsdt_constant(t, "_PXM", 0);
	put_pci_dsm(t);
	put_pci_resources(t, cfg);
	for (unsigned slot = 0; slot < N_SLOTS; slot++)
		put_pci_slot(t, slot);
	put_pci_notify(t);
	put_pci_routing(t);
	aml_end(t, dev);
}

/* The board keeps MMCONFIG from being given to anything else. */
static void put_board(struct tbuf *t)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.MBRD"));

	AML(t, AML_NAME, aml_ref("_HID"), aml_eisa("PNP0C02"));
	AML(t, AML_NAME, aml_ref("_UID"), aml_num(0));
	size_t crs = aml_resources_begin(t, "_CRS");
	aml_res_memory32(t, ACPI_MMCONFIG_GPA, MMCONFIG_BYTES);
	aml_resources_end(t, crs);
	aml_end(t, dev);
}

static void put_serial(struct tbuf *t)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.COM1"));

	AML(t, AML_NAME, aml_ref("_HID"), aml_eisa("PNP0501"));
	AML(t, AML_NAME, aml_ref("_UID"), aml_num(0));
	AML(t, AML_NAME, aml_ref("_DDN"), aml_str("COM1"));
	size_t crs = aml_resources_begin(t, "_CRS");
	aml_res_edge_irq(t, ACPI_GSI_SERIAL);
	aml_res_io_port(t, SERIAL_PORT, 0, SERIAL_PORTS);
	aml_resources_end(t, crs);
	aml_end(t, dev);
}

/* Sleep state 5 is the value 5 in the sleep register; then the button that asks for it. */
static void put_power(struct tbuf *t)
{
	AML(t, AML_NAME, aml_ref("_S5_"));
	size_t s5 = AML_BEGIN(t, AML_PACKAGE, aml_byte(4), aml_num(5), aml_num(5), aml_num(0), aml_num(0));
	aml_end(t, s5);

	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.PWRB"));
	AML(t, AML_NAME, aml_ref("_HID"), aml_eisa("PNP0C0C"));
	AML(t, AML_NAME, aml_ref("_UID"), aml_num(0));
	aml_end(t, dev);
}

/*
 * The generation id ("Virtual Machine Generation ID", Microsoft, 2012): ADDR has the lower and the upper
 * half of its address. Guests know the device by one of two compatible ids: the specification's is
 * longer than ACPI allows, so Hyper-V has added the other one.
 */
static void put_vmgenid(struct tbuf *t)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.VGEN"));

	AML(t, AML_NAME, aml_ref("_HID"), aml_str("FRKD0001"));
	AML(t, AML_NAME, aml_ref("_CID"));
	size_t ids = AML_BEGIN(t, AML_PACKAGE, aml_byte(2), aml_str("VM_Gen_Counter"), aml_str("VMGENCTR"));
	aml_end(t, ids);
	AML(t, AML_NAME, aml_ref("_DDN"), aml_str("VM_Gen_Counter"));
	AML(t, AML_NAME, aml_ref("ADDR"));
	size_t addr = AML_BEGIN(t, AML_PACKAGE, aml_byte(2), aml_num(ACPI_VMGENID_GPA), aml_num(0));
	aml_end(t, addr);
	aml_end(t, dev);
}

/* ESCN: reads what happened, which clears it, and tells those concerned. */
static void put_event_scan(struct tbuf *t, const struct acpi_cfg *cfg)
{
	static const struct {
		unsigned bit;
		const char *method, *device; /* what is called, or who is told */
	} scans[] = {
		{ ACPI_EVENT_CPU, "\\_SB_.CPUS.CSCN", NULL }, { ACPI_EVENT_MEMORY, "\\_SB_.MHPC.MSCN", NULL },
		{ ACPI_EVENT_PCI, "\\_SB_.PHPR.PSCN", NULL }, { ACPI_EVENT_POWER_BUTTON, NULL, "\\_SB_.PWRB" },
		{ ACPI_EVENT_VMGENID, NULL, "\\_SB_.VGEN" },
	};
	size_t n = sizeof(scans) / sizeof(scans[0]) - (cfg->vmgenid ? 0 : 1);
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("ESCN"), aml_byte(0 | AML_SERIALIZED));

	AML(t, AML_STORE, aml_ref("GDAT"), aml_local(0));
	for (size_t i = 0; i < n; i++) {
		AML(t, AML_AND, aml_local(0), aml_num(scans[i].bit), aml_local(1));
		size_t if_ = dsdt_if_equal(t, aml_local(1), scans[i].bit);
		if (scans[i].method)
			AML(t, AML_CALL, aml_ref(scans[i].method));
		else
			AML(t, AML_NOTIFY, aml_ref(scans[i].device), aml_num(NOTIFY_STATUS));
		aml_end(t, if_);
	}
	aml_end(t, m);
}

/* The event controller has the register, the event device has the interrupt. */
static void put_events(struct tbuf *t, const struct acpi_cfg *cfg, uint64_t gpa)
{
	size_t dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.GEC_"));

	AML(t, AML_NAME, aml_ref("_HID"), aml_eisa("PNP0A06"));
	AML(t, AML_NAME, aml_ref("_UID"), aml_str("Generic Event Controller"));
	dsdt_block(t, "GDST", gpa, ACPI_GED_BLOCK_BYTES);
	size_t field = AML_BEGIN(t, AML_FIELD, aml_ref("GDST"), aml_byte(AML_BYTE_ACC | AML_WRITE_ZEROS));
	aml_field(t, "GDAT", 8);
	aml_end(t, field);
	put_event_scan(t, cfg);
	aml_end(t, dev);

	dev = AML_BEGIN(t, AML_DEVICE, aml_ref("_SB_.GED_"));
	AML(t, AML_NAME, aml_ref("_HID"), aml_str("ACPI0013"));
	AML(t, AML_NAME, aml_ref("_UID"), aml_num(0));
	size_t crs = aml_resources_begin(t, "_CRS");
	aml_res_edge_irq(t, ACPI_GSI_GED);
	aml_resources_end(t, crs);
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref("_EVT"), aml_byte(1 | AML_SERIALIZED));
	AML(t, AML_CALL, aml_ref("\\_SB_.GEC_.ESCN"));
	aml_end(t, m);
	aml_end(t, dev);
}

void dsdt_body(struct tbuf *t, const struct acpi_cfg *cfg)
{
	struct acpi_addrs addrs = acpi_addrs(cfg->phys_bits, acpi_has_memory_block(cfg));

	put_phpr(t, addrs.pci);
	put_pci(t, cfg);
	put_board(t);
	if (cfg->serial)
		put_serial(t);
	put_power(t);
	if (cfg->vmgenid)
		put_vmgenid(t);
	put_events(t, cfg, addrs.ged);
	dsdt_cpus(t, cfg, addrs.cpu);
	dsdt_memory(t, addrs.memory);
}
