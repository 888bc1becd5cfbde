// SPDX-License-Identifier: Apache-2.0
/* forkd/errors: every row is complete, and what an error from another layer becomes. */
#include "forkd/errors.h"

#include <ctype.h>
#include <errno.h>

#include "tests/unit/unit.h"

/* cmocka has a macro fail(): (fail) is ours. */
static const struct {
	const char *name;
	enum error_row row;
} names[] = {
#define X(name, code, status, remedy) { #name, name },
	FORKD_ERRORS(X)
#undef X
};

static void rows_are_complete(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct err err = {};
		int r = (fail)(&err, names[i].row, "clone '%s'", "a\nb");
		const struct error_info *info = error_info(&err);
		assert_true(r < 0);
		assert_int_equal(err.num, r);
		assert_int_equal(err.detail, names[i].row);
		assert_string_equal(err.msg, "clone 'a b'");
		assert_in_range(info->status, 400, 599);
		assert_true(strlen(info->remedy) > 10 && strlen(info->code) > 3);
		for (const char *p = info->code; *p; p++)
			assert_true(islower((unsigned char)*p) || *p == '_');
		for (size_t k = 0; k < i; k++) {
			struct err other = {};
			(fail)(&other, names[k].row, "x");
			assert_string_not_equal(error_info(&other)->code, info->code);
		}
	}
}

static void errors_of_other_layers(void **state)
{
	static const struct {
		enum err_code code;
		int num;
		const char *expected;
		unsigned status;
	} cases[] = {
		{ ERR_INVALID, 0, "invalid_request", 400 },
		{ ERR_NOT_FOUND, 0, "not_found", 404 },
		{ ERR_CONFLICT, 0, "conflict", 409 },
		{ ERR_BUSY, 0, "busy", 429 },
		{ ERR_INTERNAL, 0, "internal", 500 },
		{ ERR_INTERNAL, ENOSPC, "no_space", 507 },
		{ ERR_INTERNAL, EDQUOT, "no_space", 507 },
		{ ERR_INTERNAL, EIO, "internal", 500 },
		{ ERR_INVALID, ENOENT, "invalid_request", 400 },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {};
		if (cases[i].num)
			err_num(&err, cases[i].code, cases[i].num, "x");
		else
			err_set(&err, cases[i].code, "x");
		assert_string_equal(error_info(&err)->code, cases[i].expected);
		assert_int_equal(error_info(&err)->status, cases[i].status);
	}
}

static void keeps_the_message(void **state)
{
	struct err err = {};
	int r;

	(void)state;
	err_num(&err, ERR_INTERNAL, ENOENT, "open 'x'");
	r = fail_as(&err, E_BAD_SNAPSHOT, "snapshot %d", 7);
	assert_int_equal(r, -ENOENT);
	assert_string_equal(err.msg, "snapshot 7\nopen 'x'\nNo such file or directory (os error 2)");
	assert_string_equal(error_info(&err)->code, "invalid_snapshot");
	r = fail_as(&err, E_INTERNAL, NULL);
	assert_int_equal(r, -ENOENT);
	assert_int_equal(error_info(&err)->status, 500);
	err_set(&err, ERR_INVALID, "again"); /* a later error is not the earlier one's row */
	assert_string_equal(error_info(&err)->code, "invalid_request");
}

static void is_json(void **state)
{
	static const struct {
		const char *message, *expected;
	} cases[] = {
		{ "a \"quote\"", "a \"quote\"" },
		{ "caf\xc3\xa9", "caf\xc3\xa9" },
		{ "bad \xff\xc3", "bad ??" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autostrbuf struct strbuf out = {};
		autojson struct json json = {};
		struct err err = {}, parse = {};
		(fail)(&err, E_NO_CLONE, "%s", cases[i].message);
		error_json(&err, &out);
		assert_null(strchr(out.text, '\n')); /* it would end an event's line */
		assert_int_equal(json_parse(&json, out.text, out.len, &parse), 0);
		assert_int_equal(json.nodes[0].count, 3);
		assert_string_equal(json_get(json.nodes, "code")->str, "clone_not_found");
		assert_string_equal(json_get(json.nodes, "message")->str, cases[i].expected);
		assert_non_null(json_get(json.nodes, "remedy"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_are_complete),
		cmocka_unit_test(errors_of_other_layers),
		cmocka_unit_test(keeps_the_message),
		cmocka_unit_test(is_json),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
