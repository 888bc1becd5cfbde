// SPDX-License-Identifier: Apache-2.0
/* Parts of the DSDT that more than one of its files writes, and what they hand to each other. */
#ifndef VMM_X86_DSDT_PARTS_H
#define VMM_X86_DSDT_PARTS_H

#include "vmm/x86/aml.h"
#include "vmm/x86/dsdt.h"

enum { NOTIFY_CHECK = 1, NOTIFY_EJECT = 3 }; /* an object came, or is to go */

/*
 * The name of an object that is one of many: S010 the PCI slot ten, but C00A the CPU. It lives as
 * long as the block around.
 */
enum { DECIMAL = 10, HEX = 16 };
#define DSDT_INDEXED(letter, base, i) dsdt_indexed((char[5]){ 0 }, letter, base, i)
const char *dsdt_indexed(char *buf, char letter, unsigned base, unsigned i);

/* _CRS of a register block, then the region over it. */
void dsdt_block(struct tbuf *t, const char *region, uint64_t gpa, uint64_t len);

/* A method of the one statement "return number". */
void dsdt_constant(struct tbuf *t, const char *name, uint64_t n);

/* If (a == n): the caller writes the block and ends it. */
size_t dsdt_if_equal(struct tbuf *t, struct aml_term a, uint64_t n);

/* The CPU registers at gpa, and the CPUs. */
void dsdt_cpus(struct tbuf *t, const struct acpi_cfg *cfg, uint64_t gpa);

/* The memory controller; gpa 0: without registers and slots. */
void dsdt_memory(struct tbuf *t, uint64_t gpa);

#endif
