// SPDX-License-Identifier: Apache-2.0
/* common/err: numbers, chains, and what happens when a message is too long. */
#include "common/err.h"

#include <errno.h>

#include "tests/unit/unit.h"

static void set(void **state)
{
	static const struct {
		enum err_code code;
		int num;
	} cases[] = {
		{ ERR_INVALID, -EINVAL }, { ERR_NOT_FOUND, -ENOENT }, { ERR_CONFLICT, -EEXIST },
		{ ERR_BUSY, -EBUSY },     { ERR_INTERNAL, -EIO },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {};
		assert_int_equal(err_set(&err, cases[i].code, "disk '%s'\nis %d", "a", 7), cases[i].num);
		assert_int_equal(err.num, cases[i].num);
		assert_int_equal(err.code, cases[i].code);
		assert_string_equal(err.msg, "disk 'a' is 7");
	}
}

static void chain(void **state)
{
	struct err err = {};
	char line[256], small[12], none[1];

	(void)state;
	errno = ENOENT;
	assert_int_equal(err_sys(&err, ERR_NOT_FOUND, "open '%s'", "/x"), -ENOENT);
	assert_int_equal(err_wrap(&err, "disk %d", 3), -ENOENT);
	assert_int_equal(err_wrap(&err, "The VM could not boot"), -ENOENT);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	assert_string_equal(err.msg,
			    "The VM could not boot\ndisk 3\nopen '/x'\nNo such file or directory (os error 2)");
	assert_string_equal(err_line(&err, line, sizeof(line)),
			    "The VM could not boot: disk 3: open '/x': No such file or directory (os error 2)");
	assert_string_equal(err_line(&err, small, sizeof(small)), "The VM co");
	assert_string_equal(err_line(&err, none, sizeof(none)), "");
	assert_int_equal(err_num(&err, ERR_INTERNAL, ENOMEM, "allocate"), -ENOMEM);
	assert_string_equal(err.msg, "allocate\nCannot allocate memory (os error 12)");
	assert_int_equal(err_num(&err, ERR_INTERNAL, 0, "no number"), -EIO);
}

static void long_messages(void **state)
{
	char text[4 * ERR_MSG_BYTES];
	struct err err = {};

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	err_set(&err, ERR_INVALID, "%s", text);
	assert_int_equal(strlen(err.msg), ERR_MSG_BYTES - 1);
	for (int i = 0; i < 5; i++)
		assert_int_equal(err_wrap(&err, "%s", text), -EINVAL);
	assert_true(strlen(err.msg) < ERR_MSG_BYTES);
	/* The cause is there, however long the path that failed. */
	err_num(&err, ERR_INTERNAL, EACCES, "open '%s'", text);
	assert_non_null(strstr(err.msg, "\nPermission denied (os error 13)"));
	err_wrap(&err, "short");
	assert_non_null(strstr(err.msg, "short\nopen 'xxx"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set),
		cmocka_unit_test(chain),
		cmocka_unit_test(long_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
