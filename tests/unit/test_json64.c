// SPDX-License-Identifier: Apache-2.0
/* common/json64: what is taken, what is refused and with which words, and that nothing is read behind the text. */
#include "common/json64.h"

#include <errno.h>
#include <stdio.h>

#include "tests/unit/unit.h"

static int parse(struct json *json, const char *text, size_t len, char **ret_copy, struct err *err)
{
	*ret_copy = exact_copy(text, len);
	return json_parse(json, *ret_copy, len, err);
}

static void integers(void **state)
{
	static const struct {
		const char *text;
		uint64_t num;
		bool negative;
	} cases[] = {
		{ "0", 0, false },
		{ "-0", 0, true },
		{ "9007199254740993", 9007199254740993ULL, false },
		{ "18446744073709551615", UINT64_MAX, false },
		{ "-9223372036854775808", 9223372036854775808ULL, true },
		{ " \n\t\r42 ", 42, false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autojson struct json json = {};
		autofree char *text = NULL;
		struct err err = {};
		assert_int_equal(parse(&json, cases[i].text, strlen(cases[i].text), &text, &err), 0);
		assert_int_equal(json.nodes[0].type, JSON_INT);
		assert_true(json.nodes[0].num == cases[i].num);
		assert_int_equal(json.nodes[0].negative, cases[i].negative);
	}
}

static void floats_keep_their_digits(void **state)
{
	static const char *const cases[] = {
		"1.5", "-0.25", "1e3", "1E+30", "123456789012345678901234567890.0", "0e-1"
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autojson struct json json = {};
		autofree char *text = NULL;
		struct err err = {};
		assert_int_equal(parse(&json, cases[i], strlen(cases[i]), &text, &err), 0);
		assert_int_equal(json.nodes[0].type, JSON_FLOAT);
		assert_int_equal(json.nodes[0].count, strlen(cases[i]));
		assert_memory_equal(json.nodes[0].str, cases[i], strlen(cases[i]));
	}
}

static void strings(void **state)
{
	static const struct {
		const char *text, *str;
	} cases[] = {
		{ "\"\"", "" },
		{ "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t" },
		{ "\"\\u0041\\u00e9\\u20AC\"", "A\xc3\xa9\xe2\x82\xac" },
		{ "\"x\\ud83d\\ude00y\"", "x\xf0\x9f\x98\x80y" },
		{ "\"\\u0001\\uffff\"", "\x01\xef\xbf\xbf" },
		{ "\"\\ud800\\udc00\\udbff\\udfff\"", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf" },
		{ "\"\x7f\xc2\x80\xef\xbf\xbd\xf4\x8f\xbf\xbf\"", "\x7f\xc2\x80\xef\xbf\xbd\xf4\x8f\xbf\xbf" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autojson struct json json = {};
		autofree char *text = NULL;
		struct err err = {};
		assert_int_equal(parse(&json, cases[i].text, strlen(cases[i].text), &text, &err), 0);
		assert_int_equal(json.nodes[0].type, JSON_STRING);
		assert_string_equal(json.nodes[0].str, cases[i].str);
		assert_int_equal(json.nodes[0].count, strlen(cases[i].str));
	}
}

static void refuses(void **state)
{
	static const struct {
		const char *text, *msg;
	} cases[] = {
		{ "", "unexpected end at line 1 column 1" },
		{ "  ", "unexpected end at line 1 column 3" },
		{ "{\"a\":1,\"a\":2}", "duplicate key in the object that ends at line 1 column 13" },
		{ "{\"a\":1,\"\\u0061\":2}", "duplicate key in the object that ends at line 1 column 18" },
		{ "[1,]", "expected a value at line 1 column 4" },
		{ "[,1]", "expected a value at line 1 column 2" },
		{ "{\"a\":1,}", "expected a key at line 1 column 8" },
		{ "{,}", "expected a key at line 1 column 2" },
		{ "{\"a\" 1}", "expected ':' at line 1 column 6" },
		{ "{1:2}", "expected a key at line 1 column 2" },
		{ "[1 2]", "expected ',' or ']' at line 1 column 4" },
		{ "{\"a\":1 \"b\":2}", "expected ',' or '}' at line 1 column 8" },
		{ "[1}", "expected ',' or ']' at line 1 column 3" },
		{ "1 2", "trailing characters at line 1 column 3" },
		{ "truex", "trailing characters at line 1 column 5" },
		{ "tru", "expected a value at line 1 column 1" },
		{ "nul", "expected a value at line 1 column 1" },
		{ "True", "expected a value at line 1 column 1" },
		{ "01", "number with a leading zero at line 1 column 3" },
		{ "-", "expected a value at line 1 column 2" },
		{ "+1", "expected a value at line 1 column 1" },
		{ "1.", "expected a value at line 1 column 3" },
		{ ".5", "expected a value at line 1 column 1" },
		{ "1e", "expected a value at line 1 column 3" },
		{ "0x10", "trailing characters at line 1 column 2" },
		{ "NaN", "expected a value at line 1 column 1" },
		{ "18446744073709551616", "integer out of 64-bit range at line 1 column 21" },
		{ "-9223372036854775809", "integer out of 64-bit range at line 1 column 21" },
		{ "\"a", "unterminated string at line 1 column 3" },
		{ "\"\\", "invalid escape in string at line 1 column 3" },
		{ "\"\\x\"", "invalid escape in string at line 1 column 3" },
		{ "\"\\u12g4\"", "invalid escape in string at line 1 column 3" },
		{ "\"\\u0000\"", "invalid escape in string at line 1 column 3" },
		{ "\"\\ud800\"", "invalid escape in string at line 1 column 8" },
		{ "\"\\ud800\\u0041\"", "invalid escape in string at line 1 column 8" },
		{ "\"\\udc00\"", "invalid escape in string at line 1 column 3" },
		{ "\"a\nb\"", "control character in string at line 1 column 3" },
		{ "\"\x80\"", "invalid UTF-8 in string at line 1 column 2" },
		{ "\"\xc0\xaf\"", "invalid UTF-8 in string at line 1 column 2" },
		{ "\"\xe0\x80\xaf\"", "invalid UTF-8 in string at line 1 column 2" },
		{ "\"\xed\xa0\x80\"", "invalid UTF-8 in string at line 1 column 2" },
		{ "\"\xf4\x90\x80\x80\"", "invalid UTF-8 in string at line 1 column 2" },
		{ "\"\xf5\x80\x80\x80\"", "invalid UTF-8 in string at line 1 column 2" },
		{ "\"\xe2\x82\"", "invalid UTF-8 in string at line 1 column 2" },
		{ "\xef\xbb\xbf{}", "expected a value at line 1 column 1" },
		{ "// no\n1", "expected a value at line 1 column 1" },
		{ "{\"a\\nb\\nc\":1,\n \"d\":x}", "expected a value at line 2 column 6" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autojson struct json json = {};
		autofree char *text = NULL;
		struct err err = {};
		assert_int_equal(parse(&json, cases[i].text, strlen(cases[i].text), &text, &err), -EINVAL);
		assert_int_equal(err.code, ERR_INVALID);
		assert_string_equal(err.msg, cases[i].msg);
	}
}

static void refuses_zero_bytes(void **state)
{
	static const char inside[] = "\"a\0b\"", behind[] = "1\0", escaped[] = "\"\\\0\"";
	autojson struct json json = {};
	autofree char *a = NULL, *b = NULL, *c = NULL;
	struct err err = {};

	(void)state;
	assert_int_equal(parse(&json, inside, sizeof(inside) - 1, &a, &err), -EINVAL);
	assert_int_equal(parse(&json, behind, 2, &b, &err), -EINVAL);
	assert_int_equal(parse(&json, escaped, sizeof(escaped) - 1, &c, &err), -EINVAL);
}

static void depth(void **state)
{
	char text[2 * (JSON_DEPTH_MAX + 1)];

	(void)state;
	for (size_t n = JSON_DEPTH_MAX; n <= JSON_DEPTH_MAX + 1; n++) {
		autojson struct json json = {};
		autofree char *copy = NULL;
		struct err err = {};
		memset(text, '[', n);
		memset(text + n, ']', n);
		int r = parse(&json, text, 2 * n, &copy, &err);
		if (n == JSON_DEPTH_MAX) {
			assert_int_equal(r, 0);
		} else {
			assert_int_equal(r, -EINVAL);
			assert_string_equal(err.msg, "nested too deeply at line 1 column 65");
		}
	}
}

/* More members than the pairwise comparison takes; the duplicate is the last of them. */
static void many_keys(void **state)
{
	(void)state;
	for (int twice = 0; twice < 2; twice++) {
		autostrbuf struct strbuf text = {};
		autojson struct json json = {};
		struct err err = {};
		for (int i = 0; i < 100; i++)
			strbuf_printf(&text, "%c\"key%d\":%d", i ? ',' : '{', twice && i == 99 ? 3 : i, i);
		strbuf_putc(&text, '}');
		assert_int_equal(json_parse(&json, text.text, text.len, &err), twice ? -EINVAL : 0);
		if (!twice)
			assert_true(json_get(json.nodes, "key99")->num == 99);
	}
}

static const char sample[] =
	"{\"a\": [1, -2, 3.5e1, true, false, null, \"x\\u00e9\\ud83d\\ude00\\n\"],\n"
	" \"b\": {\"c\": {}, \"d\": [], \"e\": [[18446744073709551615]]}, \"\xc3\xa9\": \"\xe2\x82\xac\"}";

static void truncated_everywhere(void **state)
{
	(void)state;
	for (size_t len = 0; len < sizeof(sample) - 1; len++) {
		autojson struct json json = {};
		autofree char *text = NULL;
		struct err err = {};
		assert_int_equal(parse(&json, sample, len, &text, &err), -EINVAL);
		assert_true(err.msg[0]);
	}
}

/* One changed byte may or may not be JSON; it must never be a bad read (the sanitizers look). */
static void flipped_everywhere(void **state)
{
	static const char bytes[] = "\"\\{}[],:0u\x80\xff\n";

	(void)state;
	for (size_t at = 0; at < sizeof(sample) - 1; at++) {
		for (size_t b = 0; b < sizeof(bytes); b++) {
			autojson struct json json = {};
			autofree char *text = exact_copy(sample, sizeof(sample) - 1);
			struct err err = {};
			text[at] = bytes[b];
			if (json_parse(&json, text, sizeof(sample) - 1, &err) < 0)
				assert_true(err.msg[0]);
		}
	}
}

static void tree(void **state)
{
	autojson struct json json = {};
	autofree char *text = NULL;
	struct err err = {};

	(void)state;
	assert_int_equal(parse(&json, sample, sizeof(sample) - 1, &text, &err), 0);
	const struct json_node *root = json.nodes, *a = json_get(root, "a"), *b = json_get(root, "b");
	assert_int_equal(root->count, 3);
	assert_int_equal(root->span, json.n);
	assert_int_equal(a->count, 7);
	unsigned n = 0;
	for (json_each(item, a)) {
		assert_null(item->key);
		n++;
	}
	assert_int_equal(n, 7);
	assert_ptr_equal(a + a->span, b);
	assert_int_equal(json_get(b, "e")->span, 3);
	assert_null(json_get(b, "a"));
	assert_null(json_get(a, "a"));
	assert_null(json_get(NULL, "a"));
	assert_string_equal(json_type_name(a), "an array");
	n = 0;
	for (json_each(item, json_get(b, "c")))
		n += item->span;
	assert_int_equal(n, 0);
}

static void reuse(void **state)
{
	autojson struct json json = {};
	struct err err = {};

	(void)state;
	for (int i = 0; i < 3; i++) {
		autofree char *good = NULL, *bad = NULL, *small = NULL;
		assert_int_equal(parse(&json, sample, sizeof(sample) - 1, &good, &err), 0);
		assert_int_equal(parse(&json, "[1,2,{", 6, &bad, &err), -EINVAL);
		assert_int_equal(parse(&json, "[7]", 3, &small, &err), 0);
		assert_int_equal(json.nodes[0].type, JSON_INTS);
		assert_int_equal(json.nodes[0].count, 1);
		assert_true(json_ints(&json.nodes[0])[0] == 7);
	}
}

/* Arrays of integers are packed, with the same values and the same refusals as one by one. */
static void packed(void **state)
{
	static const struct {
		const char *text;
		int type;
		uint32_t count;
		bool negative;
		uint64_t last;
	} cases[] = {
		{ "[0]", JSON_INTS, 1, false, 0 },
		{ "[1, 2 ,\n3]", JSON_INTS, 3, false, 3 },
		{ "[-1,5]", JSON_INTS, 2, true, 5 },
		{ "[5,-128]", JSON_INTS, 2, true, (uint64_t)-128 },
		{ "[9223372036854775807]", JSON_INTS, 1, false, INT64_MAX },
		{ "[9999999999999999999]", JSON_INTS, 1, false, 9999999999999999999U },
		{ "[18446744073709551615]", JSON_ARRAY, 1, false, 0 },
		{ "[-1,9999999999999999999]", JSON_ARRAY, 2, false, 0 },
		{ "[1,\"a\"]", JSON_ARRAY, 2, false, 0 },
		{ "[1,2.5]", JSON_ARRAY, 2, false, 0 },
		{ "[]", JSON_ARRAY, 0, false, 0 },
	};
	static const char *const refused[] = { "[1,]",
					       "[01]",
					       "[1 2]",
					       "[-]",
					       "[1",
					       "[1,2",
					       "[--1]",
					       "[18446744073709551616]",
					       "[1,-9223372036854775809]" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autojson struct json json = {};
		autofree char *copy = NULL;
		struct err err = {};
		assert_int_equal(parse(&json, cases[i].text, strlen(cases[i].text), &copy, &err), 0);
		const struct json_node *node = &json.nodes[0];
		assert_int_equal(node->type, cases[i].type);
		assert_int_equal(node->count, cases[i].count);
		assert_int_equal(node->span, json.n);
		if (node->type == JSON_INTS) {
			assert_int_equal(node->negative, cases[i].negative);
			assert_true(json_ints(node)[node->count - 1] == cases[i].last);
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		autojson struct json json = {};
		autofree char *copy = NULL;
		struct err err = {};
		assert_int_equal(parse(&json, refused[i], strlen(refused[i]), &copy, &err), -EINVAL);
	}
}

static void writing(void **state)
{
	autostrbuf struct strbuf out = {};
	autojson struct json json = {};
	struct err err = {};

	(void)state;
	strbuf_json(&out, "a\"\\\b\f\n\r\t\x01\x1f/\x7f\xc3\xa9", 14);
	assert_string_equal(out.text, "\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f/\x7f\xc3\xa9\"");
	assert_int_equal(json_parse(&json, out.text, out.len, &err), 0);
	assert_string_equal(json.nodes[0].str, "a\"\\\b\f\n\r\t\x01\x1f/\x7f\xc3\xa9");
	out.len = 0;
	strbuf_u64(&out, UINT64_MAX);
	strbuf_putc(&out, ' ');
	strbuf_u64(&out, 0);
	for (int i = 0; i < 500; i++)
		strbuf_printf(&out, "%s", i == 499 ? "!" : ".");
	assert_int_equal(out.len, 522);
	assert_memory_equal(out.text, "18446744073709551615 0.", 23);
	assert_int_equal(out.text[521], '!');
	assert_int_equal(out.text[522], '\0');
}

/* Names of files may be any bytes. */
static void writing_bytes(void **state)
{
	static const struct {
		const char *bytes, *json;
	} cases[] = {
		{ "", "\"\"" },
		{ "plain \xc3\xa9", "\"plain \xc3\xa9\"" },
		{ "\xff", "\"\xef\xbf\xbd\"" },
		{ "a\xffz\xfe", "\"a\xef\xbf\xbdz\xef\xbf\xbd\"" },
		{ "\"\xc3", "\"\\\"\xef\xbf\xbd\"" },
		{ "\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autostrbuf struct strbuf out = {};
		autofree char *bytes = exact_copy(cases[i].bytes, strlen(cases[i].bytes));
		strbuf_json_lossy(&out, bytes, strlen(cases[i].bytes));
		assert_string_equal(out.text, cases[i].json);
	}
}

static void utf8(void **state)
{
	(void)state;
	assert_true(utf8_valid(""));
	assert_true(utf8_valid("/tmp/\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"));
	assert_false(utf8_valid("a\xff"));
	assert_false(utf8_valid("a\xc3"));
	assert_false(utf8_valid("\xed\xa0\x80"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(integers),
		cmocka_unit_test(floats_keep_their_digits),
		cmocka_unit_test(strings),
		cmocka_unit_test(refuses),
		cmocka_unit_test(refuses_zero_bytes),
		cmocka_unit_test(depth),
		cmocka_unit_test(many_keys),
		cmocka_unit_test(truncated_everywhere),
		cmocka_unit_test(flipped_everywhere),
		cmocka_unit_test(tree),
		cmocka_unit_test(reuse),
		cmocka_unit_test(packed),
		cmocka_unit_test(writing),
		cmocka_unit_test(writing_bytes),
		cmocka_unit_test(utf8),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
