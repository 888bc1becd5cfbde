// SPDX-License-Identifier: Apache-2.0
/* Limits of control groups, read from a tree of files that looks like one. */
#include "forkd/access/cgroup.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/unit.h"

#define MIB (1ULL << 20)

static char root[64];

static void put(const char *name, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void make(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	assert_int_equal(mkdir(path, 0700), 0);
}

static void look(const char *self, struct cgroup_room *ret)
{
	char path[256];

	put("self", self);
	snprintf(path, sizeof(path), "%s/self", root);
	cgroup_read(root, path, ret);
}

static int set_up(void **state)
{
	(void)state;
	snprintf(root, sizeof(root), "/tmp/test_cgroup.XXXXXX");
	if (!mkdtemp(root))
		return -1;
	make("a");
	make("a/b");
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", root);
	return system(command); /* NOLINT(cert-env33-c): our own words */
}

static void no_limit(void **state)
{
	struct cgroup_room room;

	(void)state;
	look("4:memory:/x\n0::/\n", &room);
	assert_true(room.bytes == UINT64_MAX && room.pids_max == UINT64_MAX);
	look("4:memory:/x\n", &room);
	assert_true(room.bytes == UINT64_MAX && room.pids_max == UINT64_MAX);
	put("a/memory.max", "max\n");
	put("a/pids.max", "max\n");
	look("0::/a/b\n", &room);
	assert_true(room.bytes == UINT64_MAX && room.pids_max == UINT64_MAX);
}

static void the_tightest_counts(void **state)
{
	struct cgroup_room room;

	(void)state;
	put("a/memory.max", "1073741824\n");
	put("a/memory.current", "1048576000\n"); /* 24 MiB left, 100 MiB can go */
	put("a/memory.stat", "anon 1\ninactive_file 104857600\nactive_file 7\n");
	put("a/b/memory.max", "209715200\n");
	put("a/b/memory.current", "10485760\n"); /* 190 MiB left */
	put("a/b/pids.max", "1000\n");
	put("a/b/pids.current", "10\n");
	put("a/pids.max", "2000\n");
	put("a/pids.current", "1900\n");
	look("1:cpu:/z\n0::/a/b\n", &room);
	assert_int_equal(room.bytes, 124 * MIB);
	assert_int_equal(room.pids_now, 1900);
	assert_int_equal(room.pids_max, 2000);
	look("0::/a\n", &room);
	assert_int_equal(room.bytes, 124 * MIB);
	put("a/memory.current", "2147483648\n"); /* over it already */
	look("0::/a/b\n", &room);
	assert_int_equal(room.bytes, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(no_limit, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_tightest_counts, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
