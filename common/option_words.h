// SPDX-License-Identifier: Apache-2.0
/*
 * The words of Cloud Hypervisor's option strings: parts between commas, quotes, toggles, sizes,
 * lists of integers. The reader of whole strings is fields_parse_options() in field.h. Texts are
 * changed in place; nothing is kept.
 */
#ifndef COMMON_OPTION_WORDS_H
#define COMMON_OPTION_WORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/auto.h"

enum { OPTION_LIST_MAX = 4096 }; /* elements of an integer list */

/* Is every bracket and every quote closed? */
bool option_balanced(const char *text);
/*
 * Cuts off the first part of *rest, which ends at a comma outside of [...] and "...". *rest is NULL
 * after the last part. The text must be balanced.
 */
char *option_cut(char **rest);
/*
 * Takes the blanks at both ends away: writes a NUL behind the last other character and returns the
 * first one.
 */
char *option_trim(char *text);
/* Takes the quotes away; a doubled quote inside quotes is one quote. */
void option_unquote(char *text);

/* These three return 0, or -EINVAL when the text is not one. */
MUST_CHECK int option_toggle(const char *text, bool *ret);
MUST_CHECK int option_u64(const char *text, uint64_t *ret);
/* A decimal number with K, M or G behind it, or without. */
MUST_CHECK int option_size(const char *text, uint64_t *ret);
/*
 * Reads `[0,2-4]` or `7` into a new list. -EINVAL; -E2BIG: more than OPTION_LIST_MAX elements;
 * -ENOMEM.
 */
MUST_CHECK int option_int_list(const char *text, uint64_t **ret, uint32_t *ret_n);

#endif
