// SPDX-License-Identifier: Apache-2.0
/*
 * Bodies of requests are loaded by a field table, and an unknown member is an error; bodies of answers are put together.
 * Any thread.
 */
#ifndef FORKD_BODY_H
#define FORKD_BODY_H

#include "common/field.h"

/* E_UNKNOWN_FIELD for a member that is neither in the table nor in `others` (NULL-terminated; may be NULL); E_INVALID else. */
MUST_CHECK int body_load(const struct field *rows, const char *const *others, void *obj, const struct json_node *node,
			 const char *what, struct err *err);
/* Checks variables for a process: an object of strings, 256 at most, whose names are none of an empty text, "A=B" or too long. */
MUST_CHECK int body_check_env(const struct json_node *env, const char *what, struct err *err);
/* Overwrites a text that may be secret, before it is freed. NULL is fine. */
void wipe_text(char *text);
/* `,"key":"value"`, or null. */
void json_member(struct strbuf *out, const char *key, const char *value);
/* The value as JSON text again; json_text_without() leaves members of the object out, `keys` up to NULL. */
void json_text(const struct json_node *node, struct strbuf *out);
void json_text_without(const struct json_node *node, const char *const *keys, struct strbuf *out);

#endif
