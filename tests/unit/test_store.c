// SPDX-License-Identifier: Apache-2.0
/* store: layout, lock, format, leftovers of a crash, names, references, removal, damaged manifests, many threads. */
#include "store/store.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "tests/unit/odd_fs.h"
#include "tests/unit/test_store_util.h"

static int drop_root(void **state)
{
	(void)state;
	memset(&odd_fs, 0, sizeof(odd_fs));
	remove_path(root);
	return 0;
}

static void checks_names(void **state)
{
	static const char *const good[] = { "a", "7", "Ubuntu-24.04_x", "a..b" };
	static const char *const bad[] = { "",    ".",  "..",  ".a",  "-a",       "_a",
					   "a/b", "/a", "a b", "a\n", "\xc3\xa4", "\xff" };
	char long_name[302];
	struct err err = {};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(good); i++)
		assert_ok(store_check_name(good[i], &err), err);
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
		assert_err(store_check_name(bad[i], &err), err, ERR_INVALID, "template name");
	memset(long_name, 'x', sizeof(long_name));
	long_name[300] = '\0';
	assert_err(store_check_name(long_name, &err), err, ERR_INVALID, "more than 64 bytes");
	long_name[65] = '\0';
	assert_err(store_check_name(long_name, &err), err, ERR_INVALID, "more than 64 bytes");
	long_name[64] = '\0';
	assert_ok(store_check_name(long_name, &err), err);

	struct store *s = open_store();
	struct manifest m;
	int fd;
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		assert_err(store_manifest(s, bad[i], &m, &err), err, ERR_INVALID, "template name");
		assert_err(store_acquire(s, bad[i], &fd, &err), err, ERR_INVALID, "template name");
		assert_err(store_delete(s, bad[i], &err), err, ERR_INVALID, "template name");
		assert_err(store_verify(s, bad[i], &err), err, ERR_INVALID, "template name");
		assert_err(publish(s, bad[i], &err), err, ERR_INVALID, "template name");
	}
	assert_int_equal(count_entries(path_of(root, "staging")), 0);
	store_close(s);
}

static void makes_its_layout(void **state)
{
	static const char *const dirs[] = { ".", "templates", "staging", "trash" };
	unsigned before = count_fds();
	struct stat st;
	char text[8] = "";

	(void)state;
	store_close(open_store());
	for (unsigned i = 0; i < ARRAY_LEN(dirs); i++) {
		assert_int_equal(lstat(path_of(root, dirs[i]), &st), 0);
		assert_int_equal(st.st_mode, S_IFDIR | 0700);
	}
	autoclose int fd = open(path_of(root, "FORMAT"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, text, sizeof(text)), 2);
	assert_string_equal(text, "1\n");
	close(steal_fd(&fd));
	store_close(open_store()); /* and takes it as it is */
	assert_int_equal(count_fds(), before);
	store_close(NULL);
}

static void refuses_what_is_no_store(void **state)
{
	struct store *s = NULL;
	struct err err = {};
	unsigned before = count_fds();

	(void)state;
	assert_err(store_open("/nonexistent/dir/store", &s, &err), err, ERR_INTERNAL, "/nonexistent/dir/store");
	assert_int_equal(mkdir(root, 0700), 0);
	put_file(path_of(root, "precious"), "x");
	assert_err(store_open(root, &s, &err), err, ERR_INVALID, "it has 'precious' but no FORMAT");
	assert_int_equal(count_entries(root), 1); /* nothing was put there */
	unlink(path_of(root, "precious"));
	mkdir(path_of(root, "lost+found"), 0700); /* an empty file system */
	put_file(path_of(root, "FORMAT.tmp"), "torn");
	put_file(path_of(root, "lock"), "");
	store_close(open_store());
	assert_int_equal(symlink("/etc", path_of(root, "x")), 0);
	rmdir(path_of(root, "trash"));
	assert_int_equal(rename(path_of(root, "x"), path_of(root, "trash")), 0);
	assert_err(store_open(root, &s, &err), err, ERR_INTERNAL, "root/trash'");
	assert_null(s);
	assert_int_equal(count_fds(), before);
}

