// SPDX-License-Identifier: Apache-2.0
/*
 * AML writer: appends ACPI's byte code to a table buffer. AML is prefix code: a statement is an
 * opcode and its terms in order, so AML(t, AML_STORE, aml_arg(1), aml_ref("PSEG")) is PSEG = Arg1.
 * What has a length (Device, Method, If, …) begins with AML_BEGIN and ends with aml_end().
 */
#ifndef VMM_X86_AML_H
#define VMM_X86_AML_H

#include "vmm/x86/tbuf.h"

/*
 * Opcodes; those with the 0x5b prefix have two bytes. AML_CALL stands for no opcode: a call is a
 * name and its arguments.
 */
enum aml_op {
	AML_CALL = 0,
	AML_NAME = 0x08,
	AML_PACKAGE = 0x12,
	AML_METHOD = 0x14,
	AML_STORE = 0x70,
	AML_ADD = 0x72,
	AML_SUBTRACT = 0x74,
	AML_SHIFT_LEFT = 0x79,
	AML_AND = 0x7b,
	AML_NOTIFY = 0x86,
	AML_DWORD_FIELD = 0x8a,
	AML_QWORD_FIELD = 0x8f,
	AML_EQUAL = 0x93,
	AML_LESS = 0x95,
	AML_IF = 0xa0,
	AML_WHILE = 0xa2,
	AML_RETURN = 0xa4,
	AML_MUTEX = 0x5b01,
	AML_ACQUIRE = 0x5b23,
	AML_RELEASE = 0x5b27,
	AML_REGION = 0x5b80,
	AML_FIELD = 0x5b81,
	AML_DEVICE = 0x5b82,
};

/* Flags of AML_METHOD (beside its number of arguments) and AML_FIELD; timeout; region's space. */
enum {
	AML_SERIALIZED = 8,
	AML_BYTE_ACC = 1,
	AML_DWORD_ACC = 3,
	AML_WRITE_ZEROS = 0x40,
	AML_FOREVER = 0xffff,
	AML_SYSTEM_MEMORY = 0,
};

/* Memory descriptors: read-write, with or without cache. */
enum aml_memory { AML_UNCACHED = 1, AML_CACHED = 3 };

struct aml_term {
	enum aml_kind {
		AML_T_NUM,
		AML_T_REF,
		AML_T_LOCAL,
		AML_T_ARG,
		AML_T_STR,
		AML_T_EISA,
		AML_T_BUFFER,
		AML_T_BYTE,
		AML_T_WORD,
		AML_T_OP,
	} kind;
	uint64_t n;
	const void *p;
};

/*
 * A number, in the shortest encoding. aml_byte() and aml_word() are raw, as flags and timeouts need
 * it.
 */
static inline struct aml_term aml_num(uint64_t n)
{
	return (struct aml_term){ .kind = AML_T_NUM, .n = n };
}

static inline struct aml_term aml_byte(uint8_t n)
{
	return (struct aml_term){ .kind = AML_T_BYTE, .n = n };
}

static inline struct aml_term aml_word(uint16_t n)
{
	return (struct aml_term){ .kind = AML_T_WORD, .n = n };
}

static inline struct aml_term aml_local(unsigned n)
{
	return (struct aml_term){ .kind = AML_T_LOCAL, .n = n };
}

static inline struct aml_term aml_arg(unsigned n)
{
	return (struct aml_term){ .kind = AML_T_ARG, .n = n };
}

/* A path: segments of four characters with dots between them; '\' begins an absolute path. */
static inline struct aml_term aml_ref(const char *path)
{
	return (struct aml_term){ .kind = AML_T_REF, .p = path };
}

static inline struct aml_term aml_str(const char *s)
{
	return (struct aml_term){ .kind = AML_T_STR, .n = strlen(s), .p = s };
}

static inline struct aml_term aml_eisa(const char *id)
{
	return (struct aml_term){ .kind = AML_T_EISA, .p = id };
}

static inline struct aml_term aml_buffer(const void *data, size_t n)
{
	return (struct aml_term){ .kind = AML_T_BUFFER, .n = n, .p = data };
}

/* An opcode within an expression. The terms that follow are its operands. */
static inline struct aml_term aml_op(enum aml_op op)
{
	return (struct aml_term){ .kind = AML_T_OP, .n = op };
}

void aml_emit(struct tbuf *t, enum aml_op op, const struct aml_term *terms, size_t n_terms);

#define AML_TERMS(...)                            \
	(const struct aml_term[]){ __VA_ARGS__ }, \
		sizeof((const struct aml_term[]){ __VA_ARGS__ }) / sizeof(struct aml_term)
#define AML(t, op, ...) aml_emit(t, op, AML_TERMS(__VA_ARGS__))
#define AML_BEGIN(t, op, ...) aml_begin(t, op, AML_TERMS(__VA_ARGS__))

/*
 * Begins a block. Returns the mark for aml_end(), which inserts the length of all that was written
 * since.
 */
size_t aml_begin(struct tbuf *t, enum aml_op op, const struct aml_term *terms, size_t n_terms);
void aml_end(struct tbuf *t, size_t mark);

/* Writes one entry of an AML_FIELD list; name NULL: the bits have no name. */
void aml_field(struct tbuf *t, const char *name, unsigned bits);

/*
 * Name (name, ResourceTemplate () {}). Only aml_res_…() may be called before its end. Ranges
 * include `max`.
 */
size_t aml_resources_begin(struct tbuf *t, const char *name);
void aml_resources_end(struct tbuf *t, size_t mark);
void aml_res_memory32(struct tbuf *t, uint32_t base, uint32_t len);
void aml_res_memory64(struct tbuf *t, enum aml_memory type, uint64_t min, uint64_t max);
void aml_res_io_port(struct tbuf *t, uint16_t base, uint8_t align, uint8_t len);
void aml_res_io_range(struct tbuf *t, uint16_t min, uint16_t max);
void aml_res_bus_range(struct tbuf *t, uint16_t min, uint16_t max);
void aml_res_edge_irq(struct tbuf *t, uint32_t gsi);

#endif
