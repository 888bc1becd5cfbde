// SPDX-License-Identifier: Apache-2.0
/*
 * The process that parses the header of a foreign image: here the parser is one that an image has taken over, and does
 * what the image's maker would like.
 */
#include "forkd/access/image_header.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "forkd/errors.h"
#include "tests/unit/unit.h"

static int secret_fd = -1; /* something that the daemon has open */
static char secret[] = "/tmp/forkd-test-header-XXXXXX";

/* `path` says what is tried. Replaces the one of common/qcow2.c. */
int qcow2_parse_header(const uint8_t *head, size_t len, uint64_t file_bytes, const char *path, struct qcow2_header *ret,
		       struct err *err)
{
	int worked = 0;

	if (strcmp(path, "open") == 0)
		worked = open(secret, O_RDONLY | O_CLOEXEC) >= 0;
	else if (strcmp(path, "socket") == 0)
		worked = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) >= 0;
	else if (strcmp(path, "write") == 0)
		worked = write(secret_fd, "mine", 4) == 4;
	else if (strcmp(path, "read") == 0)
		worked = read(secret_fd, ret->backing, 6) == 6;
	else if (strcmp(path, "long") == 0)
		memset(ret, 'x', sizeof(*ret));
	else if (strcmp(path, "refuse") == 0)
		memset(err, 'x', sizeof(*err));
	else if (strcmp(path, "fine") == 0)
		memcpy(ret->backing, head, len < 8 ? len : 8);
	ret->version = worked ? 3 : 0;
	ret->bytes = strcmp(path, "size") == 0 ? 1ULL << 63 : file_bytes;
	return strcmp(path, "refuse") == 0 ? -EINVAL : 0;
}

static int ask(const char *what, struct qcow2_header *ret, struct err *err)
{
	*ret = (struct qcow2_header){};
	*err = (struct err){};
	assert_int_equal(lseek(secret_fd, 0, SEEK_SET), 0);
	return image_header_read(secret_fd, 6, what, ret, err);
}

static void can_do_nothing(void **state)
{
	static const char *const tries[] = { "open", "socket" };
	struct qcow2_header h;
	struct err err;

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(tries); i++) {
		assert_int_equal(qcow2_parse_header((const uint8_t *)"", 0, 6, tries[i], &h, &err), 0);
		assert_int_equal(h.version, 3); /* it works where nothing is in the way */
		assert_true(ask(tries[i], &h, &err) < 0);
		assert_int_equal(err.detail, E_INVALID);
		assert_non_null(strstr(err.msg, "the process that did ended (9)"));
	}
}

/* The image is read before the parser has its turn, and what the daemon has open is closed. */
static void has_nothing_open(void **state)
{
	static const char *const tries[] = { "write", "read" };
	struct qcow2_header h;
	struct err err;
	char now[16] = "";

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(tries); i++) {
		assert_int_equal(ask(tries[i], &h, &err), 0);
		assert_int_equal(h.version, 0);
	}
	assert_int_equal(pread(secret_fd, now, sizeof(now), 0), 6);
	assert_string_equal(now, "secret");
}

static void lies_in_its_answer(void **state)
{
	struct qcow2_header h;
	struct err err;

	(void)state;
	assert_int_equal(ask("fine", &h, &err), 0);
	assert_string_equal(h.backing, "secret");
	assert_int_equal(ask("long", &h, &err), 0);
	assert_int_equal(strlen(h.backing), QCOW2_NAME_MAX);
	assert_int_equal(strlen(h.backing_format), QCOW2_FORMAT_MAX);
	assert_true(ask("size", &h, &err) < 0);
	assert_non_null(strstr(err.msg, "its size is 9223372036854775808"));
	assert_true(ask("refuse", &h, &err) < 0);
	assert_int_equal(err.detail, E_INVALID);
}

static int make_secret(void **state)
{
	(void)state;
	secret_fd = mkstemp(secret);
	return secret_fd >= 0 && write(secret_fd, "secret", 6) == 6 ? 0 : -1;
}

static int remove_secret(void **state)
{
	(void)state;
	return unlink(secret);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(can_do_nothing),
		cmocka_unit_test(has_nothing_open),
		cmocka_unit_test(lies_in_its_answer),
	};

	return cmocka_run_group_tests(tests, make_secret, remove_secret);
}
