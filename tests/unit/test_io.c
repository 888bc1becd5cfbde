// SPDX-License-Identifier: Apache-2.0
/* common/io: whole ranges, the end of a file, errors. */
#include "common/io.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <sys/syscall.h>

static size_t most = SIZE_MAX; /* that one call moves */
static unsigned interrupted;   /* calls that a signal ends first */

/* The C library's, a little at a time. */
ssize_t pread(int fd, void *buf, size_t len, off_t off)
{
	if (interrupted > 0 && interrupted--) {
		errno = EINTR;
		return -1;
	}
	return syscall(SYS_pread64, fd, buf, len < most ? len : most, off);
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	if (interrupted > 0 && interrupted--) {
		errno = EINTR;
		return -1;
	}
	return syscall(SYS_pwrite64, fd, buf, len < most ? len : most, off);
}

static void in_pieces(void **state)
{
	autoclose int fd = unit_file();
	char buf[32] = "";

	(void)state;
	most = 3;
	interrupted = 2;
	assert_int_equal(io_write(fd, "The quick brown fox", 20, 7), 20);
	interrupted = 2;
	assert_int_equal(io_read(fd, buf, 20, 7), 20);
	assert_string_equal(buf, "The quick brown fox");
	assert_int_equal(io_read(fd, buf, 30, 11), 16); /* to the end */
	assert_string_equal(buf, "quick brown fox");
	most = SIZE_MAX;
}

static void whole_ranges(void **state)
{
	autoclose int fd = unit_file();
	char buf[16] = "";

	(void)state;
	assert_int_equal(io_write(fd, "0123456789", 10, 100), 10);
	assert_int_equal(io_read(fd, buf, 10, 100), 10);
	assert_string_equal(buf, "0123456789");
	assert_int_equal(io_read(fd, buf, 3, 98), 3);
	assert_memory_equal(buf, "\0\0000", 3);
	assert_int_equal(io_read(fd, buf, 0, 5), 0);
	assert_int_equal(io_write(fd, buf, 0, 5), 0);
}

static void end_of_file(void **state)
{
	autoclose int fd = unit_file();
	char buf[8] = "xxxxxxx";

	(void)state;
	assert_int_equal(io_write(fd, "ab", 2, 0), 2);
	assert_int_equal(io_read(fd, buf, 7, 0), 2);
	assert_string_equal(buf, "abxxxxx");
	assert_int_equal(io_read(fd, buf, 7, 50), 0);
}

static void errors(void **state)
{
	autoclose int full = open("/dev/full", O_RDWR | O_CLOEXEC), dir = open("/", O_RDONLY | O_CLOEXEC);
	char buf[8];

	(void)state;
	assert_int_equal(io_write(full, "x", 1, 0), -ENOSPC);
	assert_int_equal(io_read(dir, buf, 1, 0), -EISDIR);
	assert_int_equal(io_read(-1, buf, 1, 0), -EBADF);
	assert_int_equal(io_write(-1, buf, 1, 0), -EBADF);
	assert_int_equal(io_read(full, buf, 1, UINT64_MAX - 8), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_pieces),
		cmocka_unit_test(whole_ranges),
		cmocka_unit_test(end_of_file),
		cmocka_unit_test(errors),
	};

	return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
