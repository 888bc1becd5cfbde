// SPDX-License-Identifier: Apache-2.0
/* What every unit test includes: cmocka with its prerequisites, and a few words for tables of cases. */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/auto.h"
#include "common/json64.h"

/* A heap copy of exactly the text's bytes, without the NUL, so that a sanitizer sees a read behind it. */
static inline char *exact_copy(const char *text, size_t len)
{
	char *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	memcpy(copy, text, len);
	return copy;
}

#endif
