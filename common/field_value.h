// SPDX-License-Identifier: Apache-2.0
/*
 * What the two readers of field tables share, field.c (JSON) and field_options.c (option strings):
 * storing one value of a row after its check, and the messages that name the value. Private to the
 * two.
 */
#ifndef COMMON_FIELD_VALUE_H
#define COMMON_FIELD_VALUE_H

#include "common/field.h"

/* Where a value stands, for messages: a chain from the value up to the root. */
struct path {
	const struct path *up;
	const char *name;
	long index; /* -1: a member */
};

/* ERR_INVALID with "path: message". */
int field_bad(const struct path *at, struct err *err, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Checks an integer against its bounds and stores it; dst NULL: only checks it. */
MUST_CHECK int field_number(const struct field *f, void *dst, uint64_t magnitude, bool negative, const struct path *at,
			    struct err *err);
/* Stores the enum value called `text`; `loose` ignores case and '-'. dst NULL: only checks it. */
MUST_CHECK int field_enum(const struct field *f, void *dst, const char *text, bool loose, const struct path *at,
			  struct err *err);
/* Index of the name in names[], -1 when it is not there. */
int field_name_index(const char *const *names, const char *text, bool loose);
/* Replaces the list by one of n elements with their defaults; NULL: no memory. */
MUST_CHECK char *field_list_new(const struct field *f, char *obj, uint32_t n);
/* Makes the optional struct, with its defaults; NULL: no memory. */
MUST_CHECK char *field_pointer_new(const struct field *f, char *obj);

#endif
