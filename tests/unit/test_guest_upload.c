// SPDX-License-Identifier: Apache-2.0
/* guest/files/upload: a file has its name when it is whole; owner, mode, metadata, links, what is no file. */
#include "guest/files/upload.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "guest/files/entry.h"
#include "guest/files/tree.h"

static char root[64];
static struct owner_ids me;

static int make_root(void **state)
{
	(void)state;
	strcpy(root, "/tmp/forkd-upload-XXXXXX");
	me = (struct owner_ids){ geteuid(), getegid() };
	return mkdtemp(root) ? chdir(root) : -1;
}

static int remove_root(void **state)
{
	struct err err = {};

	(void)state;
	return chdir("/") ?: tree_remove(root, &err);
}

static const char *at(const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	return path;
}

static void check_text(const char *name, const char *text)
{
	char got[64] = "";
	autoclose int fd = open(name, O_RDONLY);

	assert_true(fd >= 0);
	assert_true(read(fd, got, sizeof(got) - 1) >= 0);
	assert_string_equal(got, text);
}

static void put(const char *name, const char *text)
{
	struct upload up;
	struct err err = {};

	assert_int_equal(upload_begin(&up, at(name), &me, &err), 0);
	assert_int_equal(upload_write(&up, text, strlen(text), &err), 0);
	assert_int_equal(upload_commit(&up, NULL, 0, &err), 0);
	upload_done(&up);
}

static void whole_or_nothing(void **state)
{
	struct upload up;
	struct err err = {};

	(void)state;
	unsigned fds = count_fds();
	assert_int_equal(upload_begin(&up, at("a"), &me, &err), 0);
	assert_int_equal(upload_write(&up, "half", 4, &err), 0);
	assert_int_equal(access("a", F_OK), -1);
	assert_int_equal(count_names(opendir(".")), 0); /* it has no name at all */
	upload_done(&up);
	upload_done(&up);
	assert_int_equal(count_names(opendir(".")), 0);
	put("a", "first");
	check_text("a", "first");
	assert_int_equal(upload_begin(&up, at("a"), &me, &err), 0);
	assert_int_equal(upload_write(&up, "sec", 3, &err), 0);
	check_text("a", "first");
	assert_int_equal(upload_write(&up, "ond", 3, &err), 0);
	assert_int_equal(upload_commit(&up, NULL, 0, &err), 0);
	check_text("a", "second");
	upload_done(&up);
	check_text("a", "second");
	assert_int_equal(count_names(opendir(".")), 1);
	put("deep/er/b", "");
	check_text("deep/er/b", "");
	assert_int_equal(count_fds(), fds);
}

/* As on a file system without O_TMPFILE. */
static void with_a_hidden_name(void **state)
{
	struct upload up;
	struct err err = {};

	(void)state;
	for (int commit = 0; commit < 2; commit++) {
		assert_int_equal(upload_begin(&up, at("h"), &me, &err), 0);
		close(up.fd);
		strcpy(up.hidden, UPLOAD_NEW "x");
		up.fd = openat(up.dir_fd, up.hidden, O_WRONLY | O_CREAT | O_EXCL, 0600);
		assert_true(up.fd >= 0);
		assert_int_equal(upload_write(&up, "text", 4, &err), 0);
		if (commit)
			assert_int_equal(upload_commit(&up, NULL, 0, &err), 0);
		upload_done(&up);
		assert_int_equal(access(UPLOAD_NEW "x", F_OK), -1);
		assert_int_equal(access("h", F_OK), commit ? 0 : -1);
	}
	check_text("h", "text");
}

