// SPDX-License-Identifier: Apache-2.0
/* common/log: lines, levels, and lines that a guest can cause without end. */
#include "common/log.h"

#include "tests/unit/unit.h"

static int fd;

static int make(void **state)
{
	(void)state;
	fd = unit_file();
	log_init("test", LOG_INFO, fd);
	return 0;
}

static int done(void **state)
{
	(void)state;
	log_init("test", LOG_WARN, STDERR_FILENO);
	close(fd);
	return 0;
}

/* What the log has, one line for each message: without what comes before " -- ". Empties it. */
static const char *messages(void)
{
	static char text[65536];
	char *to = text;

	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	assert_true(n >= 0 && n < (ssize_t)sizeof(text) - 1);
	text[n] = '\0';
	for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
		const char *from = strstr(line, " -- ");
		assert_true(from && from < end);
		memmove(to, from + 4, (size_t)(end - from - 3));
		to += end - from - 3;
	}
	*to = '\0';
	assert_int_equal(ftruncate(fd, 0), 0);
	return text;
}

static void lines(void **state)
{
	(void)state;
	log_warn("a %d", 1);
	log_debug("not said");
	log_info("two\nlines");
	assert_string_equal(messages(), "a 1\ntwo lines\n");
	log_error("after it was cut");
	assert_string_equal(messages(), "after it was cut\n");
}

static void complain(unsigned i)
{
	log_guest(LOG_WARN, "guest %u", i);
	log_guest(LOG_DEBUG, "not said");
}

/* 100,000 times: LOG_GUEST_FIRST lines and 12 more, each of which says how often. */
static void a_guest_without_end(void **state)
{
	char expected[4096] = "";
	size_t at = 0;

	(void)state;
	for (unsigned i = 1; i <= 100000; i++)
		complain(i);
	for (unsigned i = 1; i <= LOG_GUEST_FIRST; i++)
		at += (size_t)snprintf(expected + at, sizeof(expected) - at, "guest %u\n", i);
	for (unsigned i = 32; i <= 65536; i *= 2)
		at += (size_t)snprintf(expected + at, sizeof(expected) - at, "guest %u (%u times by now)\n", i, i);
	assert_string_equal(messages(), expected);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(lines, make, done),
		cmocka_unit_test_setup_teardown(a_guest_without_end, make, done),
	};

	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
