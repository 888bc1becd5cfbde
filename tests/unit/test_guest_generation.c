// SPDX-License-Identifier: Apache-2.0
/* guest/generation: the page as its readers see it, and who gets a signal. */
#include "guest/generation.h"

#include "tests/unit/guest_root.h"
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* How often a file was opened: this one goes before the C library's. */
static unsigned opens;

int openat(int dir_fd, const char *path, int flags, ...)
{
	va_list ap;

	va_start(ap, flags);
	mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	opens++;
	return (int)syscall(SYS_openat, dir_fd, path, flags, mode);
}

static const uint8_t some_id[GENERATION_ID_BYTES] = { 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
						      0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10 };
static const char some_uuid[] = "01234567-89ab-cdef-fedc-ba9876543210";

static void uuids(void **state)
{
	static const char *const bad[] = {
		"",
		"01234567-89ab-cdef-fedc-ba987654321",
		"01234567-89ab-cdef-fedc-ba98765432100",
		"0123456789ab-cdef-fedc-ba9876543210-",
		"01234567-89ab-cdef-fedc-ba987654321g",
		"01234567-89ab-cdef-fedc_ba9876543210",
		"0123456-789ab-cdef-fedc-ba9876543210",
		"01234567-89ab-cdef-fedc-ba98765432\x11\x10",
	};
	uint8_t id[GENERATION_ID_BYTES] = {};
	char text[GENERATION_TEXT_BYTES];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (uuid_parse(bad[i], id))
			fail_msg("'%s' was taken", bad[i]);
	assert_true(uuid_parse("01234567-89AB-cdef-FEDC-ba9876543210", id));
	assert_memory_equal(id, some_id, sizeof(id));
	uuid_text(id, text);
	assert_string_equal(text, some_uuid);
}

/* The layout that docs/identity.md promises: magic, counter at 8, id at 16. */
static void page(void **state)
{
	struct generation gen = {};
	struct err err = {};
	uint64_t counter;
	char text[GENERATION_TEXT_BYTES];
	struct stat st;

	(void)state;
	assert_int_equal(generation_open(&gen, root.fd, &err), 0);
	autoclose int fd = openat(root.fd, "run/forkd/generation", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 4096);
	assert_int_equal(st.st_mode & 0777, 0644);
	const char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	assert_memory_equal(map, "FORKDGEN", 8);
	memcpy(&counter, map + 8, 8);
	assert_int_equal(counter, 1);
	generation_set(&gen, some_id);
	memcpy(&counter, map + 8, 8);
	assert_int_equal(counter, 2);
	assert_memory_equal(map + 16, some_id, 16);
	generation_text(&gen, text);
	assert_string_equal(text, some_uuid);

	/* An agent that starts anew goes on in the same file: it is mapped by others. */
	generation_close(&gen);
	assert_int_equal(generation_open(&gen, root.fd, &err), 0);
	assert_int_equal(gen.page->counter, 2);
	generation_set(&gen, some_id);
	memcpy(&counter, map + 8, 8);
	assert_int_equal(counter, 3);
	gen.page->counter = UINT64_MAX;
	generation_set(&gen, some_id);
	assert_int_equal(gen.page->counter, 1);
	generation_close(&gen);
	munmap((void *)(uintptr_t)map, 4096);
}

/* A process that registers, and then sleeps. How it locks is `lock`. */
static pid_t registered(const char *name, const char *text, uid_t owner, bool lock)
{
	int ready[2];
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
		int dir = openat(root.fd, "run/forkd/notify.d", O_RDONLY | O_DIRECTORY);
		int fd = openat(dir, name, O_RDWR | O_CREAT, 0600);
		if (write(fd, text, strlen(text)) < 0 || fchown(fd, owner, owner) < 0 ||
		    (lock && fcntl(fd, F_SETLK, &all) < 0))
			_exit(1);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

/* The signal that the process has ended by; 0: it lives, and is ended here. */
static int ended_by(pid_t pid, bool sent)
{
	int status;

	if (!sent) {
		assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
		kill(pid, SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WTERMSIG(status) == SIGKILL ? 0 : WTERMSIG(status);
}

static void notifies(void **state)
{
	struct generation gen = {};
	struct err err = {};

	(void)state;
	assert_int_equal(generation_open(&gen, root.fd, &err), 0);
	assert_int_equal(generation_notify(&gen), 0);
	pid_t good = registered("good", "10\n", 0, true);
	pid_t unlocked = registered("unlocked", "10\n", 0, false);
	pid_t other = registered("others", "10\n", 12345, true); /* the file's owner is not the process' */
	pid_t absurd = registered("absurd", "4711\n", 0, true);
	pid_t zero = registered("zero", "0\n", 0, true);
	assert_int_equal(symlinkat("good", root.fd, "run/forkd/notify.d/link"), 0);
	assert_int_equal(mkfifoat(root.fd, "run/forkd/notify.d/fifo", 0600), 0);
	assert_int_equal(generation_notify(&gen), 1);
	assert_int_equal(ended_by(good, true), SIGUSR1);
	assert_int_equal(ended_by(unlocked, false), 0);
	assert_int_equal(ended_by(other, false), 0);
	assert_int_equal(ended_by(absurd, false), 0);
	assert_int_equal(ended_by(zero, false), 0);
	/* The files are still there, but nobody holds a lock. */
	assert_int_equal(generation_notify(&gen), 0);
	generation_close(&gen);
}

static void has_a_bound(void **state)
{
	struct generation gen = {};
	struct err err = {};
	char name[40];

	(void)state;
	assert_int_equal(generation_open(&gen, root.fd, &err), 0);
	for (unsigned i = 0; i < GENERATION_NOTIFY_MAX + 10; i++) {
		snprintf(name, sizeof(name), "run/forkd/notify.d/%u", i);
		assert_int_equal(symlinkat("/nowhere", root.fd, name), 0);
	}
	unsigned asked = opens;
	generation_notify(&gen);
	assert_int_equal(opens - asked, GENERATION_NOTIFY_MAX + 1); /* and the directory */
	generation_close(&gen);
}

static void everybody_may_register(void **state)
{
	struct generation gen = {};
	struct err err = {};
	struct stat st;
	mode_t mask = umask(077);

	(void)state;
	assert_int_equal(generation_open(&gen, root.fd, &err), 0);
	umask(mask);
	assert_int_equal(fstatat(root.fd, "run/forkd/notify.d", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 01777);
	generation_close(&gen);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(uuids),           ROOT_TEST(page), ROOT_TEST(notifies), ROOT_TEST(has_a_bound),
		ROOT_TEST(everybody_may_register),
	};

	return cmocka_run_group_tests_name("guest_generation", tests, NULL, NULL);
}
