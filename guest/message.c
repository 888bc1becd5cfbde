// SPDX-License-Identifier: Apache-2.0
/* Members of messages. */
#include "guest/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base64.h"

const struct json_node *message_get(const struct json_node *message, const char *name)
{
	const struct json_node *node = json_get(message, name);

	return node && node->type != JSON_NULL ? node : NULL;
}

static int wrong(const struct json_node *node, const char *name, const char *wanted, struct err *err)
{
	return err_set(err, ERR_INVALID, "%s: must be %s, not %s", name, wanted, json_type_name(node));
}

int message_string(const struct json_node *message, const char *name, const char **ret_text, struct err *err)
{
	const struct json_node *node = message_get(message, name);

	if (node && node->type != JSON_STRING)
		return wrong(node, name, "a string", err);
	*ret_text = node ? node->str : NULL;
	return 0;
}

int message_object(const struct json_node *message, const char *name, const struct json_node **ret_object,
		   struct err *err)
{
	const struct json_node *node = message_get(message, name);

	if (node && node->type != JSON_OBJECT)
		return wrong(node, name, "an object", err);
	*ret_object = node;
	return 0;
}

int message_uint(const struct json_node *message, const char *name, uint64_t max, uint64_t *ret_value, struct err *err)
{
	const struct json_node *node = message_get(message, name);
	uint64_t value = 0;
	char *end = NULL;

	if (node && node->type == JSON_INT) {
		value = node->num;
	} else if (node && node->type == JSON_STRING && *node->str >= '0' && *node->str <= '9') {
		errno = 0;
		value = strtoull(node->str, &end, 10);
		if (errno || *end)
			return err_set(err, ERR_INVALID, "%s: '%.64s' is no integer", name, node->str);
	} else if (node) {
		return wrong(node, name, "an integer", err);
	}
	if ((node && node->negative) || value > max)
		return err_set(err, ERR_INVALID, "%s: must be between 0 and %llu", name, (unsigned long long)max);
	*ret_value = value;
	return 0;
}

int message_bool(const struct json_node *message, const char *name, bool *ret_value, struct err *err)
{
	const struct json_node *node = message_get(message, name);

	if (node && node->type != JSON_BOOL)
		return wrong(node, name, "true or false", err);
	if (node)
		*ret_value = node->num;
	return 0;
}

int message_bytes(const struct json_node *message, const char *name, char **ret_bytes, size_t *ret_len, struct err *err)
{
	const struct json_node *node = message_get(message, name);

	*ret_bytes = NULL;
	*ret_len = 0;
	if (!node)
		return 0;
	if (node->type != JSON_STRING)
		return wrong(node, name, "a string of base64", err);
	const ssize_t n = base64_decode(node->str, node->str, node->count);
	if (n < 0)
		return err_set(err, ERR_INVALID, "%s: is not base64", name);
	*ret_bytes = node->str;
	*ret_len = (size_t)n;
	return 0;
}
