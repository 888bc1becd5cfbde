// SPDX-License-Identifier: Apache-2.0
/* store: what staged_import() and staged_seal() take, refuse and copy; full disks; damage that store_verify() finds. */
#include "store/store.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "tests/unit/test_store_util.h"

enum { NOBODY = 65534 };

static struct store *store;

static int begin(void **state)
{
	struct err err = {};

	(void)state;
	put_snapshot(snapshot);
	return store_open(root, &store, &err);
}

static int end(void **state)
{
	(void)state;
	store_close(store);
	remove_path(root);
	remove_path(snapshot);
	return 0;
}

static void refuse_import(enum err_code code, const char *message)
{
	struct staged *staged = NULL;
	struct err err = {};
	unsigned before = count_fds();

	assert_err(import(store, snapshot, &staged, &err), err, code, message);
	assert_non_null(strstr(err.msg, snapshot));
	staged_discard(staged);
	assert_int_equal(count_entries(path_of(root, "staging")), 0);
	assert_int_equal(count_fds(), before);
}

static void copies_data_and_holes(void **state)
{
	struct err err = {};
	struct manifest m;
	struct stat st;
	char command[3 * PATH_BYTES];

	(void)state;
	assert_ok(publish(store, "a", &err), err);
	for (unsigned i = 0; i < 3; i++) {
		static const char *const files[] = { "config.json", "memory-ranges", "state.json" };
		snprintf(command, sizeof(command), "cmp '%s' '%s'", path_of(snapshot, files[i]),
			 template_file("a", files[i]));
		assert_int_equal(run(command), 0);
	}
	assert_int_equal(stat(template_file("a", "memory-ranges"), &st), 0);
	assert_true(st.st_blocks * 512 <= 4 * PAGE);
	assert_ok(store_manifest(store, "a", &m, &err), err);
	assert_int_equal(m.files[STORE_MEMORY].allocated_bytes, 3 * PAGE);
	assert_int_equal(m.files[STORE_CONFIG].allocated_bytes, strlen("{\"memory\":1}"));
	fields_free(manifest_fields, &m);
	assert_ok(store_verify(store, "a", &err), err);
}

/* The same digests whether zeros are holes or written, and as sha256sum has them. */
static void digests_are_those_of_the_bytes(void **state)
{
	struct err err = {};
	struct manifest m;
	char command[3 * PATH_BYTES], hex[65] = "";
	struct stat st;

	(void)state;
	/* 3 chunks: a hole, data that is zeros, and a shorter one that is a hole */
	unlink(path_of(snapshot, "memory-ranges"));
	put_file(path_of(snapshot, "memory-ranges"), "");
	assert_int_equal(truncate(path_of(snapshot, "memory-ranges"), MEM_BYTES), 0);
	void *zeros = calloc(1, STORE_CHUNK_BYTES);
	put_bytes(path_of(snapshot, "memory-ranges"), STORE_CHUNK_BYTES, zeros, STORE_CHUNK_BYTES);
	free(zeros);
	assert_ok(publish(store, "a", &err), err);
	assert_int_equal(stat(template_file("a", "memory-ranges"), &st), 0);
	assert_int_equal(st.st_size, MEM_BYTES);
	assert_int_equal(st.st_blocks, 0);
	assert_ok(store_manifest(store, "a", &m, &err), err);
	for (unsigned i = 0; i < 3; i++) {
		snprintf(command, sizeof(command), "tail -c +%u '%s' | head -c %u | sha256sum",
			 i * (unsigned)STORE_CHUNK_BYTES + 1, path_of(snapshot, "memory-ranges"),
			 (unsigned)STORE_CHUNK_BYTES);
		FILE *p = popen(command, "r"); /* NOLINT(cert-env33-c): our own words */
		assert_non_null(p);
		assert_int_equal(fread(hex, 1, 64, p), 64);
		pclose(p);
		assert_string_equal(m.files[STORE_MEMORY].sha256[i], hex);
	}
	assert_int_equal(m.files[STORE_MEMORY].allocated_bytes, 0);
	fields_free(manifest_fields, &m);
	assert_ok(store_verify(store, "a", &err), err);
}