static void refuses_other_formats(void **state)
{
	static const struct {
		const char *text, *msg;
	} cases[] = {
		{ "2\n", "has format 2, this program knows 1" },
		{ "0", "has format 0, this program knows 1" },
		{ "", "holds no number" },
		{ "1x", "holds no number" },
		{ "-1", "holds no number" },
		{ "one\n", "holds no number" },
	};
	struct store *s = NULL;
	struct err err = {};

	(void)state;
	store_close(open_store());
	mkdir(path_of(root, "staging/left"), 0700);
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		put_file(path_of(root, "FORMAT"), cases[i].text);
		assert_err(store_open(root, &s, &err), err, ERR_INVALID, cases[i].msg);
	}
	assert_int_equal(count_entries(path_of(root, "staging")), 1); /* not touched */
}

static void has_one_user(void **state)
{
	struct store *s = open_store(), *second = NULL;
	struct err err = {};

	(void)state;
	mkdir(path_of(root, "staging/of-the-first"), 0700);
	assert_err(store_open(root, &second, &err), err, ERR_BUSY, "in use by another daemon");
	assert_int_equal(count_entries(path_of(root, "staging")), 1);
	store_close(s);
	store_close(open_store());
	assert_int_equal(count_entries(path_of(root, "staging")), 0);
}

/* A daemon that was killed while it started a process: the process has the daemon's descriptors until it execs. */
static void outlived_by_a_child(void **state)
{
	struct store *s = open_store();

	(void)state;
	pid_t child = fork();
	if (child == 0) {
		usleep(50000);
		_exit(0);
	}
	assert_true(child > 0);
	store_close(s);
	store_close(open_store());
	assert_int_equal(waitpid(child, NULL, 0), child);
}

/* Where renameat2() knows no flags and flock() does not work. */
static void works_on_odd_file_systems(void **state)
{
	static const int cannot_lock[] = { EBADF, ENOLCK, EOPNOTSUPP };
	struct store *second = NULL;
	struct err err = {};

	(void)state;
	odd_fs.renameat2 = EINVAL;
	for (size_t i = 0; i < ARRAY_LEN(cannot_lock); i++) {
		odd_fs.flock = cannot_lock[i];
		struct store *s = open_store();
		assert_err(store_open(root, &second, &err), err, ERR_BUSY, "in use by another daemon");
		assert_ok(publish(s, "one", &err), err);
		assert_ok(store_verify(s, "one", &err), err);
		assert_err(publish(s, "one", &err), err, ERR_CONFLICT, "template 'one' exists already");
		assert_ok(store_verify(s, "one", &err), err);
		assert_int_equal(count_entries(path_of(root, "staging")), 0);
		assert_ok(store_delete(s, "one", &err), err);
		store_close(s);
	}
	odd_fs.ofd = EOPNOTSUPP;
	assert_err(store_open(root, &second, &err), err, ERR_INTERNAL, "/lock' cannot be locked on ");
}

static void publishes(void **state)
{
	static const char *const files[] = { "config.json", "memory-ranges", "state.json", "manifest.json" };
	struct store *s = open_store();
	struct manifest m;
	struct err err = {};
	struct stat st;
	unsigned before = count_fds();

	(void)state;
	assert_string_equal(names_text(s), "");
	assert_ok(publish(s, "b", &err), err);
	assert_ok(publish(s, "a", &err), err);
	assert_ok(publish(s, "C.1", &err), err);
	assert_string_equal(names_text(s), "C.1 a b");
	assert_err(publish(s, "a", &err), err, ERR_CONFLICT, "template 'a' exists already");
	assert_int_equal(count_entries(path_of(root, "staging")), 0);
	for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
		assert_int_equal(lstat(template_file("a", files[i]), &st), 0);
		assert_int_equal(st.st_mode, S_IFREG | 0400);
	}
	assert_int_equal(lstat(template_file("a", "."), &st), 0);
	assert_int_equal(st.st_mode, S_IFDIR | 0500);

	assert_ok(store_manifest(s, "a", &m, &err), err);
	assert_int_equal(m.format, 1);
	assert_string_equal(m.name, "a");
	assert_string_equal(m.source, "file:///somewhere");
	assert_null(m.parent);
	assert_null(m.host_cpu);
	assert_int_equal(m.vcpus, 2);
	assert_int_equal(strlen(m.created_at), strlen("2026-01-01T00:00:00Z"));
	assert_int_equal(m.n_files, 3);
	assert_string_equal(m.files[STORE_MEMORY].name, "memory-ranges");
	assert_int_equal(m.files[STORE_MEMORY].bytes, MEM_BYTES);
	assert_int_equal(m.files[STORE_MEMORY].n_sha256, 3);
	assert_int_equal(m.files[STORE_CONFIG].n_sha256, 1);
	/* printf '{"memory":1}' | sha256sum */
	assert_string_equal(m.files[STORE_CONFIG].sha256[0],
			    "22ecdc86236880dc5dda5c82aa5ce919bc8103e38356f244d6dccf109ef3bcdc");
	fields_free(manifest_fields, &m);
	assert_err(store_manifest(s, "none", &m, &err), err, ERR_NOT_FOUND, "template 'none' does not exist");
	assert_int_equal(count_fds(), before);
	store_close(s);
}

