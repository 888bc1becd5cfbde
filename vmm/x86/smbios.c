// SPDX-License-Identifier: Apache-2.0
/* Writes the SMBIOS entry point and structures: BIOS, system, chassis, OEM strings, end. */
#include "vmm/x86/smbios.h"

#include "vmm/x86/tbuf.h"

enum {
	ENTRY_BYTES = 24,
	ENTRY_CHECKSUM = 5,
	ENTRY_LENGTH = 12,
	BIOS_INFORMATION = 0,
	SYSTEM_INFORMATION = 1,
	CHASSIS = 3,
	OEM_STRINGS = 11,
	END_OF_TABLE = 127,
	BIOS_PCI = 1 << 7,
	BIOS_VIRTUAL = 1 << 4, /* characteristics, second extension byte */
	WAKE_UP_UNKNOWN = 2,
	OTHER = 1,
	UNKNOWN = 2,
	NO_SECURITY = 3,
};

static void put_header(struct tbuf *t, uint8_t type, uint8_t len, uint16_t *handle)
{
	tbuf_u8(t, type);
	tbuf_u8(t, len);
	tbuf_u16(t, ++*handle);
}

/* The strings of a structure follow it. Fields name a string by its number; 0 is none. */
static uint8_t number(unsigned *count, const char *s)
{
	return s ? (uint8_t)++ * count : 0;
}

static void put_string(struct tbuf *t, const char *s)
{
	if (s)
		tbuf_put(t, s, strlen(s) + 1);
}

static void put_bios(struct tbuf *t, uint16_t *handle)
{
	put_header(t, BIOS_INFORMATION, 20, handle);
	tbuf_u8(t, 1); /* vendor */
	tbuf_u8(t, 2); /* version */
	tbuf_u16(t, 0);
	tbuf_u16(t, 0);
	tbuf_u64(t, BIOS_PCI);
	tbuf_u8(t, 0);
	tbuf_u8(t, BIOS_VIRTUAL);
	put_string(t, "cloud-hypervisor");
	put_string(t, "0");
	tbuf_u8(t, 0);
}

/* The first three parts of a UUID are little-endian here. */
static void put_uuid(struct tbuf *t, const uint8_t u[16])
{
	static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

	for (unsigned i = 0; i < 16; i++)
		tbuf_u8(t, u[order[i]]);
}

static void put_system(struct tbuf *t, const struct smbios_cfg *cfg, uint16_t *handle)
{
	const char *const strings[] = {
		cfg->manufacturer ?: "Cloud Hypervisor",
		cfg->product_name ?: "cloud-hypervisor",
		cfg->version,
		cfg->serial_number,
		cfg->sku_number,
		cfg->family,
	};
	unsigned count = 0;

	put_header(t, SYSTEM_INFORMATION, 27, handle);
	for (unsigned i = 0; i < 4; i++)
		tbuf_u8(t, number(&count, strings[i]));
	put_uuid(t, cfg->uuid);
	tbuf_u8(t, WAKE_UP_UNKNOWN);
	for (unsigned i = 4; i < 6; i++)
		tbuf_u8(t, number(&count, strings[i]));
	for (unsigned i = 0; i < 6; i++)
		put_string(t, strings[i]);
	tbuf_u8(t, 0);
}

static void put_chassis(struct tbuf *t, const char *asset_tag, uint16_t *handle)
{
	put_header(t, CHASSIS, 21, handle);
	tbuf_u8(t, 0);                                                               /* manufacturer */
	tbuf_u8(t, UNKNOWN);                                                         /* type */
	tbuf_u16(t, 0);                                                              /* version, serial number */
	tbuf_u8(t, 1);                                                               /* asset tag */
	tbuf_put(t, (const uint8_t[]){ UNKNOWN, UNKNOWN, UNKNOWN, NO_SECURITY }, 4); /* states */
	tbuf_zero(t, 8);
	put_string(t, asset_tag);
	tbuf_u8(t, 0);
}

static void put_oem_strings(struct tbuf *t, const struct smbios_cfg *cfg, uint16_t *handle)
{
	put_header(t, OEM_STRINGS, 5, handle);
	tbuf_u8(t, (uint8_t)cfg->n_oem_strings);
	for (unsigned i = 0; i < cfg->n_oem_strings; i++)
		put_string(t, cfg->oem_strings[i]);
	tbuf_u8(t, 0);
}

static void put_entry(struct tbuf *t)
{
	tbuf_put(t, "_SM3_", 5);
	tbuf_u8(t, 0);
	tbuf_u8(t, ENTRY_BYTES);
	tbuf_put(t, (const uint8_t[]){ 3, 2, 0, 1, 0 }, 5); /* version 3.2, entry revision 1 */
	tbuf_u32(t, 0);                                     /* ENTRY_LENGTH: of the structures */
	tbuf_u64(t, SMBIOS_GPA + ENTRY_BYTES);
}

size_t smbios_build(const struct smbios_cfg *cfg, uint8_t *buf, size_t size)
{
	struct tbuf t = { .buf = buf, .size = size };
	uint16_t handle = 0;

	put_entry(&t);
	put_bios(&t, &handle);
	put_system(&t, cfg, &handle);
	if (cfg->chassis_asset_tag)
		put_chassis(&t, cfg->chassis_asset_tag, &handle);
	if (cfg->n_oem_strings)
		put_oem_strings(&t, cfg, &handle);
	put_header(&t, END_OF_TABLE, 4, &handle);
	tbuf_u16(&t, 0);

	uint32_t len = (uint32_t)(t.len - ENTRY_BYTES);
	tbuf_set(&t, ENTRY_LENGTH, &len, sizeof(len));
	tbuf_checksum(&t, 0, ENTRY_BYTES, ENTRY_CHECKSUM);
	return t.len;
}
