// SPDX-License-Identifier: Apache-2.0
/*
 * Parts of the DSDT that several of its files write, and functions that the files call of each
 * other.
 */
#ifndef VMM_X86_DSDT_PARTS_H
#define VMM_X86_DSDT_PARTS_H

#include "vmm/x86/aml.h"
#include "vmm/x86/dsdt.h"

enum { NOTIFY_CHECK = 1, NOTIFY_EJECT = 3 }; /* NOTIFY_CHECK: an object came; NOTIFY_EJECT: an object is to go */

/*
 * The name of one object of many: S010 is PCI slot ten, C00A is CPU ten. The text lives as long as
 * the block around it.
 */
enum { DECIMAL = 10, HEX = 16 };
#define DSDT_INDEXED(letter, base, i) dsdt_indexed((char[5]){ 0 }, letter, base, i)
const char *dsdt_indexed(char *buf, char letter, unsigned base, unsigned i);

/* Writes _CRS of a register block, and the region over the block. */
void dsdt_block(struct tbuf *t, const char *region, uint64_t gpa, uint64_t len);

/* Writes a method whose only statement is "return number". */
void dsdt_constant(struct tbuf *t, const char *name, uint64_t n);

/* Begins If (a == n); the caller writes the block and ends it. */
size_t dsdt_if_equal(struct tbuf *t, struct aml_term a, uint64_t n);

/* Writes the CPU registers, which are at gpa, and the CPUs. */
void dsdt_cpus(struct tbuf *t, const struct acpi_cfg *cfg, uint64_t gpa);

/* Writes the memory controller; gpa 0: without registers and slots. */
void dsdt_memory(struct tbuf *t, uint64_t gpa);

#endif
