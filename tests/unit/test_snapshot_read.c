// SPDX-License-Identifier: Apache-2.0
/* vmm/state/snapshot_read: what is missing, broken or of another machine is refused, by name. */
#include "vmm/state/snapshot_read.h"

#include "tests/unit/snapshot_dir.h"

#include <errno.h>
#include <sys/stat.h>

#define STATE                                                                                \
	"{\"snapshots\":{\"memory-manager\":{\"snapshots\":{},\"snapshot_data\":{\"state\":" \
	"\"{\\\"memory_ranges\\\":{\\\"data\\\":[{\\\"gpa\\\":0,\\\"length\\\":262144},"     \
	"{\\\"gpa\\\":4294967296,\\\"length\\\":65536}]}}\"}}},\"snapshot_data\":null}"

static void put_file(const char *name, const char *text)
{
	autoclose int fd = open(in_dir(name), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void put_snapshot(void)
{
	put_file("config.json", "{\"payload\":{\"kernel\":\"/k\"},\"memory\":{\"size\":327680}}");
	put_file("state.json", STATE);
	put_file("memory-ranges", "");
	assert_int_equal(truncate(in_dir("memory-ranges"), LOW_BYTES + HIGH_BYTES), 0);
}

static int make(void **state)
{
	(void)state;
	if (mkdir(dir, 0700) < 0)
		return -1;
	put_snapshot();
	return 0;
}

static int done(void **state)
{
	static const char *const names[] = { "config.json", "state.json", "memory-ranges" };

	(void)state;
	return remove_files(names, ARRAY_LEN(names));
}

static void opens(void **state)
{
	autosnapshot struct snapshot snap = { .mem_fd = -1 };
	struct vm_config config;
	struct gmem mem;
	struct err err = {};

	(void)state;
	assert_int_equal(snapshot_open(&snap, url, &err), 0);
	assert_string_equal(snap.dir, dir);
	assert_int_equal(snap.mem_bytes, LOW_BYTES + HIGH_BYTES);
	vm_config_init(&config);
	assert_int_equal(snapshot_config(&snap, &config, &err), 0);
	assert_int_equal(config.memory.size, LOW_BYTES + HIGH_BYTES);
	vm_config_free(&config);
	gmem_layout(&mem, LOW_BYTES + HIGH_BYTES, LOW_BYTES, HIGH);
	assert_int_equal(snapshot_check_memory(&snap, &mem, &err), 0);
}

static void bad_urls(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad_dirs); i++) {
		autosnapshot struct snapshot snap = { .mem_fd = -1 };
		struct err err = {};
		assert_true(snapshot_open(&snap, bad_dirs[i].url, &err) < 0);
		assert_true(err.num < 0 && strstr(err.msg, bad_dirs[i].msg));
		assert_int_equal(
			strncmp(err.msg, "Cannot restore VM\nFailed to send migratable component snapshot\n", 63), 0);
	}
}

static void broken_directories(void **state)
{
	static const struct {
		const char *name, *text, *msg;
	} cases[] = {
		/* text NULL: removed */
		{ "config.json", NULL, "Error opening VM config snapshot file" },
		{ "state.json", NULL, "Error opening VM state snapshot file" },
		{ "memory-ranges", NULL, "Memory manager error\nError opening snapshot file" },
		{ "config.json", "", "/config.json\"\n" },
		{ "state.json", "{\"a\":1,\"a\":2}", "/state.json\"\n" },
		{ "state.json", "{} x", "/state.json\"\n" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autosnapshot struct snapshot snap = { .mem_fd = -1 };
		struct err err = {};
		put_snapshot();
		if (cases[i].text)
			put_file(cases[i].name, cases[i].text);
		else
			unlink(in_dir(cases[i].name));
		assert_true(snapshot_open(&snap, url, &err) < 0);
		if (!strstr(err.msg, cases[i].msg))
			fail_msg("case %zu: %s", i, err.msg);
	}
}

static void memory_must_fit(void **state)
{
	static const struct {
		uint64_t size, low;
		const char *msg;
	} cases[] = {
		{ LOW_BYTES, LOW_BYTES, "memory-manager has 2 memory ranges, RAM of 262144 bytes has 1" },
		{ LOW_BYTES + HIGH_BYTES, LOW_BYTES + PAGE, "range 0 is 0x0+0x40000, expected 0x0+0x41000" },
		{ LOW_BYTES + 2 * HIGH_BYTES, LOW_BYTES,
		  "range 1 is 0x100000000+0x10000, expected 0x100000000+0x20000" },
	};
	struct gmem mem;
	struct err err = {};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autosnapshot struct snapshot snap = { .mem_fd = -1 };
		assert_int_equal(snapshot_open(&snap, url, &err), 0);
		gmem_layout(&mem, cases[i].size, cases[i].low, HIGH);
		assert_int_equal(snapshot_check_memory(&snap, &mem, &err), -EINVAL);
		if (!strstr(err.msg, cases[i].msg))
			fail_msg("case %zu: %s", i, err.msg);
	}
	for (int more = -1; more <= 1; more += 2) {
		autosnapshot struct snapshot snap = { .mem_fd = -1 };
		assert_int_equal(truncate(in_dir("memory-ranges"), LOW_BYTES + HIGH_BYTES + more), 0);
		assert_int_equal(snapshot_open(&snap, url, &err), 0);
		gmem_layout(&mem, LOW_BYTES + HIGH_BYTES, LOW_BYTES, HIGH);
		assert_int_equal(snapshot_check_memory(&snap, &mem, &err), -EINVAL);
		assert_non_null(strstr(err.msg, "/memory-ranges\" has "));
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(opens),
		T(bad_urls),
		T(broken_directories),
		T(memory_must_fit),
	};

	return cmocka_run_group_tests_name("snapshot_read", tests, make_name, NULL);
}
