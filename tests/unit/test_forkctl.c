// SPDX-License-Identifier: Apache-2.0
/* forkctl's option grammar, its tables and its units. */
#include "forkctl/args.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <string.h>

#include "forkctl/table.h"

static const struct option_row clone_options[] = {
	{ "count", "N", "how many", 'n', false },
	{ "net", "ID=TAP", "a tap", 0, true },
	{ "paused", NULL, "paused", 'p', false },
	{ NULL, NULL, NULL, 0, false },
};
static const struct option_row exec_options[] = {
	{ "stdin", NULL, "stdin", 'i', false },
	{ "tty", NULL, "tty", 't', false },
	{ "env", "K=V", "env", 'e', true },
	{ NULL, NULL, NULL, 0, false },
};
static const struct verb verbs[] = {
	{ "template list", "", "list", NULL, NULL, 0, 0, NULL },
	{ "clone", "TEMPLATE", "clone", NULL, clone_options, 1, 2, NULL },
	{ "exec", "ID COMMAND…", "exec", NULL, exec_options, 2, ARGS_COMMAND, NULL },
	{ NULL, NULL, NULL, NULL, NULL, 0, 0, NULL },
};

/* The words after the program's name. */
static bool parse(struct args *args, const char *line)
{
	static char words[256];
	char *argv[16] = { words }, *save = NULL;
	int argc = 1;

	*args = (struct args){};
	snprintf(words, sizeof(words), "%s", line);
	for (char *w = strtok_r(words, " ", &save); w && argc < 16; w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	return args_parse(args, verbs, argc, argv);
}

static struct args args;

static void finds_verbs_and_options(void **state)
{
	uint64_t n = 0;

	(void)state;
	assert_true(parse(&args, "template list --json"));
	assert_string_equal(args.verb->name, "template list");
	assert_non_null(args_option(&args, "json"));
	assert_true(parse(&args, "--socket /s clone --net a=1 web -n3 --net=b=2 -p -- -x"));
	assert_string_equal(args.verb->name, "clone");
	assert_int_equal(args.n_words, 2);
	assert_string_equal(args.words[0], "web");
	assert_string_equal(args.words[1], "-x");
	assert_string_equal(args_option(&args, "socket"), "/s");
	assert_string_equal(args_value(&args, "net", 0), "a=1");
	assert_string_equal(args_value(&args, "net", 1), "b=2");
	assert_null(args_value(&args, "net", 2));
	assert_non_null(args_option(&args, "paused"));
	assert_true(args_number(&args, "count", 1, 1000, &n));
	assert_int_equal(n, 3);
	assert_false(args_number(&args, "count", 4, 1000, &n));
	assert_true(parse(&args, "clone --help"));
}

/* Options of the command are not ours, with and without "--". */
static void leaves_a_command_alone(void **state)
{
	(void)state;
	assert_true(parse(&args, "exec -it c-1 -eA=b ls -i --json --"));
	assert_non_null(args_option(&args, "stdin"));
	assert_non_null(args_option(&args, "tty"));
	assert_string_equal(args_option(&args, "env"), "A=b");
	assert_null(args_option(&args, "json"));
	assert_int_equal(args.n_words, 5);
	assert_string_equal(args.words[1], "ls");
	assert_string_equal(args.words[4], "--");
	assert_true(parse(&args, "exec c-1 -i -- -x -t"));
	assert_int_equal(args.n_words, 3);
	assert_string_equal(args.words[1], "-x");
	assert_null(args_option(&args, "tty"));
	assert_true(parse(&args, "exec -tie A=b c-1 ls"));
	assert_string_equal(args_option(&args, "env"), "A=b");
	assert_false(parse(&args, "exec -ix c-1 ls"));
	assert_false(parse(&args, "exec -ii c-1 ls"));
	assert_false(parse(&args, "exec c-1"));
}

static void refuses_wrong_usage(void **state)
{
	static const char *const lines[] = {
		"",
		"clone",
		"clone a b c",
		"clone web --nonsense",
		"clone web --net",
		"clone web -n 1 -n 2",
		"clone web --paused=1",
		"clon web",
		"template",
		"template lists",
		"template list more",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		if (parse(&args, lines[i]))
			fail_msg("'%s' was taken", lines[i]);
	assert_true(parse(&args, "clone web -n 3x"));
	uint64_t n = 7;
	assert_false(args_number(&args, "count", 1, 10, &n));
	assert_int_equal(n, 7);
}

static void names_units(void **state)
{
	static const struct {
		uint64_t v;
		const char *bytes, *us;
	} cases[] = {
		{ 0, "0 B", "0 µs" },
		{ 999, "999 B", "999 µs" },
		{ 1240, "1 KiB", "1.24 ms" },
		{ 5 << 20, "5.0 MiB", "5.24 s" },
		{ 3ULL << 30, "3.0 GiB", "53 min 41 s" },
		{ 1ULL << 33, "8.0 GiB", "2 h 23 min" },
	};
	char buf[UNIT_TEXT];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_string_equal(format_bytes(buf, cases[i].v), cases[i].bytes);
		assert_string_equal(format_us(buf, cases[i].v), cases[i].us);
	}
	format_us(buf, UINT64_MAX); /* fits */
	format_bytes(buf, UINT64_MAX);
}

/* Columns by characters, numbers to the right, and nothing that a terminal would obey. */
static void aligns_tables(void **state)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	autotable struct table t;

	(void)state;
	assert_non_null(out);
	table_init(&t, "NAME >TIME X", 0);
	table_cell(&t, "a");
	table_cell(&t, "5 µs");
	table_cell(&t, "\033[31m");
	table_cell(&t, "%s", "");
	table_cell(&t, "12.00 ms");
	table_cell(&t, "\xc2\x9bz");
	table_print(&t, out);
	fclose(out);
	assert_string_equal(text, "NAME      TIME  X\n"
				  "a         5 µs  ?[31m\n"
				  "-     12.00 ms  ??z\n");
	free(text);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_verbs_and_options), cmocka_unit_test(leaves_a_command_alone),
		cmocka_unit_test(refuses_wrong_usage),     cmocka_unit_test(names_units),
		cmocka_unit_test(aligns_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