static void publishes_only_what_is_sealed(void **state)
{
	struct store *s = open_store();
	struct staged *staged = NULL;
	struct err err = {};

	(void)state;
	assert_ok(import(s, snapshot, &staged, &err), err);
	assert_err(staged_publish(&staged, "a", &err), err, ERR_INTERNAL, "not sealed");
	assert_ok(seal(staged, "a", &err), err);
	assert_err(seal(staged, "a", &err), err, ERR_INTERNAL, "sealed already");
	assert_err(staged_publish(&staged, "b", &err), err, ERR_INTERNAL, "not sealed under this name");
	assert_non_null(staged);
	assert_int_equal(access(path_of(staged_path(staged), "manifest.json"), F_OK), 0);
	assert_ok(staged_publish(&staged, "a", &err), err);
	assert_null(staged);
	staged_discard(NULL);
	store_close(s);
}

static void counts_references(void **state)
{
	struct store *s = open_store();
	struct err err = {};
	unsigned before = count_fds();
	int fd = -1, second = -1;

	(void)state;
	assert_ok(publish(s, "a", &err), err);
	assert_ok(store_acquire(s, "a", &fd, &err), err);
	assert_ok(store_acquire(s, "a", &second, &err), err);
	assert_int_equal(faccessat(fd, "state.json", F_OK, 0), 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	close(second);
	assert_err(store_delete(s, "a", &err), err, ERR_CONFLICT, "template 'a' is in use 2 times");
	store_release(s, "a");
	assert_err(store_delete(s, "a", &err), err, ERR_CONFLICT, "in use 1 times");
	assert_ok(store_acquire(s, "a", &fd, &err), err); /* as before */
	store_release(s, "a");
	store_release(s, "a");
	assert_ok(store_delete(s, "a", &err), err);
	assert_int_equal(faccessat(fd, "state.json", F_OK, 0), -1);
	close(fd);
	assert_string_equal(names_text(s), "");
	assert_int_equal(count_entries(path_of(root, "trash")), 0);
	assert_err(store_delete(s, "a", &err), err, ERR_NOT_FOUND, "template 'a' does not exist");
	assert_err(store_acquire(s, "a", &fd, &err), err, ERR_NOT_FOUND, "does not exist");
	assert_err(store_verify(s, "a", &err), err, ERR_NOT_FOUND, "does not exist");
	assert_ok(publish(s, "a", &err), err); /* the name is free, and no reference was left by what failed */
	assert_ok(store_delete(s, "a", &err), err);
	assert_int_equal(count_fds(), before);
	store_close(s);
}

static void die_before_publishing(void)
{
	struct store *s = NULL;
	struct staged *staged = NULL;
	struct err err = {};

	_exit(store_open(root, &s, &err) < 0 || publish(s, "whole", &err) < 0 ||
	      import(s, snapshot, &staged, &err) < 0 || seal(staged, "sealed", &err) < 0);
}

/* What a crash in the middle of import, sealing and removal leaves. */
static void cleans_up_after_a_crash(void **state)
{
	struct err err = {};
	struct stat st;
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		die_before_publishing();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(count_entries(path_of(root, "staging")), 1);
	mkdir(path_of(root, "staging/half"), 0700);
	put_file(path_of(root, "staging/half/config.json"), "{");
	mkdir(path_of(root, "staging/half/deep"), 0700);
	put_file(path_of(root, "staging/half/deep/file"), "");
	put_file(path_of(root, "staging/plain"), "");
	assert_int_equal(symlink(snapshot, path_of(root, "staging/link")), 0);
	mkdir(path_of(root, "trash/1"), 0700);
	put_file(path_of(root, "trash/1/memory-ranges"), "x");
	chmod(path_of(root, "trash/1/memory-ranges"), 0400);
	chmod(path_of(root, "trash/1"), 0500);
	chmod(path_of(root, "staging/half/deep"), 0500);
	chmod(template_file("whole", "."), 0700); /* between rename and fchmod */
	struct store *s = open_store();
	assert_int_equal(count_entries(path_of(root, "staging")), 0);
	assert_int_equal(count_entries(path_of(root, "trash")), 0);
	assert_int_equal(access(path_of(snapshot, "config.json"), F_OK), 0); /* links were not followed */
	assert_string_equal(names_text(s), "whole");
	assert_int_equal(stat(template_file("whole", "."), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0500);
	assert_ok(store_verify(s, "whole", &err), err);
	store_close(s);
}

/* Publishes and deletes without end. Once something was published, tell_fd gets a byte. */
static void churn(int tell_fd)
{
	struct store *s = NULL;
	struct err err = {};
	char name[16];

	if (store_open(root, &s, &err) < 0)
		_exit(1);
	for (unsigned i = 0;; i++) {
		snprintf(name, sizeof(name), "t%u", i % 5);
		if (publish(s, name, &err) < 0 && err.code != ERR_CONFLICT)
			_exit(2);
		if (i == 0 && write(tell_fd, "", 1) != 1)
			_exit(4);
		snprintf(name, sizeof(name), "t%u", (i + 2) % 5);
		if (store_delete(s, name, &err) < 0 && err.code != ERR_NOT_FOUND)
			_exit(3);
	}
}

/* Killed at any instant: every template that is listed afterwards is whole, and nothing else is left. */
static void survives_kill(void **state)
{
	unsigned seen = 0;

	(void)state;
	for (unsigned i = 0; i < 25; i++) {
		struct err err = {};
		char **names = NULL;
		int status;
		int tell[2];
		char byte;
		assert_int_equal(pipe(tell), 0);
		pid_t pid = fork();
		if (pid == 0)
			churn(tell[1]);
		if (i % 2) /* however slow the host is: something was published */
			assert_int_equal(read(tell[0], &byte, 1), 1);
		usleep(2000 + i * 3001);
		kill(pid, SIGKILL);
		close(tell[0]);
		close(tell[1]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		struct store *s = open_store();
		assert_int_equal(count_entries(path_of(root, "staging")), 0);
		assert_int_equal(count_entries(path_of(root, "trash")), 0);
		assert_ok(store_names(s, &names, &err), err);
		for (char **n = names; *n; n++, seen++) {
			int fd = -1;
			assert_ok(store_acquire(s, *n, &fd, &err), err);
			close(fd);
			store_release(s, *n);
			assert_ok(store_verify(s, *n, &err), err);
		}
		store_names_free(names);
		store_close(s);
	}
	assert_true(seen > 0);
}

static void set_manifest(const char *name, const char *text)
{
	unlink(template_file(name, "manifest.json"));
	put_file(template_file(name, "manifest.json"), text);
}

/* The manifest of `name` with one piece of text replaced. */
static void edit_manifest(const char *name, const char *from, const char *to)
{
	char text[8192], edited[8192];
	autoclose int fd = open(template_file(name, "manifest.json"), O_RDONLY | O_CLOEXEC);
	ssize_t len = read(fd, text, sizeof(text) - 1);

	assert_true(len > 0);
	text[len] = '\0';
	const char *at = strstr(text, from);
	assert_non_null(at);
	snprintf(edited, sizeof(edited), "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
	set_manifest(name, edited);
}

static void reports_damaged_manifests(void **state)
{
	static const struct {
		const char *from, *to, *msg;
	} edits[] = {
		{ "\"format\":1", "\"format\":2", "manifest.json has format 2, this program knows 1" },
		{ "\"format\":1", "\"format\":0", "manifest.json has format 0, this program knows 1" },
		{ "\"format\":1", "\"format\":\"1\"", "has no format number" },
		{ "\"name\":\"bad\"", "\"name\":\"good\"", "is that of template 'good'" },
		{ "\"name\":\"state.json\"", "\"name\":\"../../x\"", "files[2] is '../../x', not 'state.json'" },
		{ "\"vcpus\":2", "\"vcpus\":-2", "manifest.json.vcpus" },
		{ "\"source\"", "\"sauce\"", "manifest.json.source: missing" },
		{ "\"bytes\":4206592", "\"bytes\":2097152", "memory-ranges has 3 digests, 2097152 bytes need 1" },
		{ "\"bytes\":4206592", "\"bytes\":0", "0 is below 1" },
		{ "22ecdc86", "22ECDC86", "digest 0 of config.json is not a SHA-256" },
		{ "22ecdc86", "22ecdc8", "digest 0 of config.json is not a SHA-256" },
		{ "}", "", "manifest.json" },
	};
	struct store *s = open_store();
	struct manifest m;
	struct err err = {};
	int fd = -1;

	(void)state;
	assert_ok(publish(s, "good", &err), err);
	for (unsigned i = 0; i < ARRAY_LEN(edits); i++) {
		assert_ok(publish(s, "bad", &err), err);
		edit_manifest("bad", edits[i].from, edits[i].to);
		assert_err(store_manifest(s, "bad", &m, &err), err, ERR_INTERNAL, edits[i].msg);
		assert_non_null(strstr(err.msg, "template 'bad' is damaged"));
		assert_err(store_acquire(s, "bad", &fd, &err), err, ERR_INTERNAL, edits[i].msg);
		assert_err(store_verify(s, "bad", &err), err, ERR_INTERNAL, edits[i].msg);
		assert_string_equal(names_text(s), "bad good");
		assert_ok(store_delete(s, "bad", &err), err);
	}
	assert_ok(store_verify(s, "good", &err), err);
	store_close(s);
}

/* Never removed unasked: a template is on disk before it has its name, so this was no crash. */
static void reports_a_missing_manifest(void **state)
{
	struct store *s = open_store();
	struct manifest m;
	struct err err = {};
	int fd = -1;

	(void)state;
	assert_ok(publish(s, "bare", &err), err);
	assert_ok(publish(s, "linked", &err), err);
	unlink(template_file("bare", "manifest.json"));
	rename(template_file("linked", "manifest.json"), path_of(scratch, "m.json"));
	assert_int_equal(symlink(path_of(scratch, "m.json"), template_file("linked", "manifest.json")), 0);
	mkdir(path_of(root, "templates/empty"), 0500);
	put_file(path_of(root, "templates/file"), "");
	mkdir(path_of(root, "templates/.hidden"), 0700);
	assert_int_equal(symlink("bare", path_of(root, "templates/symlink")), 0);
	store_close(s);
	s = open_store();
	assert_string_equal(names_text(s), "bare empty linked");
	assert_err(store_manifest(s, "bare", &m, &err), err, ERR_INTERNAL,
		   "template 'bare' is damaged\nopen manifest.json");
	assert_err(store_acquire(s, "empty", &fd, &err), err, ERR_INTERNAL, "open manifest.json");
	assert_err(store_manifest(s, "linked", &m, &err), err, ERR_INTERNAL, "open manifest.json");
	assert_err(store_manifest(s, "symlink", &m, &err), err, ERR_NOT_FOUND, "does not exist");
	assert_err(store_delete(s, "file", &err), err, ERR_NOT_FOUND, "does not exist");
	assert_ok(store_delete(s, "bare", &err), err);
	assert_ok(store_delete(s, "empty", &err), err);
	assert_ok(store_delete(s, "linked", &err), err);
	store_close(s);
}

enum { THREADS = 64, ROUNDS = 30, NAMES = 6 };

struct crowd {
	struct store *store;
	atomic_uint done[4]; /* acquired, deleted, published, refused */
};

static void expect(bool ok, const char *what, const struct err *err)
{
	if (!ok) { /* cmocka's assertions belong to the first thread */
		fprintf(stderr, "%s: %s\n", what, err->msg);
		abort();
	}
}

static void one_round(struct crowd *c, unsigned number)
{
	struct err err = {};
	char name[16], **names = NULL;
	struct manifest m;
	int fd = -1;

	snprintf(name, sizeof(name), "t%u", number % NAMES);
	expect(store_names(c->store, &names, &err) == 0, "names", &err);
	store_names_free(names);
	if (store_manifest(c->store, name, &m, &err) == 0)
		fields_free(manifest_fields, &m);
	else
		expect(err.code == ERR_NOT_FOUND, "manifest", &err);
	if (store_acquire(c->store, name, &fd, &err) == 0) {
		expect(faccessat(fd, "memory-ranges", F_OK, 0) == 0, "in use and gone", &err);
		usleep(number % 7 * 100);
		expect(faccessat(fd, "memory-ranges", F_OK, 0) == 0, "in use and gone", &err);
		close(fd);
		store_release(c->store, name);
		atomic_fetch_add(&c->done[0], 1);
	} else {
		expect(err.code == ERR_NOT_FOUND, "acquire", &err);
	}
	if (number / NAMES % 3 == 0) {
		bool gone = store_delete(c->store, name, &err) == 0;
		expect(gone || err.code == ERR_NOT_FOUND || err.code == ERR_CONFLICT, "delete", &err);
		atomic_fetch_add(&c->done[gone ? 1 : 3], 1);
	} else if (number / NAMES % 3 == 1) {
		bool made = publish(c->store, name, &err) == 0;
		expect(made || err.code == ERR_CONFLICT, "publish", &err);
		atomic_fetch_add(&c->done[made ? 2 : 3], 1);
	}
}

static atomic_uint thread_number;

static void *crowd_thread(void *arg)
{
	unsigned first = atomic_fetch_add(&thread_number, 1);

	for (unsigned i = 0; i < ROUNDS; i++)
		one_round(arg, first * 31 + i);
	return NULL;
}

static void serves_many_threads(void **state)
{
	struct crowd c = { .store = open_store() };
	pthread_t threads[THREADS];
	struct err err = {};
	unsigned before = count_fds();

	(void)state;
	for (unsigned i = 0; i < NAMES; i++) {
		char name[16];
		snprintf(name, sizeof(name), "t%u", i);
		assert_ok(publish(c.store, name, &err), err);
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd_thread, &c), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < ARRAY_LEN(c.done); i++)
		assert_true(c.done[i] > 0);
	assert_int_equal(count_entries(path_of(root, "staging")), 0);
	assert_int_equal(count_entries(path_of(root, "trash")), 0);
	assert_int_equal(count_fds(), before);
	for (unsigned i = 0; i < NAMES; i++) {
		char name[16];
		snprintf(name, sizeof(name), "t%u", i);
		assert_true(store_delete(c.store, name, &err) == 0 || err.code == ERR_NOT_FOUND);
	}
	store_close(c.store);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(checks_names, drop_root),
		cmocka_unit_test_teardown(makes_its_layout, drop_root),
		cmocka_unit_test_teardown(refuses_what_is_no_store, drop_root),
		cmocka_unit_test_teardown(refuses_other_formats, drop_root),
		cmocka_unit_test_teardown(has_one_user, drop_root),
		cmocka_unit_test_teardown(outlived_by_a_child, drop_root),
		cmocka_unit_test_teardown(works_on_odd_file_systems, drop_root),
		cmocka_unit_test_teardown(publishes, drop_root),
		cmocka_unit_test_teardown(publishes_only_what_is_sealed, drop_root),
		cmocka_unit_test_teardown(counts_references, drop_root),
		cmocka_unit_test_teardown(cleans_up_after_a_crash, drop_root),
		cmocka_unit_test_teardown(survives_kill, drop_root),
		cmocka_unit_test_teardown(reports_damaged_manifests, drop_root),
		cmocka_unit_test_teardown(reports_a_missing_manifest, drop_root),
		cmocka_unit_test_teardown(serves_many_threads, drop_root),
	};

	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
