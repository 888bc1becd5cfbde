// SPDX-License-Identifier: Apache-2.0
/* common/fs: the same answers on a file system that lacks a call as on one that has it. */
#include "common/fs.h"

#include "tests/unit/odd_fs.h"
#include "tests/unit/unit.h"

#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>

static char dir[] = "/tmp/forkd-test-fs-XXXXXX";
static int dir_fd;

static int make(void **state)
{
	(void)state;
	strcpy(dir + sizeof(dir) - 7, "XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir_fd < 0;
}

static int done(void **state)
{
	char command[80];

	(void)state;
	memset(&odd_fs, 0, sizeof(odd_fs));
	close(dir_fd);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command); /* NOLINT(cert-env33-c): our own words */
}

static void put(const char *name, const char *text)
{
	autoclose int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

/* The file has this text and one name; NULL: there is no such file. */
static void expect(const char *name, const char *text)
{
	char got[16] = "";
	struct stat st;
	autoclose int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);

	assert_int_equal(fd >= 0, text != NULL);
	if (!text)
		return;
	assert_true(read(fd, got, sizeof(got) - 1) >= 0);
	assert_string_equal(got, text);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_nlink, 1);
}

static const int lacks[] = { 0, EINVAL, ENOSYS, EOPNOTSUPP };

static void renames_files(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lacks); i++) {
		odd_fs.renameat2 = lacks[i];
		put("a", "one");
		assert_int_equal(fs_rename_new(dir_fd, "a", dir_fd, "b"), 0);
		expect("a", NULL);
		expect("b", "one");
		put("a", "two");
		assert_int_equal(fs_rename_new(dir_fd, "a", dir_fd, "b"), -EEXIST);
		expect("a", "two");
		expect("b", "one");
		assert_int_equal(symlinkat("nowhere", dir_fd, "c"), 0);
		assert_int_equal(fs_rename_new(dir_fd, "a", dir_fd, "c"), -EEXIST);
		assert_int_equal(fs_rename_new(dir_fd, "none", dir_fd, "d"), -ENOENT);
		for (const char *const *n = (const char *const[]){ "a", "b", "c", NULL }; *n; n++)
			assert_int_equal(unlinkat(dir_fd, *n, 0), 0);
	}
}

static void renames_directories(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lacks); i++) {
		odd_fs.renameat2 = lacks[i];
		assert_int_equal(mkdirat(dir_fd, "a", 0700), 0);
		put("a/file", "one");
		assert_int_equal(fs_rename_new(dir_fd, "a", dir_fd, "b"), 0);
		expect("b/file", "one");
		assert_int_equal(mkdirat(dir_fd, "a", 0700), 0);
		put("a/file", "two");
		assert_int_equal(fs_rename_new(dir_fd, "a", dir_fd, "b"), -EEXIST);
		expect("a/file", "two");
		expect("b/file", "one");
		put("c", "three");
		assert_int_equal(fs_rename_new(dir_fd, "a", dir_fd, "c"), -EEXIST);
		expect("c", "three");
		for (const char *const *n = (const char *const[]){ "a/file", "b/file", "c", NULL }; *n; n++)
			assert_int_equal(unlinkat(dir_fd, *n, 0), 0);
		assert_int_equal(unlinkat(dir_fd, "a", AT_REMOVEDIR), 0);
		assert_int_equal(unlinkat(dir_fd, "b", AT_REMOVEDIR), 0);
	}
}

/* Neither way: an error, and the file is where it was. */
static void says_that_it_cannot(void **state)
{
	(void)state;
	odd_fs.renameat2 = EINVAL;
	odd_fs.linkat = EPERM;
	put("a", "one");
	assert_int_equal(fs_rename_new(dir_fd, "a", dir_fd, "b"), -EPERM);
	expect("a", "one");
	expect("b", NULL);
	odd_fs.renameat2 = EIO; /* not that the call is missing */
	odd_fs.linkat = 0;
	assert_int_equal(fs_rename_new(dir_fd, "a", dir_fd, "b"), -EIO);
	expect("a", "one");
}

static int open_lock(void)
{
	int fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static void locks(void **state)
{
	static const int cannot[] = { 0, EBADF, ENOLCK, EOPNOTSUPP, EINVAL, ENOSYS };

	(void)state;
	for (int kind = FS_LOCK_OFD; kind <= FS_LOCK_FLOCK; kind++)
		for (size_t i = 0; i < ARRAY_LEN(cannot); i++) {
			autoclose int first = open_lock(), second = open_lock();
			*(kind == FS_LOCK_OFD ? &odd_fs.ofd : &odd_fs.flock) = cannot[i];
			*(kind == FS_LOCK_OFD ? &odd_fs.flock : &odd_fs.ofd) = 0;
			assert_int_equal(fs_lock(first, (enum fs_lock_kind)kind), 0);
			assert_int_equal(fs_lock(second, (enum fs_lock_kind)kind), -EAGAIN);
			close(steal_fd(&first));
			assert_int_equal(fs_lock(second, (enum fs_lock_kind)kind), 0);
		}
	autoclose int fd = open_lock();
	odd_fs.ofd = ENOLCK;
	odd_fs.flock = EOPNOTSUPP;
	assert_int_equal(fs_lock(fd, FS_LOCK_OFD), -ENOLCK);
	assert_int_equal(fs_lock(fd, FS_LOCK_FLOCK), -EOPNOTSUPP);
}

static void names(void **state)
{
	autoclose int proc = open("/proc", O_RDONLY | O_CLOEXEC), shm = memfd_create("x", MFD_CLOEXEC);
	char buf[FS_NAME];

	(void)state;
	assert_string_equal(fs_name(shm, buf), "tmpfs");
	assert_string_equal(fs_name(proc, buf), "0x9fa0");
	assert_string_equal(fs_name(-1, buf), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(renames_files, make, done),
		cmocka_unit_test_setup_teardown(renames_directories, make, done),
		cmocka_unit_test_setup_teardown(says_that_it_cannot, make, done),
		cmocka_unit_test_setup_teardown(locks, make, done),
		cmocka_unit_test_setup_teardown(names, make, done),
	};

	return cmocka_run_group_tests_name("fs", tests, NULL, NULL);
}
