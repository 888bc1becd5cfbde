// SPDX-License-Identifier: Apache-2.0
/* Encodes AML opcodes, terms, package lengths and resource descriptors. */
#include "vmm/x86/aml.h"

#include <assert.h>
#include <stdbool.h>

enum {
	ADDR_MEMORY = 0,
	ADDR_IO = 1,
	ADDR_BUS = 2,      /* address spaces: resource type */
	ADDR_FIXED = 0x0c, /* minimum and maximum are fixed */
	IO_ENTIRE = 3,
};

static void put_op(struct tbuf *t, unsigned op)
{
	if (op > 0xff)
		tbuf_u8(t, (uint8_t)(op >> 8));
	if (op != AML_CALL)
		tbuf_u8(t, (uint8_t)op);
}

static void put_num(struct tbuf *t, uint64_t n)
{
	if (n <= 1) {
		tbuf_u8(t, (uint8_t)n);
	} else if (n <= UINT8_MAX) {
		tbuf_u8(t, 0x0a);
		tbuf_u8(t, (uint8_t)n);
	} else if (n <= UINT16_MAX) {
		tbuf_u8(t, 0x0b);
		tbuf_u16(t, (uint16_t)n);
	} else if (n <= UINT32_MAX) {
		tbuf_u8(t, 0x0c);
		tbuf_u32(t, (uint32_t)n);
	} else {
		tbuf_u8(t, 0x0e);
		tbuf_u64(t, n);
	}
}

static void put_path(struct tbuf *t, const char *path)
{
	size_t len = strlen(path), root = path[0] == '\\', segs = (len - root + 1) / 5;

	assert(segs >= 1 && segs <= 255 && segs * 5 - 1 == len - root);
	if (root)
		tbuf_u8(t, '\\');
	if (segs == 2)
		tbuf_u8(t, 0x2e);
	if (segs > 2) {
		tbuf_u8(t, 0x2f);
		tbuf_u8(t, (uint8_t)segs);
	}
	for (size_t i = 0; i < segs; i++)
		tbuf_put(t, path + root + i * 5, 4);
}

static unsigned hex_digit(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* "PNP0A08": three letters of five bits, four hexadecimal digits, stored big-endian. */
static void put_eisa(struct tbuf *t, const char *id)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | (unsigned)(id[i] - '@');
	for (unsigned i = 3; i < 7; i++)
		v = v << 4 | hex_digit(id[i]);
	put_num(t, __builtin_bswap32(v));
}

/*
 * Encodes a package length: 6 bits in the lead byte alone, or 4 bits there and 8 bits in each of up
 * to three more bytes. The length of a block counts its own bytes; the length of a field entry does
 * not.
 */
static size_t encode_length(uint8_t ret_bytes[4], size_t len, bool counts_itself)
{
	size_t n = len + 1 <= 0x3f ? 1 : len + 2 <= 0xfff ? 2 : len + 3 <= 0xfffff ? 3 : 4;
	size_t v = len + (counts_itself ? n : 0);

	if (n == 1) {
		ret_bytes[0] = (uint8_t)v;
		return 1;
	}
	ret_bytes[0] = (uint8_t)((n - 1) << 6 | (v & 0xf));
	for (size_t i = 1; i < n; i++)
		ret_bytes[i] = (uint8_t)(v >> (8 * i - 4));
	return n;
}

static size_t encode_num(uint8_t ret_bytes[9], uint64_t n)
{
	struct tbuf t = { .buf = ret_bytes, .size = 9 };

	put_num(&t, n);
	return t.len;
}

static void put_buffer(struct tbuf *t, const void *data, size_t n)
{
	tbuf_u8(t, 0x11);
	size_t mark = t->len;
	put_num(t, n);
	tbuf_put(t, data, n);
	aml_end(t, mark);
}

static void put_term(struct tbuf *t, const struct aml_term *term)
{
	switch (term->kind) {
	case AML_T_NUM:
		put_num(t, term->n);
		break;
	case AML_T_REF:
		put_path(t, term->p);
		break;
	case AML_T_LOCAL:
		tbuf_u8(t, (uint8_t)(0x60 + term->n));
		break;
	case AML_T_ARG:
		tbuf_u8(t, (uint8_t)(0x68 + term->n));
		break;
	case AML_T_STR:
		tbuf_u8(t, 0x0d);
		tbuf_put(t, term->p, term->n + 1);
		break;
	case AML_T_EISA:
		put_eisa(t, term->p);
		break;
	case AML_T_BUFFER:
		put_buffer(t, term->p, term->n);
		break;
	case AML_T_BYTE:
		tbuf_u8(t, (uint8_t)term->n);
		break;
	case AML_T_WORD:
		tbuf_u16(t, (uint16_t)term->n);
		break;
	case AML_T_OP:
		put_op(t, (unsigned)term->n);
		break;
	}
}

