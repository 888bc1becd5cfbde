// SPDX-License-Identifier: Apache-2.0
/*
 * SMBIOS 3 tables of the x86 guest, byte for byte Cloud Hypervisor's. Nothing but memory is
 * touched.
 */
#ifndef VMM_X86_SMBIOS_H
#define VMM_X86_SMBIOS_H

#include <stddef.h>
#include <stdint.h>

enum { SMBIOS_GPA = 0xf0000 };

/* Strings as in VmConfig's platform object; NULL: not given. */
struct smbios_cfg {
	const char *manufacturer, *product_name, *version, *serial_number, *sku_number, *family;
	uint8_t uuid[16]; /* in the order of its text; all zero: not given */
	const char *chassis_asset_tag;
	const char *const *oem_strings;
	unsigned n_oem_strings;
};

/*
 * Writes what belongs at SMBIOS_GPA and returns its length; when that is above `size`, the tables
 * do not fit.
 */
size_t smbios_build(const struct smbios_cfg *cfg, uint8_t *buf, size_t size);

#endif
