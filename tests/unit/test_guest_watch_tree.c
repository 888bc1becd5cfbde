// SPDX-License-Identifier: Apache-2.0
/* guest/files/watch_tree: what is reported of a directory, and of a tree in which directories come, go and move. */
#include "guest/files/watch_tree.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "guest/files/tree.h"
#include "guest/files/upload.h"

static char root[64];

static int make_root(void **state)
{
	(void)state;
	/* thousands of directories are no matter for a tmpfs */
	strcpy(root, access("/dev/shm", W_OK) == 0 ? "/dev/shm/forkd-watch-XXXXXX" : "/tmp/forkd-watch-XXXXXX");
	return mkdtemp(root) ? chdir(root) : -1;
}

static int remove_root(void **state)
{
	struct err err = {};

	(void)state;
	return chdir("/") ?: tree_remove(root, &err);
}

static struct watch_tree *watch(bool recursive)
{
	struct watch_tree *t = NULL;
	struct err err = {};

	if (watch_tree_new(root, recursive, false, &t, &err) < 0)
		fail_msg("%s", err.msg);
	while (watch_tree_grow(t, &err) > 0)
		;
	return t;
}

static void add_event(void *ctx, enum watch_event event, const char *name)
{
	strbuf_printf(ctx, "%c:%s ", "CWRNM"[event], name);
}

/* All that has happened, as "C:name W:name …": create, write, remove, rename (N), chmod (M). */
static void expect(struct watch_tree *t, const char *events)
{
	autostrbuf struct strbuf got = {};
	struct err err = {};
	int r;

	do
		r = watch_tree_read(t, add_event, &got, &err);
	while (r > 0);
	assert_int_equal(r, 0);
	assert_string_equal(got.text ?: "", events);
}

static void touch(const char *name)
{
	autoclose int fd = open(name, O_WRONLY | O_CREAT, 0644);

	assert_true(fd >= 0);
}

static void put(const char *name)
{
	const struct owner_ids me = { geteuid(), getegid() };
	char path[256];
	struct upload up;
	struct err err = {};

	snprintf(path, sizeof(path), "%s/%s", root, name);
	assert_int_equal(upload_begin(&up, path, &me, &err), 0);
	assert_int_equal(upload_write(&up, "abc", 3, &err), 0);
	assert_int_equal(upload_commit(&up, NULL, 0, &err), 0);
	upload_done(&up);
}

static void one_directory(void **state)
{
	unsigned fds = count_fds();
	struct watch_tree *t = watch(false);

	(void)state;
	touch("a");
	expect(t, "C:a ");
	assert_int_equal(truncate("a", 5), 0);
	assert_int_equal(chmod("a", 0600), 0);
	expect(t, "W:a M:a ");
	assert_int_equal(rename("a", "b"), 0);
	expect(t, "N:a C:b ");
	assert_int_equal(unlink("b"), 0);
	expect(t, "R:b ");
	assert_int_equal(mkdir("d", 0755), 0);
	touch("d/inside");
	assert_int_equal(chmod("d", 0700), 0);
	expect(t, "C:d M:d ");
	assert_int_equal(chmod(".", 0700), 0);
	expect(t, "M:. ");
	watch_tree_free(t);
	assert_int_equal(count_fds(), fds);
	watch_tree_free(NULL);
}

/* An upload is seen when it is whole, and neither its hidden name nor what has no name. */
static void uploads(void **state)
{
	struct watch_tree *t = watch(false);
	const struct owner_ids me = { geteuid(), getegid() };
	struct upload up;
	struct err err = {};
	char path[256];

	(void)state;
	put("new");
	expect(t, "C:new M:new W:new ");
	put("new");
	expect(t, "W:new ");
	snprintf(path, sizeof(path), "%s/half", root);
	assert_int_equal(upload_begin(&up, path, &me, &err), 0);
	assert_int_equal(upload_write(&up, "abc", 3, &err), 0);
	assert_int_equal(fchmod(up.fd, 0600), 0);
	upload_done(&up);
	expect(t, "");
	close(creat(UPLOAD_NEW "1", 0600));
	assert_int_equal(chmod(UPLOAD_NEW "1", 0644), 0);
	expect(t, "");
	assert_int_equal(unlink(UPLOAD_NEW "1"), 0);
	/* names that only look like those without a file */
	touch("#12");
	assert_int_equal(chmod("#12", 0600), 0);
	expect(t, "C:#12 M:#12 ");
	watch_tree_free(t);
}