void aml_emit(struct tbuf *t, enum aml_op op, const struct aml_term *terms, size_t n_terms)
{
	put_op(t, op);
	for (size_t i = 0; i < n_terms; i++)
		put_term(t, &terms[i]);
}

size_t aml_begin(struct tbuf *t, enum aml_op op, const struct aml_term *terms, size_t n_terms)
{
	put_op(t, op);
	size_t mark = t->len;
	for (size_t i = 0; i < n_terms; i++)
		put_term(t, &terms[i]);
	return mark;
}

void aml_end(struct tbuf *t, size_t mark)
{
	uint8_t bytes[4];
	size_t n = encode_length(bytes, t->len - mark, true);

	tbuf_insert(t, mark, bytes, n);
}

void aml_field(struct tbuf *t, const char *name, unsigned bits)
{
	uint8_t bytes[4];
	size_t n = encode_length(bytes, bits, false);

	if (name)
		tbuf_put(t, name, 4);
	else
		tbuf_u8(t, 0);
	tbuf_put(t, bytes, n);
}

size_t aml_resources_begin(struct tbuf *t, const char *name)
{
	AML(t, AML_NAME, aml_ref(name));
	tbuf_u8(t, 0x11);
	return t->len;
}

/*
 * A template is a buffer whose size comes first. Its end tag has checksum 0, which means unchecked.
 */
void aml_resources_end(struct tbuf *t, size_t mark)
{
	uint8_t bytes[9];

	tbuf_u16(t, 0x0079);
	size_t n = encode_num(bytes, t->len - mark);
	tbuf_insert(t, mark, bytes, n);
	aml_end(t, mark);
}

void aml_res_memory32(struct tbuf *t, uint32_t base, uint32_t len)
{
	tbuf_u8(t, 0x86);
	tbuf_u16(t, 9);
	tbuf_u8(t, 1); /* writable */
	tbuf_u32(t, base);
	tbuf_u32(t, len);
}

void aml_res_memory64(struct tbuf *t, enum aml_memory type, uint64_t min, uint64_t max)
{
	/* granularity, range, translation, length */
	const uint64_t fields[] = { 0, min, max, 0, max - min + 1 };

	tbuf_u8(t, 0x8a);
	tbuf_u16(t, 3 + sizeof(fields));
	tbuf_put(t, (const uint8_t[]){ ADDR_MEMORY, ADDR_FIXED, (uint8_t)type }, 3);
	tbuf_put(t, fields, sizeof(fields));
}

static void put_range16(struct tbuf *t, uint8_t type, uint8_t flags, uint16_t min, uint16_t max)
{
	const uint16_t fields[] = { 0, min, max, 0, (uint16_t)(max - min + 1) };

	tbuf_u8(t, 0x88);
	tbuf_u16(t, 3 + sizeof(fields));
	tbuf_put(t, (const uint8_t[]){ type, ADDR_FIXED, flags }, 3);
	tbuf_put(t, fields, sizeof(fields));
}

void aml_res_io_range(struct tbuf *t, uint16_t min, uint16_t max)
{
	put_range16(t, ADDR_IO, IO_ENTIRE, min, max);
}

void aml_res_bus_range(struct tbuf *t, uint16_t min, uint16_t max)
{
	put_range16(t, ADDR_BUS, 0, min, max);
}

void aml_res_io_port(struct tbuf *t, uint16_t base, uint8_t align, uint8_t len)
{
	tbuf_u16(t, 0x0147); /* decodes 16 bits */
	tbuf_u16(t, base);
	tbuf_u16(t, base);
	tbuf_u8(t, align);
	tbuf_u8(t, len);
}

void aml_res_edge_irq(struct tbuf *t, uint32_t gsi)
{
	tbuf_u8(t, 0x89);
	tbuf_u16(t, 6);
	tbuf_u8(t, 0x03); /* consumer, edge, active high, exclusive */
	tbuf_u8(t, 1);
	tbuf_u32(t, gsi);
}