static void refuses_bad_files(void **state)
{
	static const char *const files[] = { "config.json", "memory-ranges", "state.json" };
	char message[128];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		const char *path = path_of(snapshot, files[i]);
		assert_int_equal(rename(path, path_of(scratch, "aside")), 0);
		path = path_of(snapshot, files[i]);
		snprintf(message, sizeof(message), "%s is not a regular file", files[i]);
		assert_int_equal(mkfifo(path, 0600), 0);
		refuse_import(ERR_INVALID, message);
		path = path_of(snapshot, files[i]);
		unlink(path);
		assert_int_equal(mkdir(path, 0700), 0);
		refuse_import(ERR_INVALID, message);
		path = path_of(snapshot, files[i]);
		rmdir(path);
		put_file(path, "");
		snprintf(message, sizeof(message), "%s is empty", files[i]);
		refuse_import(ERR_INVALID, message);
		assert_int_equal(rename(path_of(scratch, "aside"), path_of(snapshot, files[i])), 0);
	}
	assert_int_equal(truncate(path_of(snapshot, "memory-ranges"), MEM_BYTES - 1), 0);
	refuse_import(ERR_INVALID, "memory-ranges has 4206591 bytes, not a multiple of 4096");
	assert_int_equal(truncate(path_of(snapshot, "memory-ranges"), 2LL << 40), 0);
	refuse_import(ERR_INVALID, "memory-ranges has 2199023255552 bytes, at most 1099511627776");
	assert_int_equal(truncate(path_of(snapshot, "memory-ranges"), MEM_BYTES), 0);
	assert_int_equal(truncate(path_of(snapshot, "state.json"), 300 << 20), 0);
	refuse_import(ERR_INVALID, "state.json has 314572800 bytes");
}

/* ---- a source that changes ---- */

static atomic_bool stop;

static void *append_all_the_time(void *arg)
{
	autoclose int fd = open(path_of(snapshot, arg), O_WRONLY | O_APPEND | O_CLOEXEC);

	while (!stop)
		if (write(fd, " ", 1) != 1)
			break;
	return NULL;
}

static void *touch_all_the_time(void *arg)
{
	for (unsigned i = 0; !stop; i++) {
		const struct timeval times[2] = { { .tv_sec = i }, { .tv_sec = i } };
		utimes(path_of(snapshot, arg), times);
	}
	return NULL;
}

static void *replace_all_the_time(void *arg)
{
	while (!stop) {
		put_file(path_of(scratch, "new"), "{}");
		rename(path_of(scratch, "new"), path_of(snapshot, arg));
	}
	return NULL;
}

static void *cut_all_the_time(void *arg)
{
	while (!stop)
		if (truncate(path_of(snapshot, arg), PAGE) < 0 || truncate(path_of(snapshot, arg), MEM_BYTES) < 0)
			break;
	return NULL;
}

/* So much data that the other thread has its turn. */
static void put_big_memory(void)
{
	enum { BIG = 48 << 20 };
	char *data = malloc(BIG);

	memset(data, 'x', BIG);
	put_bytes(path_of(snapshot, "memory-ranges"), 0, data, BIG);
	free(data);
}

static void refuses_a_source_that_changes(void **state)
{
	static const struct {
		void *(*run)(void *);
		const char *file, *message;
	} cases[] = {
		{ append_all_the_time, "state.json", "state.json changed while it was read" },
		{ touch_all_the_time, "config.json", "config.json changed while it was read" },
		{ touch_all_the_time, "memory-ranges", "memory-ranges changed while it was read" },
		{ replace_all_the_time, "config.json", "config.json changed while it was read" },
		{ cut_all_the_time, "memory-ranges", "memory-ranges " },
	};

	(void)state;
	put_big_memory();
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		pthread_t thread;
		char file[32];
		snprintf(file, sizeof(file), "%s", cases[i].file);
		stop = false;
		assert_int_equal(pthread_create(&thread, NULL, cases[i].run, file), 0);
		struct staged *staged = NULL;
		struct err err = {};
		int r = 0;
		for (unsigned k = 0; k < 20 && r == 0; k++) { /* the other thread may be late */
			staged_discard(staged);
			staged = NULL;
			r = import(store, snapshot, &staged, &err);
		}
		stop = true;
		pthread_join(thread, NULL);
		staged_discard(staged);
		assert_true(r < 0);
		assert_int_equal(err.code, ERR_CONFLICT);
		if (!strstr(err.msg, cases[i].message))
			fail_msg("'%s' instead of '%s'", err.msg, cases[i].message);
		assert_int_equal(count_entries(path_of(root, "staging")), 0);
	}
}