static void below(void **state)
{
	assert_int_equal(mkdir("old", 0755), 0);
	assert_int_equal(mkdir("old/deep", 0755), 0);
	struct watch_tree *t = watch(true);

	(void)state;
	touch("old/deep/a");
	expect(t, "C:old/deep/a ");
	assert_int_equal(mkdir("new", 0755), 0);
	assert_int_equal(mkdir("new/er", 0755), 0);
	touch("new/er/b");
	expect(t, "C:new C:new/er C:new/er/b ");
	touch("new/er/c");
	assert_int_equal(chmod("new/er", 0700), 0);
	expect(t, "C:new/er/c M:new/er ");
	assert_int_equal(unlink("new/er/b"), 0);
	assert_int_equal(unlink("new/er/c"), 0);
	assert_int_equal(rmdir("new/er"), 0);
	expect(t, "R:new/er/b R:new/er/c R:new/er ");
	assert_int_equal(mkdir("new/er", 0755), 0);
	expect(t, "C:new/er ");
	touch("new/er/d");
	expect(t, "C:new/er/d ");
	assert_int_equal(symlink("old", "link"), 0); /* is not followed */
	expect(t, "C:link ");
	touch("link/x");
	expect(t, "C:old/x ");
	watch_tree_free(t);
}

static void moves(void **state)
{
	char outside[80], path[128], there[96];
	struct err err = {};

	(void)state;
	snprintf(outside, sizeof(outside), "%s.out", root);
	assert_int_equal(mkdir(outside, 0755), 0);
	snprintf(there, sizeof(there), "%s/there", outside);
	assert_int_equal(mkdir("a", 0755), 0);
	assert_int_equal(mkdir("a/b", 0755), 0);
	assert_int_equal(mkdir("c", 0755), 0);
	struct watch_tree *t = watch(true);
	/* inside of the tree: what happens below the new name at once is not lost */
	assert_int_equal(rename("a", "c/z"), 0);
	touch("c/z/b/f");
	expect(t, "N:a C:c/z C:c/z/b/f ");
	/* out of it */
	assert_int_equal(rename("c/z", there), 0);
	expect(t, "N:c/z ");
	snprintf(path, sizeof(path), "%s/b/g", there);
	touch(path);
	expect(t, "");
	/* back into it: what it has is no news */
	assert_int_equal(rename(there, "y"), 0);
	expect(t, "C:y ");
	touch("y/b/h");
	expect(t, "C:y/b/h ");
	/* two at once, the first of which has left */
	assert_int_equal(rename("y", there), 0);
	assert_int_equal(rename("c", "d"), 0);
	touch("d/i");
	expect(t, "N:y N:c C:d C:d/i ");
	/* the directory itself */
	snprintf(path, sizeof(path), "%s/moved", outside);
	assert_int_equal(rename(root, path), 0);
	expect(t, "N:. ");
	assert_int_equal(chdir("/"), 0); /* a directory with somebody in it is not gone */
	assert_int_equal(tree_remove(path, &err), 0);
	expect(t, "R:d/i R:d R:. ");
	expect(t, "");
	watch_tree_free(t);
	assert_int_equal(tree_remove(outside, &err), 0);
	assert_int_equal(mkdir(root, 0755), 0);
}

static void make_dirs(const char *name, unsigned n)
{
	char path[64];

	assert_int_equal(mkdir(name, 0755), 0);
	for (unsigned i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%u", name, i);
		assert_int_equal(mkdir(path, 0755), 0);
	}
}

