// SPDX-License-Identifier: Apache-2.0
/* guest/put_file: a file is there whole, with its mode, or not at all. */
#include "guest/put_file.h"

#include "tests/unit/guest_root.h"
#include "tests/unit/unit.h"

#include <sys/mount.h>
#include <sys/stat.h>

static void expect(const char *path, const char *text, mode_t mode)
{
	char got[64];
	struct stat st;

	assert_int_equal(get_text(root.fd, path, got, sizeof(got)), strlen(text));
	assert_string_equal(got, text);
	assert_int_equal(fstatat(root.fd, path_below(path), &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, mode);
}

static void makes_parents(void **state)
{
	struct put_file file = { .path = "/a/b/c", .bytes = "x\0y", .len = 1, .mode = 04750, .uid = 3, .gid = 4 };
	struct err err = {};
	struct stat st;

	(void)state;
	assert_int_equal(put_file(root.fd, &file, &err), 0);
	expect("/a/b/c", "x", 04750);
	assert_int_equal(fstatat(root.fd, "a/b/c", &st, 0), 0);
	assert_int_equal(st.st_uid, 3);
	assert_int_equal(st.st_gid, 4);
	assert_int_equal(fstatat(root.fd, "a/b", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
}

/* Who has the old file open sees the old text; the new one is another file, of the new length. */
static void replaces(void **state)
{
	struct err err = {};
	char old[16] = "";

	(void)state;
	assert_int_equal(put_text(root.fd, "/f", "the old text", &err), 0);
	autoclose int fd = openat(root.fd, "f", O_RDONLY | O_CLOEXEC);
	assert_int_equal(put_text(root.fd, "/f", "new", &err), 0);
	expect("/f", "new", 0644);
	assert_int_equal(read(fd, old, sizeof(old) - 1), 12);
	assert_string_equal(old, "the old text");
	assert_int_equal(root_count("."), 1); /* no temporary file stays */
}

static void leaves_nothing_half(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(mkdirat(root.fd, "d", 0755), 0);
	assert_int_equal(put_text(root.fd, "/d", "text", &err), -EISDIR);
	assert_string_equal(err.msg, "rename a file to '/d'\nIs a directory (os error 21)");
	assert_int_equal(root_count("."), 1);
	err = (struct err){};
	assert_int_equal(put_text(root.fd, "/f", "text", &err), 0);
	assert_int_equal(put_text(root.fd, "/f/g", "text", &err), -ENOTDIR);
}

/* A temporary file of an agent that was killed is no obstacle, nor is one that somebody planted as a link. */
static void temporary_is_in_the_way(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(put_text(root.fd, "/victim", "victim", &err), 0);
	assert_int_equal(symlinkat("victim", root.fd, "f.forkd-new"), 0);
	assert_int_equal(put_text(root.fd, "/f", "text", &err), 0);
	expect("/f", "text", 0644);
	expect("/victim", "victim", 0644);
}

static void mount_point(void **state)
{
	struct err err = {};
	char path[128], from[128];

	(void)state;
	assert_int_equal(put_text(root.fd, "/from", "a longer text", &err), 0);
	assert_int_equal(put_text(root.fd, "/f", "", &err), 0);
	snprintf(path, sizeof(path), "%s/f", root.path);
	snprintf(from, sizeof(from), "%s/from", root.path);
	if (mount(from, path, NULL, MS_BIND, NULL) < 0)
		skip();
	int r = put_text(root.fd, "/f", "text", &err);
	umount(path);
	assert_int_equal(r, 0);
	expect("/from", "text", 0644);
	expect("/f", "", 0644);
}

/* The file that is there gets the text, and keeps what else it has; what is no file of its own is replaced. */
static void rewrites(void **state)
{
	struct err err = {};
	struct stat before, after;

	(void)state;
	const struct put_file file = { .path = "/f", .bytes = "a longer text", .len = 13, .mode = 0604 };
	assert_int_equal(put_file(root.fd, &file, &err), 0);
	assert_int_equal(fstatat(root.fd, "f", &before, 0), 0);
	assert_int_equal(rewrite_text(root.fd, "/f", "short", &err), 0);
	expect("/f", "short", 0604);
	assert_int_equal(fstatat(root.fd, "f", &after, 0), 0);
	assert_int_equal(after.st_ino, before.st_ino);
	assert_int_equal(rewrite_text(root.fd, "/f", "longer again", &err), 0);
	expect("/f", "longer again", 0604);

	assert_int_equal(symlinkat("f", root.fd, "link"), 0);
	assert_int_equal(linkat(root.fd, "f", root.fd, "second", 0), 0);
	assert_int_equal(rewrite_text(root.fd, "/link", "of the link", &err), 0);
	assert_int_equal(rewrite_text(root.fd, "/second", "of the second", &err), 0);
	assert_int_equal(rewrite_text(root.fd, "/new", "of the new", &err), 0);
	expect("/f", "longer again", 0604);
	expect("/link", "of the link", 0644);
	expect("/second", "of the second", 0644);
	expect("/new", "of the new", 0644);
}

static void reads(void **state)
{
	struct err err = {};
	char got[5];

	(void)state;
	assert_int_equal(get_text(root.fd, "/none", got, sizeof(got)), -ENOENT);
	assert_int_equal(put_text(root.fd, "/f", "four", &err), 0);
	assert_int_equal(get_text(root.fd, "f", got, sizeof(got)), 4);
	assert_int_equal(get_text(root.fd, "f", got, sizeof(got) - 1), -EFBIG);
	assert_int_equal(mkfifoat(root.fd, "fifo", 0600), 0);
	assert_int_equal(get_text(root.fd, "fifo", got, sizeof(got)), -EINVAL);
	assert_true(get_text(AT_FDCWD, "/proc/self/comm", (char[64]){ 0 }, 64) > 0);
	assert_string_equal(path_below("//etc/x"), "etc/x");
	assert_string_equal(path_below("/"), ".");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ROOT_TEST(makes_parents),
		ROOT_TEST(replaces),
		ROOT_TEST(leaves_nothing_half),
		ROOT_TEST(temporary_is_in_the_way),
		ROOT_TEST(mount_point),
		ROOT_TEST(reads),
		ROOT_TEST(rewrites),
	};

	return cmocka_run_group_tests_name("guest_put_file", tests, NULL, NULL);
}