/* ---- a snapshot that a VM process wrote ---- */

static struct staged *stage_by_hand(void)
{
	struct staged *staged = NULL;
	struct err err = {};

	assert_ok(store_stage(store, &staged, &err), err);
	assert_true(fcntl(staged_dir(staged), F_GETFD) & FD_CLOEXEC);
	put_snapshot(staged_path(staged));
	return staged;
}

static void seals_what_was_written_in_place(void **state)
{
	struct staged *staged = stage_by_hand();
	struct err err = {};
	struct stat st;

	(void)state;
	if (geteuid() == 0)
		assert_int_equal(chown(path_of(staged_path(staged), "state.json"), NOBODY, NOBODY), 0);
	assert_ok(seal(staged, "vm", &err), err);
	assert_ok(staged_publish(&staged, "vm", &err), err);
	assert_ok(store_verify(store, "vm", &err), err);
	assert_int_equal(stat(template_file("vm", "state.json"), &st), 0);
	assert_int_equal(st.st_uid, geteuid());
	assert_int_equal(st.st_mode & 07777, 0400);
}

static void refuse_seal(struct staged *staged, enum err_code code, const char *message)
{
	struct err err = {};

	assert_err(seal(staged, "vm", &err), err, code, message);
	assert_err(staged_publish(&staged, "vm", &err), err, ERR_INTERNAL, "not sealed");
	staged_discard(staged);
	assert_int_equal(count_entries(path_of(root, "staging")), 0);
	assert_int_equal(count_entries(path_of(root, "templates")), 0);
}

static void refuses_to_seal(void **state)
{
	(void)state;
	struct staged *staged = stage_by_hand();
	unlink(path_of(staged_path(staged), "state.json"));
	refuse_seal(staged, ERR_INVALID, "state.json is missing");

	staged = stage_by_hand();
	unlink(path_of(staged_path(staged), "state.json"));
	assert_int_equal(symlink("/etc/passwd", path_of(staged_path(staged), "state.json")), 0);
	refuse_seal(staged, ERR_INVALID, "state.json is a symlink");

	staged = stage_by_hand();
	assert_int_equal(link(path_of(staged_path(staged), "state.json"), path_of(scratch, "other-name")), 0);
	refuse_seal(staged, ERR_INVALID, "state.json has 2 names");
	unlink(path_of(scratch, "other-name"));

	staged = stage_by_hand();
	autoclose int writer = open(path_of(staged_path(staged), "memory-ranges"), O_RDWR | O_CLOEXEC);
	assert_true(writer >= 0);
	refuse_seal(staged, ERR_CONFLICT, "memory-ranges is still open for writing");
}

/* ---- damage ---- */

static void flip_bit(const char *path, off_t at)
{
	autoclose int fd = open(path, O_RDWR | O_CLOEXEC);
	char byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static void verify_finds_flipped_bits(void **state)
{
	static const struct {
		const char *file, *message;
		off_t at;
	} cases[] = {
		{ "config.json", "config.json: chunk 0 (from byte 0) has SHA-256", 3 },
		{ "state.json", "state.json: chunk 0", 0 },
		{ "memory-ranges", "memory-ranges: chunk 0", 17 },
		{ "memory-ranges", "memory-ranges: chunk 0", STORE_CHUNK_BYTES - 1 }, /* in a hole */
		{ "memory-ranges", "memory-ranges: chunk 1 (from byte 2097152)", STORE_CHUNK_BYTES },
		{ "memory-ranges", "memory-ranges: chunk 2 (from byte 4194304)", MEM_BYTES - 1 },
	};
	struct err err = {};
	int fd;

	(void)state;
	if (geteuid() != 0)
		skip();
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		assert_ok(publish(store, "a", &err), err);
		flip_bit(template_file("a", cases[i].file), cases[i].at);
		assert_err(store_verify(store, "a", &err), err, ERR_INTERNAL, cases[i].message);
		assert_err(store_acquire(store, "a", &fd, &err), err, ERR_INTERNAL, "changed since it was sealed");
		assert_ok(store_delete(store, "a", &err), err);
	}
	assert_ok(publish(store, "a", &err), err);
	flip_bit(template_file("a", "memory-ranges"), MEM_BYTES - 1);
	flip_bit(template_file("a", "memory-ranges"), STORE_CHUNK_BYTES);
	assert_err(store_verify(store, "a", &err), err, ERR_INTERNAL, "chunk 1 "); /* the first one */
	assert_ok(store_delete(store, "a", &err), err);
}