static void many_at_once(void **state)
{
	struct watch_tree *t = watch(true);
	autostrbuf struct strbuf got = {};
	struct err err = {};
	unsigned more = 0, n = 0;
	int r;

	(void)state;
	make_dirs("w", 2000);
	touch("w/1999/f");
	do {
		r = watch_tree_read(t, add_event, &got, &err);
		assert_true(r >= 0);
		more++;
	} while (r > 0);
	assert_true(more >= 2000 * 9 / WATCH_TURN);
	for (const char *p = got.text; (p = strstr(p, "C:w/")); p++)
		n++;
	assert_int_equal(n, 2001);
	assert_non_null(strstr(got.text, "C:w/1999/f "));
	touch("w/1999/g");
	expect(t, "C:w/1999/g ");
	watch_tree_free(t);
}

static void lost_events(void **state)
{
	struct watch_tree *t = watch(false);
	struct err err = {};
	autostrbuf struct strbuf got = {};
	unsigned max = 0;
	int r;

	(void)state;
	FILE *f = fopen("/proc/sys/fs/inotify/max_queued_events", "re");
	if (!f || fscanf(f, "%u", &max) != 1 || max > 1 << 20) {
		print_message("SKIPPED lost events: the queue's length is not known, or huge\n");
		skip();
	}
	fclose(f);
	touch("a");
	touch("b");
	for (unsigned i = 0; i < max; i++) /* the same event twice in a row counts once */
		assert_int_equal(chmod(i % 2 ? "a" : "b", 0600), 0);
	do
		r = watch_tree_read(t, add_event, &got, &err);
	while (r > 0);
	assert_int_equal(r, -EBUSY);
	assert_string_equal(err.msg, "changes were lost: more of them than fs.inotify.max_queued_events");
	watch_tree_free(t);
}

static void refuses(void **state)
{
	struct watch_tree *t = NULL;
	struct err err = {};
	char path[128];

	(void)state;
	unsigned fds = count_fds();
	snprintf(path, sizeof(path), "%s/none", root);
	assert_int_equal(watch_tree_new(path, true, false, &t, &err), -ENOENT);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	touch("none");
	assert_int_equal(watch_tree_new(path, true, false, &t, &err), -ENOTDIR);
	assert_int_equal(err.code, ERR_INVALID);
	assert_null(t);
	assert_int_equal(count_fds(), fds);
}

static int grow(struct watch_tree *t, struct err *err)
{
	int r;

	do
		r = watch_tree_grow(t, err);
	while (r > 0);
	return r;
}

/* 10,000 directories can be watched, and more than WATCH_DIRS_MAX cannot; all of them are given back. */
static void bound(void **state)
{
	struct watch_tree *trees[8] = {};
	struct err err = {};
	unsigned n = 0;
	int r = 0;

	(void)state;
	for (unsigned i = 0; i < 100; i++)
		make_dirs((char[]){ (char)('a' + i / 10), (char)('0' + i % 10), '\0' }, 99);
	for (int round = 0; round < 2; round++) {
		for (n = 0; n < ARRAY_LEN(trees) && r == 0; n++)
			r = watch_tree_new(root, true, false, &trees[n], &err) ?: grow(trees[n], &err);
		assert_int_equal(r < 0 ? err.code : ERR_NONE, ERR_BUSY);
		if (!strstr(err.msg, "fs.inotify.max_user_watches"))
			assert_int_equal(n - 1, WATCH_DIRS_MAX / 10001);
		for (unsigned i = 0; i < ARRAY_LEN(trees); i++)
			watch_tree_free(steal_ptr(&trees[i]));
		r = 0;
	}
	assert_true(n > 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_directory, make_root, remove_root),
		cmocka_unit_test_setup_teardown(uploads, make_root, remove_root),
		cmocka_unit_test_setup_teardown(below, make_root, remove_root),
		cmocka_unit_test_setup_teardown(moves, make_root, remove_root),
		cmocka_unit_test_setup_teardown(many_at_once, make_root, remove_root),
		cmocka_unit_test_setup_teardown(lost_events, make_root, remove_root),
		cmocka_unit_test_setup_teardown(refuses, make_root, remove_root),
		cmocka_unit_test_setup_teardown(bound, make_root, remove_root),
	};

	return cmocka_run_group_tests_name("watch_tree", tests, NULL, NULL);
}
