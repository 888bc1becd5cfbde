// SPDX-License-Identifier: Apache-2.0
/* forkd/policy: who may open what, with every way around that we know. */
#include "forkd/access/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "forkd/errors.h"
#include "tests/unit/unit.h"

static char dir[] = "/tmp/forkd-test-policy-XXXXXX";
static struct policy *policy;

static const struct caller trusted = { .local = true, .trusted = true }, stranger = { .local = true, .uid = 12345 };

static void make_file(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	autoclose int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
}

static void make_link(const char *target, const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(symlink(target, path), 0);
}

static void make_socket(const char *name)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "%s/%s", dir, name);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
}

/* To the stranger, where this process may give it. */
static void give(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_true(geteuid() != 0 || lchown(path, stranger.uid, stranger.gid) == 0);
}

static int set_up(void **state)
{
	static const char *const theirs[] = { "root", "root/sub", "root/file", "root/sub/file" };
	char path[256], *roots[] = { path };
	struct err err = {};

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/root", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/root/sub", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/rootless", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	make_file("secret");
	make_file("root/file");
	make_file("root/sub/file");
	make_file("rootless/file");
	make_file("root/kept");
	for (size_t i = 0; i < ARRAY_LEN(theirs); i++)
		give(theirs[i]);
	make_link("/etc/passwd", "root/out");
	make_link("file", "root/in");
	make_link("..", "root/up");
	make_link("sub", "root/dir");
	make_link("/proc/self/root", "root/magic");
	make_link("loop", "root/loop");
	snprintf(path, sizeof(path), "%s/root//", dir); /* slashes at the end do not matter */
	return policy_new(roots, 1, &policy, &err);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int tear_down(void **state)
{
	(void)state;
	policy_free(policy);
	policy_free(NULL);
	return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static const char *try_open(const struct caller *c, const char *name, int flags, struct err *err)
{
	char path[8192];
	int fd = -1;

	snprintf(path, sizeof(path), name[0] == '!' ? "%s%s" : "%s/%s", name[0] == '!' ? "" : dir,
		 name + (name[0] == '!'));
	*err = (struct err){};
	if (policy_open(policy, c, path, flags, &fd, err) < 0) {
		assert_int_equal(fd, -1);
		return error_info(err)->code;
	}
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	return "ok";
}

static void stranger_stays_below(void **state)
{
	static const struct {
		const char *name;
		int flags;
		const char *expected;
	} cases[] = {
		{ "root/file", O_RDONLY, "ok" },
		{ "root/file", O_RDWR, "ok" },
		{ "root//sub///file", O_RDONLY, "ok" },
		{ "root/./sub/./file", O_RDONLY, "ok" },
		{ "root", O_RDONLY | O_DIRECTORY, "ok" },
		{ "root/sub/", O_RDONLY | O_DIRECTORY, "ok" },
		{ "root/new", O_RDWR | O_CREAT, "ok" },
		{ "root/none", O_RDONLY, "invalid_request" },
		{ "root/file/", O_RDONLY, "invalid_request" },
		{ "root/file/x", O_RDONLY, "invalid_request" },
		{ "root/sub/../../secret", O_RDONLY, "invalid_request" },
		{ "root/sub/..", O_RDONLY, "invalid_request" },
		{ "..", O_RDONLY, "invalid_request" },
		{ "secret", O_RDONLY, "path_not_allowed" },
		{ "rootless/file", O_RDONLY, "path_not_allowed" },
		{ "root/out", O_RDONLY, "path_not_allowed" },
		{ "root/in", O_RDONLY, "path_not_allowed" },
		{ "root/up/secret", O_RDONLY, "path_not_allowed" },
		{ "root/dir/file", O_RDONLY, "path_not_allowed" },
		{ "root/magic/etc/passwd", O_RDONLY, "path_not_allowed" },
		{ "!/etc/passwd", O_RDONLY, "path_not_allowed" },
		{ "!/dev/sda", O_RDWR, "path_not_allowed" },
		{ "!/", O_RDONLY, "path_not_allowed" },
		{ "!root/file", O_RDONLY, "invalid_request" },
		{ "!", O_RDONLY, "invalid_request" },
	};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const char *code = try_open(&stranger, cases[i].name, cases[i].flags, &err);
		if (strcmp(code, cases[i].expected) != 0)
			fail_msg("'%s': %s (%s), expected %s", cases[i].name, code, err.msg, cases[i].expected);
	}
}

/* Below a root the rights of the account count, not those of the daemon. */
static void strangers_rights(void **state)
{
	struct err err = {};
	char path[256];
	int fd = -1;

	(void)state;
	if (geteuid() != 0) {
		print_message("SKIPPED strangers_rights: only root can act for another user\n");
		skip();
	}
	assert_string_equal(try_open(&stranger, "root/kept", O_RDONLY, &err), "invalid_request");
	assert_non_null(strstr(err.msg, "Permission denied"));
	snprintf(path, sizeof(path), "%s/root/sub", dir);
	assert_int_equal(policy_open_dir(policy, &stranger, path, &fd, &err), 0);
	close(fd);
	assert_int_equal(chown(path, 0, 0), 0);
	assert_int_equal(chmod(path, 0755), 0); /* it may be read, not written */
	assert_string_equal(try_open(&stranger, "root/sub", O_RDONLY | O_DIRECTORY, &err), "ok");
	err = (struct err){};
	assert_true(policy_open_dir(policy, &stranger, path, &fd, &err) < 0);
	assert_non_null(strstr(err.msg, "Permission denied"));
}

static void trusted_opens_any(void **state)
{
	struct err err;

	(void)state;
	assert_string_equal(try_open(&trusted, "secret", O_RDWR, &err), "ok");
	assert_string_equal(try_open(&trusted, "root/in", O_RDONLY, &err), "ok");
	assert_string_equal(try_open(&trusted, "!/etc/passwd", O_RDONLY, &err), "ok");
	assert_string_equal(try_open(&trusted, "none", O_RDONLY, &err), "invalid_request");
	assert_non_null(strstr(err.msg, "/none'\nNo such file"));
	assert_string_equal(try_open(&trusted, "root/../secret", O_RDONLY, &err), "invalid_request");
	make_link("loop", "loop");
	assert_string_equal(try_open(&trusted, "loop", O_RDONLY, &err), "invalid_request");
	make_socket("socket");
	assert_string_equal(try_open(&trusted, "socket", O_RDONLY, &err), "invalid_request");
	char name[5000] = "!/";
	memset(name + 2, 'x', sizeof(name) - 3);
	assert_string_equal(try_open(&trusted, name, O_RDONLY, &err), "invalid_request");
	assert_string_equal(err.msg, "path of 4998 bytes is too long");
}

static const char *try_source(const struct caller *c, const char *where, const char *name, struct err *err)
{
	char path[256];

	*err = (struct err){};
	snprintf(path, sizeof(path), "%s/%s", dir, where);
	autoclose int dir_fd = policy_open_source_dir(policy, c, path, err);
	if (dir_fd < 0)
		return error_info(err)->code;
	autoclose int fd = policy_open_source(policy, c, dir_fd, name, err);
	if (fd < 0)
		return error_info(err)->code;
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	return "ok";
}

/* Links count by what they lead to, for who has rights here. */
static void sources(void **state)
{
	static const struct caller token = { .uid = UINT32_MAX, .gid = UINT32_MAX };
	static const char ok[] = "ok", no[] = "path_not_allowed", lost[] = "invalid_request",
			  bad[] = "invalid_snapshot";
	static const struct {
		const char *where, *name, *trusted, *stranger, *token;
	} cases[] = {
		{ "root", "file", ok, ok, ok },
		{ "root/sub", "file", ok, ok, ok },
		{ "root/dir", "file", ok, ok, no },
		{ "root", "in", ok, ok, no },
		{ "root", "out", ok, no, no },
		{ "root/up", "secret", ok, no, no },
		{ "root/magic/etc", "passwd", ok, no, no },
		{ "rootless", "file", ok, no, no },
		{ "root", "kept", ok, lost, ok },
		{ "root", "loop", lost, no, no },
		{ "root", "none", bad, bad, bad },
		{ "root", "sub", bad, bad, bad },
		{ "root/file", "x", lost, lost, lost },
		{ "root/none", "x", lost, lost, lost },
		{ "root/../root", "file", lost, lost, lost },
	};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct {
			const struct caller *c;
			const char *expected;
		} who[] = { { &trusted, cases[i].trusted },
			    { &token, cases[i].token },
			    { &stranger, cases[i].stranger } };
		for (size_t k = 0; k < ARRAY_LEN(who) - (geteuid() != 0); k++) {
			const char *code = try_source(who[k].c, cases[i].where, cases[i].name, &err);
			if (strcmp(code, who[k].expected) != 0)
				fail_msg("'%s/%s' of caller %zu: %s (%s), expected %s", cases[i].where, cases[i].name,
					 k, code, err.msg, who[k].expected);
		}
	}
}