static void change_length(const char *path)
{
	assert_int_equal(truncate(path, MEM_BYTES - PAGE), 0);
}

static void change_nothing_but_times(const char *path)
{
	const struct timeval times[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };

	assert_int_equal(utimes(path, times), 0);
}

static void change_mode(const char *path)
{
	assert_int_equal(chmod(path, 0600), 0);
}

static void change_inode(const char *path)
{
	char command[2 * PATH_BYTES + 64];

	snprintf(command, sizeof(command), "cp -p '%s' '%s.new' && mv -f '%s.new' '%s'", path, path, path, path);
	assert_int_equal(run(command), 0);
}

static void change_to_symlink(const char *path)
{
	char target[PATH_BYTES + 8];

	snprintf(target, sizeof(target), "%s.real", path);
	assert_int_equal(rename(path, target), 0);
	assert_int_equal(symlink(target, path), 0);
}

static void acquire_finds_changes(void **state)
{
	static const struct {
		void (*change)(const char *path);
		const char *message;
		bool verifies;
	} cases[] = {
		{ change_length, "it has length 4202496, not 4206592", false },
		{ change_nothing_but_times, "it has mtime 1000000000, not", true },
		{ change_mode, "it has ctime", true },
		{ change_inode, "it is inode", true },
		{ change_to_symlink, "memory-ranges is not a regular file", false },
	};
	struct err err = {};
	int fd = -1;

	(void)state;
	if (geteuid() != 0)
		skip();
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		assert_ok(publish(store, "a", &err), err);
		cases[i].change(template_file("a", "memory-ranges"));
		assert_err(store_acquire(store, "a", &fd, &err), err, ERR_INTERNAL, cases[i].message);
		assert_int_equal(store_verify(store, "a", &err) == 0, cases[i].verifies);
		assert_ok(store_delete(store, "a", &err), err); /* no reference was left */
	}
}

/* ---- other file systems, other users ---- */

static char mounted[80];

static bool mount_small(void)
{
	snprintf(mounted, sizeof(mounted), "%s/small", scratch);
	mkdir(mounted, 0700);
	if (geteuid() == 0 && mount("tmpfs", mounted, "tmpfs", 0, "size=1m") == 0)
		return true;
	print_message("SKIPPED: no small tmpfs can be mounted here (%s): a full disk was NOT tested\n",
		      strerror(errno));
	return false;
}

static uint64_t free_bytes(const char *path)
{
	struct statvfs v;

	assert_int_equal(statvfs(path, &v), 0);
	return v.f_bfree * v.f_bsize;
}

static void reports_a_full_disk(void **state)
{
	struct store *small = NULL;
	struct staged *staged = NULL;
	struct err err = {};

	(void)state;
	if (!mount_small())
		skip();
	put_big_memory();
	assert_ok(store_open(mounted, &small, &err), err);
	uint64_t before = free_bytes(mounted);
	assert_err(import(small, snapshot, &staged, &err), err, ERR_INTERNAL, "write memory-ranges at byte ");
	assert_non_null(strstr(err.msg, "No space left on device"));
	assert_int_equal(err.num, -ENOSPC);
	staged_discard(staged);
	assert_int_equal(count_entries(path_of(mounted, "staging")), 0);
	assert_int_equal(free_bytes(mounted), before);
	put_snapshot(snapshot);
	assert_ok(publish(small, "fits", &err), err);
	assert_ok(store_verify(small, "fits", &err), err);
	store_close(small);
	assert_int_equal(umount(mounted), 0);
}

static void *run_import(void *arg)
{
	struct err *err = arg;

	publish(store, "slow", err) == 0 ? (void)0 : abort();
	return NULL;
}

/* An import of much data does not hold up the others. */
static void lists_while_importing(void **state)
{
	struct err err = {}, import_err = {};
	struct timespec t0, t1;
	pthread_t thread;

	(void)state;
	put_big_memory();
	assert_int_equal(pthread_create(&thread, NULL, run_import, &import_err), 0);
	while (count_entries(path_of(root, "staging")) == 0)
		usleep(100);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	assert_string_equal(names_text(store), "");
	assert_err(store_delete(store, "none", &err), err, ERR_NOT_FOUND, "none");
	clock_gettime(CLOCK_MONOTONIC, &t1);
	bool importing = count_entries(path_of(root, "staging")) == 1;
	pthread_join(thread, NULL);
	assert_true(importing);
	assert_string_equal(names_text(store), "slow");
}