static void modes_and_owners(void **state)
{
	const struct owner_ids other = { 1234, 2345 };
	struct upload up;
	struct err err = {};
	struct stat st;

	(void)state;
	put("new", "x");
	assert_int_equal(stat("new", &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0644);
	assert_int_equal(chmod("new", 04751), 0);
	put("new", "y");
	assert_int_equal(stat("new", &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0751);
	if (geteuid() != 0) {
		print_message("SKIPPED owners: needs root\n");
		return;
	}
	assert_int_equal(upload_begin(&up, at("own/new"), &other, &err), 0);
	assert_int_equal(upload_commit(&up, NULL, 0, &err), 0);
	upload_done(&up);
	assert_int_equal(stat("own/new", &st), 0);
	assert_true(st.st_uid == 1234 && st.st_gid == 2345);
	assert_int_equal(stat("own", &st), 0);
	assert_true(st.st_uid == 1234 && st.st_gid == 2345);
	/* a file of his that somebody else writes is somebody else's */
	put("own/new", "x");
	assert_int_equal(stat("own/new", &st), 0);
	assert_int_equal(st.st_uid, 0);
}

static void links(void **state)
{
	struct upload up;
	struct err err = {};
	struct stat st;

	(void)state;
	assert_int_equal(mkdir("real", 0755), 0);
	assert_int_equal(mkdir("real/inner", 0755), 0);
	assert_int_equal(symlink("real/inner", "dir"), 0);
	assert_int_equal(symlink("../target", "real/inner/link"), 0); /* relative to its own directory */
	put("dir/link", "through");
	check_text("real/target", "through");
	assert_int_equal(lstat("real/inner/link", &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(symlink(at("nowhere/yet"), "dangling"), 0);
	put("dangling", "made");
	check_text("nowhere/yet", "made");
	assert_int_equal(symlink("loop2", "loop1"), 0);
	assert_int_equal(symlink("loop1", "loop2"), 0);
	assert_int_equal(upload_begin(&up, at("loop1"), &me, &err), -ELOOP);
	assert_int_equal(err.code, ERR_INVALID);
	assert_int_equal(upload_begin(&up, at("loop1/x"), &me, &err), -ELOOP);
	assert_int_equal(symlink("real/", "slash"), 0);
	assert_int_equal(upload_begin(&up, at("slash"), &me, &err), -EINVAL);
	assert_int_equal(symlink("..", "up"), 0);
	assert_int_equal(upload_begin(&up, at("up"), &me, &err), -EINVAL);
	assert_int_equal(symlink("/", "top"), 0);
	assert_int_equal(upload_begin(&up, at("top"), &me, &err), -EINVAL);
}

static void no_files(void **state)
{
	static const char *const names[] = { "d", "fifo", "dev", "" };
	struct upload up;
	struct err err = {};
	char name[300];

	(void)state;
	unsigned fds = count_fds();
	assert_int_equal(mkdir("d", 0755), 0);
	assert_int_equal(mkfifo("fifo", 0644), 0);
	assert_int_equal(symlink("/dev/null", "dev"), 0);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		assert_int_equal(upload_begin(&up, at(names[i]), &me, &err), -EINVAL);
		assert_int_equal(err.code, ERR_INVALID);
	}
	assert_int_equal(upload_begin(&up, "/", &me, &err), -EINVAL);
	assert_int_equal(upload_begin(&up, at("fifo/x"), &me, &err), -ENOTDIR);
	memset(name, 'n', 256);
	name[256] = '\0';
	assert_int_equal(upload_begin(&up, at(name), &me, &err), -ENAMETOOLONG);
	assert_int_equal(err.code, ERR_INVALID);
	assert_int_equal(count_fds(), fds);
}

static void metadata(void **state)
{
	char author[] = "author", value[] = "me", other[] = "x";
	const struct metadata one[] = { { author, value } }, two[] = { { other, value } };
	autostrbuf struct strbuf out = {};
	struct upload up;
	struct err err = {};

	(void)state;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(upload_begin(&up, at("m"), &me, &err), 0);
		if (i == 0 && fsetxattr(up.fd, METADATA_PREFIX "probe", "1", 1, 0) < 0 && errno == EOPNOTSUPP) {
			print_message("SKIPPED metadata: /tmp has no user attributes\n");
			upload_done(&up);
			return;
		}
		fremovexattr(up.fd, METADATA_PREFIX "probe");
		assert_int_equal(upload_commit(&up, i == 0 ? one : two, i < 2, &err), 0);
		upload_done(&up);
		out.len = 0;
		strbuf_puts(&out, "");
		entry_metadata(&out, "m");
		assert_string_equal(out.text, i == 0   ? "\"metadata\":{\"author\":\"me\"},"
					      : i == 1 ? "\"metadata\":{\"x\":\"me\"},"
						       : "");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(whole_or_nothing, make_root, remove_root),
		cmocka_unit_test_setup_teardown(with_a_hidden_name, make_root, remove_root),
		cmocka_unit_test_setup_teardown(modes_and_owners, make_root, remove_root),
		cmocka_unit_test_setup_teardown(links, make_root, remove_root),
		cmocka_unit_test_setup_teardown(no_files, make_root, remove_root),
		cmocka_unit_test_setup_teardown(metadata, make_root, remove_root),
	};

	return cmocka_run_group_tests_name("upload", tests, NULL, NULL);
}
