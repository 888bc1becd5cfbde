// SPDX-License-Identifier: Apache-2.0
/* common/option_words: Cloud Hypervisor's grammar, word by word. */
#include "common/option_words.h"

#include <errno.h>

#include "tests/unit/unit.h"

static void cutting(void **state)
{
	static const struct {
		const char *text, *parts[4];
	} cases[] = {
		{ "a=1,b=2", { "a=1", "b=2" } },
		{ "a=[1,2],b=\"x,y\"", { "a=[1,2]", "b=\"x,y\"" } },
		{ "a=[[1,2],[3]],b", { "a=[[1,2],[3]]", "b" } },
		{ "a=\"[\",b=\"]\"", { "a=\"[\"", "b=\"]\"" } },
		{ "a,,b", { "a", "", "b" } },
		{ "a,", { "a", "" } },
		{ "", { "" } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autofree char *copy = strdup(cases[i].text);
		char *rest = copy;
		assert_true(option_balanced(cases[i].text));
		for (unsigned k = 0; cases[i].parts[k]; k++) {
			assert_non_null(rest);
			assert_string_equal(option_cut(&rest), cases[i].parts[k]);
		}
		assert_null(rest);
	}
}

static void balance(void **state)
{
	(void)state;
	assert_true(option_balanced("[[]]\"[\""));
	assert_false(option_balanced("["));
	assert_false(option_balanced("]["));
	assert_false(option_balanced("[[[]]]]"));
	assert_false(option_balanced("\""));
	assert_false(option_balanced("\"\"\""));
}

static void quotes(void **state)
{
	static const struct {
		const char *text, *plain;
	} cases[] = {
		{ "abc", "abc" },     { "\"a,b\"", "a,b" }, { "\"\"", "" },       { "\"a\"\"b\"", "a\"b" },
		{ "\"\"\"\"", "\"" }, { "a\"b\"c", "abc" }, { "\" a \"", " a " },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autofree char *copy = strdup(cases[i].text);
		option_unquote(copy);
		assert_string_equal(copy, cases[i].plain);
	}
}

static void words(void **state)
{
	char blanks[] = " \t a b \n";
	uint64_t v = 7;
	bool on = false;

	(void)state;
	assert_string_equal(option_trim(blanks), "a b");
	assert_int_equal(option_toggle("On", &on), 0);
	assert_true(on);
	assert_int_equal(option_toggle("FALSE", &on), 0);
	assert_false(on);
	assert_int_equal(option_toggle("1", &on), -EINVAL);
	assert_int_equal(option_toggle("", &on), -EINVAL);
	assert_int_equal(option_u64("18446744073709551615", &v), 0);
	assert_true(v == UINT64_MAX);
	static const char *const not_u64[] = { "", "-1", " 1", "1 ", "0x1", "1K", "18446744073709551616", "+" };
	for (size_t i = 0; i < ARRAY_LEN(not_u64); i++)
		assert_int_equal(option_u64(not_u64[i], &v), -EINVAL);
	assert_true(v == UINT64_MAX);
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t size;
	} good[] = {
		{ "0", 0 },           { "1", 1 },
		{ "4K", 4096 },       { "512M", 512ULL << 20 },
		{ "4G", 4ULL << 30 }, { "17179869183G", 17179869183ULL << 30 },
	};
	static const char *const bad[] = {
		"", "K", "1k", "1m", "1T", "1KM", "1 K", "-1K", "17179869184G", "1.5G", "1GB"
	};
	uint64_t v = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_int_equal(option_size(good[i].text, &v), 0);
		assert_true(v == good[i].size);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(option_size(bad[i], &v), -EINVAL);
}

static void int_lists(void **state)
{
	static const struct {
		const char *text;
		unsigned n;
		uint64_t last;
	} good[] = {
		{ "[0,2-4]", 4, 4 },
		{ "7", 1, 7 },
		{ "[7]", 1, 7 },
		{ "0-3,9", 5, 9 },
		{ "[18446744073709551614-18446744073709551615]", 2, UINT64_MAX },
		{ "[1-4096]", 4096, 4096 },
	};
	static const char *const bad[] = { "",      "[]",    "[1",      "1]",  "[1,]", "[,1]",  "[1 ,2]",
					   "[3-3]", "[3-2]", "[1-2-3]", "[a]", "[-1]", "[[1]]", "[1]2" };
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		autofree uint64_t *list = NULL;
		uint32_t n = 0;
		assert_int_equal(option_int_list(good[i].text, &list, &n), 0);
		assert_int_equal(n, good[i].n);
		assert_true(list[n - 1] == good[i].last);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		uint64_t *list = NULL;
		uint32_t n = 0;
		assert_int_equal(option_int_list(bad[i], &list, &n), -EINVAL);
		assert_null(list);
	}
	uint64_t *list = NULL;
	uint32_t n = 0;
	assert_int_equal(option_int_list("[0-4096]", &list, &n), -E2BIG);
	assert_int_equal(option_int_list("[0-18446744073709551615]", &list, &n), -E2BIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cutting), cmocka_unit_test(balance), cmocka_unit_test(quotes),
		cmocka_unit_test(words),   cmocka_unit_test(sizes),   cmocka_unit_test(int_lists),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