#define XFS "truncate -s 320M '%s/xfs.img' && mkfs.xfs -q '%s/xfs.img' && mount -o loop '%s/xfs.img' '%s/xfs'"

/* On a file system with reflinks nothing is copied. */
static void shares_blocks_where_it_can(void **state)
{
	struct store *s = NULL;
	struct err err = {};
	char command[1024], xfs[96], xfs_snapshot[128];

	(void)state;
	snprintf(xfs, sizeof(xfs), "%s/xfs", scratch);
	snprintf(xfs_snapshot, sizeof(xfs_snapshot), "%s/snapshot", xfs);
	mkdir(xfs, 0700);
	snprintf(command, sizeof(command), "{ " XFS "; } >/dev/null 2>&1", scratch, scratch, scratch, scratch);
	if (geteuid() != 0 || run(command) != 0) {
		print_message("SKIPPED: no XFS can be made and mounted here: reflinks were NOT tested\n");
		skip();
	}
	put_big_memory();
	snprintf(command, sizeof(command), "cp -r '%s' '%s' && sync -f '%s'", snapshot, xfs_snapshot, xfs);
	assert_int_equal(run(command), 0);
	assert_ok(store_open(path_of(xfs, "store"), &s, &err), err);
	uint64_t before = free_bytes(xfs);
	struct staged *staged = NULL;
	assert_ok(import(s, xfs_snapshot, &staged, &err), err);
	assert_ok(seal(staged, "shared", &err), err);
	assert_ok(staged_publish(&staged, "shared", &err), err);
	assert_true(before - free_bytes(xfs) < 1 << 20);
	assert_ok(store_verify(s, "shared", &err), err);
	store_close(s);
	assert_int_equal(umount(xfs), 0);
}

static int work_as_nobody(void)
{
	struct store *s = NULL;
	struct err err = {};
	int fd = -1;

	if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return 2;
	if (mkdir(path_of(root, "trash/left"), 0700) < 0 || mkdir(path_of(root, "trash/left/deep"), 0700) < 0 ||
	    chmod(path_of(root, "trash/left"), 0500) < 0)
		return 5;
	if (store_open(root, &s, &err) < 0 || publish(s, "a", &err) < 0 || store_acquire(s, "a", &fd, &err) < 0) {
		fprintf(stderr, "%s\n", err.msg);
		return 3;
	}
	store_release(s, "a");
	if (store_verify(s, "a", &err) < 0 || store_delete(s, "a", &err) < 0 || publish(s, "b", &err) < 0) {
		fprintf(stderr, "%s\n", err.msg);
		return 4;
	}
	return count_entries(path_of(root, "trash")) + count_entries(path_of(root, "staging"));
}

/* Root may do with read-only directories what others may not. */
static void needs_no_privilege(void **state)
{
	char command[512];
	int status;

	(void)state;
	if (geteuid() != 0)
		skip();
	store_close(store);
	store = NULL;
	snprintf(command, sizeof(command), "chmod 755 '%s' && chown -R %d '%s' '%s'", scratch, NOBODY, root, snapshot);
	assert_int_equal(run(command), 0);
	pid_t pid = fork();
	if (pid == 0)
		_exit(work_as_nobody());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	store = open_store();
	assert_string_equal(names_text(store), "b");
}

static int unmount_all(void **state)
{
	(void)state;
	umount2(path_of(scratch, "small"), MNT_DETACH);
	umount2(path_of(scratch, "xfs"), MNT_DETACH);
	return remove_scratch(state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(copies_data_and_holes),         TEST(digests_are_those_of_the_bytes),  TEST(refuses_bad_files),
		TEST(refuses_a_source_that_changes), TEST(seals_what_was_written_in_place), TEST(refuses_to_seal),
		TEST(verify_finds_flipped_bits),     TEST(acquire_finds_changes),           TEST(reports_a_full_disk),
		TEST(lists_while_importing),         TEST(shares_blocks_where_it_can),      TEST(needs_no_privilege),
	};

	return cmocka_run_group_tests(tests, make_scratch, unmount_all);
}
