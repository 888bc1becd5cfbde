// SPDX-License-Identifier: Apache-2.0
/*
 * Field tables: one list of a struct's members that drives loading from JSON, saving, every check
 * of a value, defaults, release, and the keys of an option string.
 *
 * A table is an array of rows that ends with F_END. A row's name is the name of the member and its
 * JSON key. A member may be an integer, a bool, a `char *` (heap; NULL: absent), an enum (as
 * uint8_t), a nested struct, a fixed array, a list (a heap pointer `m` with a uint32_t `n_m`), an
 * optional scalar (with a bool `has_m`) or an optional struct (a heap pointer).
 */
#ifndef COMMON_FIELD_H
#define COMMON_FIELD_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/json64.h"

enum field_type { FT_BOOL, FT_U8, FT_I8, FT_U16, FT_U32, FT_I32, FT_U64, FT_STR, FT_ENUM, FT_OBJECT, FT_ROW16 };
enum field_kind { FK_ONE, FK_ARRAY, FK_LIST, FK_OPTIONAL, FK_POINTER };

enum field_flags {
	F_REQUIRED = 1, /* an input without the member is an error; without the flag it has its default */
	F_POW2 = 2,
	F_SIZE = 4,     /* option strings: K, M, G allowed */
	F_OMIT = 8,     /* not written while it has its default */
	F_REFUSE = 16,  /* known and not supported: any value but the default is refused by name */
	F_RUNTIME = 32, /* not in JSON at all, only in option strings */
	F_NULL = 64,    /* optional members and lists: written as null when absent, not left out */
	F_EMPTY = 512,  /* F_EMPTY_LIST() */
	F_ITEMS = 128,  /* option strings: written [a@[n,n],b@[n]]; first member and list of each element */
	F_WORD = 256,   /* enum in option strings: a name standing alone is its value (`tty`) */
};

struct field {
	const char *name;
	const char *opt;          /* key in an option string; NULL: not settable there */
	const struct field *sub;  /* FT_OBJECT: its rows */
	const char *const *names; /* FT_ENUM: JSON spellings, NULL-terminated; value = index */
	uint64_t min, max;        /* max 0: whatever the type holds; enum: names above max are refused */
	uint64_t def;
	const char *def_str;
	uint32_t offset, count_offset; /* count_offset: of n_m (list) or has_m (optional) */
	uint32_t size, count;          /* of one element; elements of a fixed array, most elements of a list (0: any) */
	uint32_t align;
	uint16_t flags;
	uint8_t type, kind;
};

#define F_TYPE(x) \
	_Generic((x),           \
		bool: FT_BOOL,  \
		uint8_t: FT_U8, \
		int8_t: FT_I8,  \
		uint16_t: FT_U16, \
		uint32_t: FT_U32, \
		int32_t: FT_I32,  \
		uint64_t: FT_U64, \
		unsigned long long: FT_U64, /* the kernel's __u64 */ \
		char *: FT_STR,   \
		default: FT_OBJECT)
#define F_M(s, m) (((s *)0)->m)
#define F_ROW(s, m, elem, kind_) .name = #m, .offset = offsetof(s, m), .size = sizeof(elem), .kind = (kind_)

/* F(struct, member, .flags = …): a scalar or string. */
#define F(s, m, ...)                                                                     \
	{                                                                                \
		F_ROW(s, m, F_M(s, m), FK_ONE), .type = F_TYPE(F_M(s, m)), ##__VA_ARGS__ \
	}
