// SPDX-License-Identifier: Apache-2.0
/*
 * Reads members of a call's JSON message by the rules of protobuf's JSON mapping: a member that is missing or
 * null has its default, an integer may be a number or a string of digits, bytes are base64, members that nobody
 * asks for are ignored. Errors are ERR_INVALID and name the member. Any thread; results point into the message.
 */
#ifndef GUEST_MESSAGE_H
#define GUEST_MESSAGE_H

#include "common/json64.h"

/* The member, or NULL when it is missing or null. `message` may be NULL. */
const struct json_node *message_get(const struct json_node *message, const char *name);
/* A string; NULL: it is missing. */
MUST_CHECK int message_string(const struct json_node *message, const char *name, const char **ret_text,
			      struct err *err);
/* An object; NULL: it is missing. */
MUST_CHECK int message_object(const struct json_node *message, const char *name, const struct json_node **ret_object,
			      struct err *err);
/* An unsigned integer up to `max`; 0: it is missing. */
MUST_CHECK int message_uint(const struct json_node *message, const char *name, uint64_t max, uint64_t *ret_value,
			    struct err *err);
/* *ret_value stays as it was when the member is missing. */
MUST_CHECK int message_bool(const struct json_node *message, const char *name, bool *ret_value, struct err *err);
/* Bytes, decoded in place; NULL: the member is missing. */
MUST_CHECK int message_bytes(const struct json_node *message, const char *name, char **ret_bytes, size_t *ret_len,
			     struct err *err);

#endif
