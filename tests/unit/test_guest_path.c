// SPDX-License-Identifier: Apache-2.0
/* guest/files/path: paths of clients, made absolute; directories that are made on the way. */
#include "guest/files/path.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "guest/files/tree.h"

static void resolves(void **state)
{
	static const struct {
		const char *path, *is;
	} cases[] = {
		{ "/", "/" },
		{ "", "/home/user" },
		{ ".", "/home/user" },
		{ "~", "/home/user" },
		{ "~/", "/home/user" },
		{ "~//a", "/home/user/a" },
		{ "a/b", "/home/user/a/b" },
		{ "./a/./b/", "/home/user/a/b" },
		{ "../x", "/home/x" },
		{ "../../../../x", "/x" },
		{ "~/..", "/home" },
		{ "/a//b///c/", "/a/b/c" },
		{ "/a/../b", "/b" },
		{ "/..", "/" },
		{ "/../../a", "/a" },
		{ "/a/b/../../..", "/" },
		{ "/...", "/..." },
		{ "/..a/.b/a..", "/..a/.b/a.." },
		{ "a~", "/home/user/a~" },
		{ "/~", "/~" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autofree char *is = NULL, *path = exact_copy(cases[i].path, strlen(cases[i].path) + 1);
		struct err err = {};
		assert_int_equal(path_resolve(path, "/home/user", &is, &err), 0);
		assert_string_equal(is, cases[i].is);
	}
	autofree char *is = NULL;
	struct err err = {};
	assert_int_equal(path_resolve("a", "/", &is, &err), 0);
	assert_string_equal(is, "/a");
	assert_string_equal(path_name("/"), "/");
	assert_string_equal(path_name("/a"), "a");
	assert_string_equal(path_name("/a/bc"), "bc");
}

static void refuses(void **state)
{
	char path[PATH_BYTES_MAX + 2], *is = NULL;
	struct err err = {};

	(void)state;
	assert_int_equal(path_resolve("~root/x", "/h", &is, &err), -EINVAL);
	assert_string_equal(err.msg, "path '~root/x': the home of another user cannot be named");
	memset(path, 'a', sizeof(path) - 1);
	path[0] = '/';
	path[PATH_BYTES_MAX + 1] = '\0';
	assert_int_equal(path_resolve(path, "/h", &is, &err), -EINVAL);
	assert_string_equal(err.msg, "path: 4096 bytes, at most 4095");
	path[0] = 'a';
	path[PATH_BYTES_MAX] = '\0';
	assert_int_equal(path_resolve(path, "/h", &is, &err), -EINVAL);
	assert_string_equal(err.msg, "path: 4098 bytes in all, at most 4095");
	assert_null(is);
	path[0] = '/';
	assert_int_equal(path_resolve(path, "/h", &is, &err), 0);
	free(is);
}

static void directories(void **state)
{
	char root[] = "/tmp/forkd-path-XXXXXX", path[128], link[128];
	const struct owner_ids owner = { 1234, 2345 };
	autofree char *name = NULL;
	struct err err = {};
	struct stat st;

	(void)state;
	if (geteuid() != 0) {
		print_message("SKIPPED directories of another owner: needs root\n");
		skip();
	}
	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof(path), "%s/a/b/file", root);
	assert_int_equal(path_open_parent(AT_FDCWD, path, NULL, &name, &err), -ENOENT);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	int fd = path_open_parent(AT_FDCWD, path, &owner, &name, &err);
	assert_true(fd >= 0);
	assert_string_equal(name, "file");
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_uid, 1234);
	assert_int_equal(st.st_gid, 2345);
	assert_int_equal(st.st_mode, S_IFDIR | 0755);
	assert_int_equal(mknodat(fd, "file", S_IFREG | 0644, 0), 0);
	snprintf(link, sizeof(link), "%s/link", root);
	assert_int_equal(symlink("a", link), 0);
	close(fd);
	snprintf(path, sizeof(path), "%s/link/b", root);
	fd = path_open_dir(path, NULL, &err);
	assert_int_equal(faccessat(fd, "file", F_OK, 0), 0);
	close(fd);
	snprintf(path, sizeof(path), "%s/a/b/file/x/y", root);
	assert_int_equal(path_open_dir(path, &owner, &err), -ENOTDIR);
	assert_int_equal(err.code, ERR_INVALID);
	assert_int_equal(lstat(root, &st), 0);
	assert_int_equal(st.st_uid, 0); /* was there before */
	assert_int_equal(tree_remove(root, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(resolves),
		cmocka_unit_test(refuses),
		cmocka_unit_test(directories),
	};

	return cmocka_run_group_tests_name("path", tests, NULL, NULL);
}