#define F_OPT(s, m, ...)                                                                                              \
	{                                                                                                             \
		F_ROW(s, m, F_M(s, m), FK_OPTIONAL), .type = F_TYPE(F_M(s, m)), .count_offset = offsetof(s, has_##m), \
						     ##__VA_ARGS__                                                    \
	}
#define F_ENUM(s, m, names_, ...)                                                                 \
	{                                                                                         \
		F_ROW(s, m, F_M(s, m), FK_ONE), .type = FT_ENUM, .names = (names_), ##__VA_ARGS__ \
	}
#define F_ARRAY(s, m, ...)                                                                                        \
	{                                                                                                         \
		F_ROW(s, m, F_M(s, m[0]), FK_ARRAY), .type = F_TYPE(F_M(s, m[0])), .count = ARRAY_LEN(F_M(s, m)), \
						     ##__VA_ARGS__                                                \
	}
#define F_LIST(s, m, ...)                                                                                         \
	{                                                                                                         \
		F_ROW(s, m, *F_M(s, m), FK_LIST), .type = F_TYPE(*F_M(s, m)), .count_offset = offsetof(s, n_##m), \
						  ##__VA_ARGS__                                                   \
	}
/* A C struct of the kernel's, as an array of its bytes. */
#define F_BYTES(s, m, ...)                                                                        \
	{                                                                                         \
		.name = #m, .offset = offsetof(s, m), .size = 1, .kind = FK_ARRAY, .type = FT_U8, \
		.count = sizeof(F_M(s, m)), ##__VA_ARGS__                                         \
	}
#define F_OBJ(s, m, rows, ...)                                                                  \
	{                                                                                       \
		F_ROW(s, m, F_M(s, m), FK_ONE), .type = FT_OBJECT, .sub = (rows), ##__VA_ARGS__ \
	}
#define F_OBJ_PTR(s, m, rows, ...)                                                                   \
	{                                                                                            \
		F_ROW(s, m, *F_M(s, m), FK_POINTER), .type = FT_OBJECT, .sub = (rows), ##__VA_ARGS__ \
	}
#define F_OBJ_ARRAY(s, m, rows, ...)                                                                                  \
	{                                                                                                             \
		F_ROW(s, m, F_M(s, m[0]), FK_ARRAY), .type = FT_OBJECT, .sub = (rows), .count = ARRAY_LEN(F_M(s, m)), \
						     ##__VA_ARGS__                                                    \
	}
#define F_OBJ_LIST(s, m, rows, ...)                                                                 \
	{                                                                                           \
		F_ROW(s, m, *F_M(s, m), FK_LIST), .type = FT_OBJECT, .sub = (rows),                 \
						  .count_offset = offsetof(s, n_##m), ##__VA_ARGS__ \
	}
/*
 * A key that Cloud Hypervisor has and this program has not: refused by name, unless it is absent,
 * null, false or empty.
 */
#define F_UNSUPPORTED(name_, ...)                                 \
	{                                                         \
		.name = (name_), .flags = F_REFUSE, ##__VA_ARGS__ \
	}
/*
 * The same for a key that exists in option strings only; and a key of option strings that is taken
 * and ignored.
 */
#define F_UNSUPPORTED_OPT(opt_)                                              \
	{                                                                    \
		.name = (opt_), .opt = (opt_), .flags = F_REFUSE | F_RUNTIME \
	}
#define F_IGNORED_OPT(opt_)                                       \
	{                                                         \
		.name = (opt_), .opt = (opt_), .flags = F_RUNTIME \
	}
/* An array of arrays of 16 bytes. */
#define F_ROWS16(s, m, ...)                                                                           \
	{                                                                                             \
		.name = #m, .offset = offsetof(s, m), .size = 16, .kind = FK_ARRAY, .type = FT_ROW16, \
		.count = sizeof(F_M(s, m)) / 16, ##__VA_ARGS__                                        \
	}
/* A list that is always empty in this program: written as [], refused with anything in it. */
#define F_EMPTY_LIST(name_)                       \
	{                                         \
		.name = (name_), .flags = F_EMPTY \
	}
#define F_END                \
	{                    \
		.name = NULL \
	}

/* Zeroes the struct and sets every default. */
void fields_init(const struct field *rows, void *obj);
/*
 * Checks the whole object, then fills *obj, which must be initialised: a default stands where a key
 * is absent. Unknown keys are ignored. On failure *obj is as it was, and the message begins with
 * `what` and the path of the value. Lists and strings are allocated; fields_free() releases them.
 */
MUST_CHECK int fields_load(const struct field *rows, void *obj, const struct json_node *node, const char *what,
			   struct err *err);
/*
 * As fields_load(), from an option string `key=value,key=value` in Cloud Hypervisor's grammar. Its
 * keys are the rows with .opt; F_REQUIRED does not count. Messages are Cloud Hypervisor's. On
 * failure *obj may be partly filled.
 */
MUST_CHECK int fields_parse_options(const struct field *rows, void *obj, const char *text, struct err *err);
/*
 * Refuses a key that no row has, at every level; the message has the path of the first one. For
 * callers that do not ignore unknown keys.
 */
MUST_CHECK int fields_check_known(const struct field *rows, const struct json_node *node, const char *what,
				  struct err *err);
/* The row of that name, or NULL. */
const struct field *fields_find(const struct field *rows, const char *name);
/* Appends the object as compact JSON, members in the table's order. */
void fields_save(const struct field *rows, const void *obj, struct strbuf *out);
/* Releases strings, lists and optional structs, and zeroes the object. */
void fields_free(const struct field *rows, void *obj);

/*
 * The index of the element called `id` in a list of structs of `bytes` bytes that begin with `char
 * *id`; -1: there is none. An element whose id is NULL is never found, nor is the id NULL.
 */
int list_find_id(const void *items, uint32_t n, size_t bytes, const char *id);
#define LIST_FIND_ID(items, n, id_)                                                         \
	({                                                                                  \
		_Static_assert(offsetof(__typeof__(*(items)), id) == 0, "the id is first"); \
		list_find_id((items), (n), sizeof(*(items)), (id_));                        \
	})

#endif