static void without_roots(void **state)
{
	struct policy *none = NULL;
	struct err err = {};
	int fd = -1;

	(void)state;
	assert_int_equal(policy_new(NULL, 0, &none, &err), 0);
	assert_true(policy_open(none, &stranger, "/etc/passwd", O_RDONLY, &fd, &err) < 0);
	assert_string_equal(error_info(&err)->code, "path_not_allowed");
	policy_free(none);
}

static void root_of_everything(void **state)
{
	char slash[] = "/", *roots[] = { slash };
	struct policy *all = NULL;
	struct err err = {};
	int fd = -1;

	(void)state;
	assert_int_equal(policy_new(roots, 1, &all, &err), 0);
	assert_int_equal(policy_open(all, &stranger, "/etc/passwd", O_RDONLY, &fd, &err), 0);
	close(fd);
	policy_free(all);
}

static void bad_roots(void **state)
{
	char relative[] = "tmp", missing[] = "/no/such/dir", file[] = "/etc/passwd";
	char *roots[] = { relative, missing, file };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(roots); i++) {
		struct policy *p = NULL;
		struct err err = {};
		assert_true(policy_new(&roots[i], 1, &p, &err) < 0);
		assert_null(p);
		assert_non_null(strstr(err.msg, roots[i]));
	}
}

static void owners(void **state)
{
	(void)state;
	assert_true(caller_from_owner(0, 0).trusted);
	assert_true(caller_from_owner(geteuid(), 7).trusted);
	assert_false(caller_from_owner(geteuid() + 1, 0).trusted);
	assert_int_equal(caller_from_owner(77, 78).gid, 78);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stranger_stays_below),
		cmocka_unit_test(strangers_rights),
		cmocka_unit_test(trusted_opens_any),
		cmocka_unit_test(sources),
		cmocka_unit_test(without_roots),
		cmocka_unit_test(root_of_everything),
		cmocka_unit_test(bad_roots),
		cmocka_unit_test(owners),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
