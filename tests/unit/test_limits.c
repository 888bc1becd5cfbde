// SPDX-License-Identifier: Apache-2.0
/* docs/limits.md: every row names files that are there, and tests that are there. Run in the repository's root, as all unit tests. */
#include "tests/unit/unit.h"

#include <glob.h>
#include <stdio.h>

enum { CELLS = 4, WHERE = 2, TEST = 3 };

static bool is_there(const char *pattern)
{
	glob_t found = {};
	bool there = glob(pattern, 0, NULL, &found) == 0;

	globfree(&found);
	return there;
}

/* The text of a file, in heap; NULL: it is not there. */
static char *text_of(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = NULL;
	size_t len = 0;

	if (!f)
		return NULL;
	(void)!getdelim(&text, &len, '\0', f);
	fclose(f);
	return text;
}

/* The case of a unit test stands in its list, that of a Python test behind `def`, several of them behind `class`. */
static bool has_case(const char *text, const char *name)
{
	char in_list[96], python[96], class[96];

	snprintf(in_list, sizeof(in_list), "(%s", name);
	snprintf(python, sizeof(python), "def %s(", name);
	snprintf(class, sizeof(class), "class %s(", name);
	for (const char *p = text; (p = strstr(p, in_list)); p++)
		if (strchr(",)", p[strlen(in_list)]))
			return true;
	return strstr(text, python) || strstr(text, class);
}

static void check_test(const char *name)
{
	char path[160];
	const char *last = strrchr(name, '.');
	int module = (int)strcspn(name, ".");
	static const char *const places[][2] = {
		{ "unit", "c" }, { "kvm", "py" }, { "agent", "py" }, { "image", "py" }, { "lab", "py" }
	};

	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		snprintf(path, sizeof(path), "tests/%s/%.*s.%s", places[i][0], module, name, places[i][1]);
		autofree char *text = text_of(path);
		if (text && (!last || has_case(text, last + 1)))
			return;
	}
	fail_msg("docs/limits.md names a test that is not there: %s", name);
}

/* A path, or the name of a file beside the one that was named before. */
static void check_file(const char *name, char folder[128])
{
	char path[256];

	if (strchr(name, '/'))
		snprintf(folder, 128, "%.*s", (int)(strrchr(name, '/') - name), name);
	snprintf(path, sizeof(path), "%s/%s", folder, strchr(name, '/') ? strrchr(name, '/') + 1 : name);
	if (!is_there(path))
		fail_msg("docs/limits.md names a file that is not there: %s", name);
}

/* What stands between backticks; how many there are. */
static unsigned check_names(char *cell, bool tests)
{
	char folder[128] = "";
	unsigned n = 0;

	for (char *at = strchr(cell, '`'); at; at = strchr(at, '`')) {
		char *end = strchr(++at, '`');
		if (!end)
			fail_msg("docs/limits.md: a backtick without another: %s", cell);
		*end = '\0';
		if (tests)
			check_test(at);
		else
			check_file(at, folder);
		at = end + 1;
		n++;
	}
	return n;
}

static void rows_name_what_is_there(void **state)
{
	autofree char *text = text_of("docs/limits.md");
	unsigned n = 0;
	char *lines;

	(void)state;
	assert_non_null(text);
	for (char *line = strtok_r(text, "\n", &lines); line; line = strtok_r(NULL, "\n", &lines)) {
		char *cells[CELLS + 1], *rest = line + 1;
		if (line[0] != '|' || strncmp(line, "|---", 4) == 0 || strncmp(line, "| what |", 8) == 0)
			continue;
		for (unsigned i = 0; i <= CELLS; i++)
			cells[i] = strsep(&rest, "|");
		if (!cells[TEST] || !cells[CELLS] || rest)
			fail_msg("docs/limits.md: not a row of %d cells: %s", CELLS, line);
		if (check_names(cells[WHERE], false) == 0 || check_names(cells[TEST], true) == 0)
			fail_msg("docs/limits.md: a row without a file, or without a test: %s", line);
		n++;
	}
	assert_true(n > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(rows_name_what_is_there) };

	return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
