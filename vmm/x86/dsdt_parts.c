// SPDX-License-Identifier: Apache-2.0
/* Writes small pieces of AML that several devices need. */
#include "vmm/x86/dsdt_parts.h"

const char *dsdt_indexed(char *buf, char letter, unsigned base, unsigned i)
{
	static const char digits[] = "0123456789ABCDEF";

	buf[0] = letter;
	buf[1] = digits[i / base / base % base];
	buf[2] = digits[i / base % base];
	buf[3] = digits[i % base];
	return buf;
}

void dsdt_block(struct tbuf *t, const char *region, uint64_t gpa, uint64_t len)
{
	size_t crs = aml_resources_begin(t, "_CRS");

	aml_res_memory64(t, AML_UNCACHED, gpa, gpa + len - 1);
	aml_resources_end(t, crs);
	AML(t, AML_REGION, aml_ref(region), aml_byte(AML_SYSTEM_MEMORY), aml_num(gpa), aml_num(len));
}

void dsdt_constant(struct tbuf *t, const char *name, uint64_t n)
{
	size_t m = AML_BEGIN(t, AML_METHOD, aml_ref(name), aml_byte(0));

	AML(t, AML_RETURN, aml_num(n));
	aml_end(t, m);
}

size_t dsdt_if_equal(struct tbuf *t, struct aml_term a, uint64_t n)
{
	return AML_BEGIN(t, AML_IF, aml_op(AML_EQUAL), a, aml_num(n));
}

void dsdt_apic_entry(struct tbuf *t, const struct acpi_cfg *cfg, unsigned vcpu, uint32_t flags)
{
	tbuf_u8(t, 9); /* processor local x2APIC */
	tbuf_u8(t, 16);
	tbuf_u16(t, 0);
	tbuf_u32(t, cpu_apic_id(&cfg->topology, vcpu));
	tbuf_u32(t, flags);
	tbuf_u32(t, vcpu);
}
