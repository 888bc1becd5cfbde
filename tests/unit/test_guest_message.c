// SPDX-License-Identifier: Apache-2.0
/* guest/message: members of messages by the rules of protobuf's JSON mapping, and what is said of those that are wrong. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>

#include "guest/message.h"

static char text[4096];
static struct json json;

static const struct json_node *message_of(const char *json_text)
{
	struct err err = {};

	snprintf(text, sizeof(text), "%s", json_text);
	assert_int_equal(json_parse(&json, text, strlen(text), &err), 0);
	return json.nodes;
}

static void defaults(void **state)
{
	struct err err = {};

	(void)state;
	for (const char *const *t = (const char *const[]){ "{}", "{\"a\":null}", "{\"b\":1}", NULL }; *t; t++) {
		const struct json_node *m = message_of(*t), *object;
		const char *string = "x";
		char *bytes = text;
		size_t len = 5;
		uint64_t n = 7;
		bool b = true;
		assert_int_equal(message_string(m, "a", &string, &err), 0);
		assert_null(string);
		assert_int_equal(message_object(m, "a", &object, &err), 0);
		assert_null(object);
		assert_int_equal(message_uint(m, "a", 100, &n, &err), 0);
		assert_int_equal(n, 0);
		assert_int_equal(message_bool(m, "a", &b, &err), 0);
		assert_true(b);
		assert_int_equal(message_bytes(m, "a", &bytes, &len, &err), 0);
		assert_null(bytes);
		assert_int_equal(len, 0);
		assert_null(message_get(NULL, "a"));
	}
}

static void values(void **state)
{
	const struct json_node
		*m = message_of(
			"{\"s\":\"x\",\"n\":42,\"d\":\"43\",\"f\":false,\"b\":\"AAD/\",\"e\":\"\",\"o\":{\"n\":1}}"),
		*o;
	struct err err = {};
	const char *s;
	char *bytes;
	size_t len;
	uint64_t n;
	bool b = true;

	(void)state;
	assert_int_equal(message_string(m, "s", &s, &err), 0);
	assert_string_equal(s, "x");
	assert_int_equal(message_uint(m, "n", 42, &n, &err), 0);
	assert_int_equal(n, 42);
	assert_int_equal(message_uint(m, "d", UINT64_MAX, &n, &err), 0);
	assert_int_equal(n, 43);
	assert_int_equal(message_bool(m, "f", &b, &err), 0);
	assert_false(b);
	assert_int_equal(message_bytes(m, "b", &bytes, &len, &err), 0);
	assert_int_equal(len, 3);
	assert_memory_equal(bytes, "\0\0\xff", 3);
	assert_int_equal(message_bytes(m, "e", &bytes, &len, &err), 0);
	assert_non_null(bytes); /* it is there, and empty */
	assert_int_equal(len, 0);
	assert_int_equal(message_object(m, "o", &o, &err), 0);
	assert_int_equal(message_uint(o, "n", 1, &n, &err), 0);
}

static void wrong_values(void **state)
{
	static const struct {
		const char *value, *message;
	} cases[] = {
		{ "\"x\"", "n: must be an integer, not a string" },
		{ "\"\"", "n: must be an integer, not a string" },
		{ "\"1x\"", "n: '1x' is no integer" },
		{ "\"99999999999999999999\"", "n: '99999999999999999999' is no integer" },
		{ "101", "n: must be between 0 and 100" },
		{ "\"101\"", "n: must be between 0 and 100" },
		{ "-1", "n: must be between 0 and 100" },
		{ "true", "n: must be an integer, not a boolean" },
		{ "[1]", NULL },
		{ "1.5", NULL },
		{ "{}", NULL },
	};
	uint64_t n = 7;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char all[128];
		struct err err = {};
		snprintf(all, sizeof(all), "{\"n\":%s}", cases[i].value);
		assert_int_equal(message_uint(message_of(all), "n", 100, &n, &err), -EINVAL);
		assert_int_equal(n, 7);
		if (cases[i].message)
			assert_string_equal(err.msg, cases[i].message);
	}
}

static void wrong_types(void **state)
{
	const struct json_node *m = message_of("{\"n\":1,\"s\":\"x\",\"l\":[1,2]}"), *o;
	struct err err = {};
	const char *s;
	char *bytes;
	size_t len;
	bool b;

	(void)state;
	assert_int_equal(message_string(m, "n", &s, &err), -EINVAL);
	assert_int_equal(message_string(m, "l", &s, &err), -EINVAL);
	assert_int_equal(message_object(m, "s", &o, &err), -EINVAL);
	assert_int_equal(message_object(m, "l", &o, &err), -EINVAL);
	assert_int_equal(message_bool(m, "n", &b, &err), -EINVAL);
	assert_int_equal(message_bytes(m, "n", &bytes, &len, &err), -EINVAL);
	assert_int_equal(message_bytes(m, "s", &bytes, &len, &err), -EINVAL);
	assert_string_equal(err.msg, "s: is not base64");
}

static int tear_down(void **state)
{
	(void)state;
	json_done(&json);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(values),
		cmocka_unit_test(wrong_values),
		cmocka_unit_test(wrong_types),
	};

	return cmocka_run_group_tests_name("guest_message", tests, NULL, tear_down);
}
