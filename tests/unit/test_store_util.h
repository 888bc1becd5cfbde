// SPDX-License-Identifier: Apache-2.0
/* What the tests of store/ share: a scratch directory, a snapshot in it, short ways to publish and to damage files. */
#ifndef TESTS_UNIT_TEST_STORE_UTIL_H
#define TESTS_UNIT_TEST_STORE_UTIL_H

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "store/store.h"

enum { PAGE = 4096, MEM_BYTES = 2 * STORE_CHUNK_BYTES + 3 * PAGE, PATH_BYTES = 256 };

static char scratch[64]; /* made by make_scratch() */
static char root[80], snapshot[80];

#define assert_ok(call, err) assert_ok_at((call), &(err), #call, __LINE__)
static inline void assert_ok_at(int r, const struct err *err, const char *call, int line)
{
	if (r < 0)
		fail_msg("line %d: %s: %s", line, call, err->msg);
}

/* The call failed with that code, and its message holds the text. */
#define assert_err(call, err, want, text)                                                            \
	do {                                                                                         \
		assert_true((call) < 0);                                                             \
		if ((err).code != (want) || !strstr((err).msg, (text)))                              \
			fail_msg("code %d, expected %d; message '%s'", (err).code, want, (err).msg); \
	} while (0)

static inline const char *path_of(const char *dir, const char *name)
{
	static __thread char paths[4][PATH_BYTES];
	static __thread unsigned next;
	char *p = paths[next++ % 4];

	snprintf(p, PATH_BYTES, "%s/%s", dir, name);
	return p;
}

static inline void put_file(const char *path, const char *text)
{
	autoclose int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static inline void put_bytes(const char *path, off_t off, const void *bytes, size_t len)
{
	autoclose int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, len, off), len);
}

/* A memory of 2 chunks and 3 pages: data in the first page, in one of the second chunk and in the last; the rest is a hole. */
static inline void put_snapshot(const char *dir)
{
	char page[PAGE];

	assert_true(mkdir(dir, 0700) == 0 || errno == EEXIST);
	put_file(path_of(dir, "config.json"), "{\"memory\":1}");
	put_file(path_of(dir, "state.json"), "{\"state\":2}");
	unlink(path_of(dir, "memory-ranges"));
	put_file(path_of(dir, "memory-ranges"), "");
	assert_int_equal(truncate(path_of(dir, "memory-ranges"), MEM_BYTES), 0);
	memset(page, 'a', sizeof(page));
	put_bytes(path_of(dir, "memory-ranges"), 0, page, sizeof(page));
	put_bytes(path_of(dir, "memory-ranges"), STORE_CHUNK_BYTES + 7 * PAGE, page, sizeof(page));
	put_bytes(path_of(dir, "memory-ranges"), MEM_BYTES - PAGE, page, sizeof(page));
}

static inline int run(const char *command)
{
	return system(command); /* NOLINT(cert-env33-c): our own words */
}

static inline void remove_path(const char *path)
{
	char command[PATH_BYTES + 32];

	snprintf(command, sizeof(command), "rm -rf '%s'", path);
	assert_int_equal(run(command), 0);
}

static inline int make_scratch(void **state)
{
	(void)state;
	snprintf(scratch, sizeof(scratch), "/tmp/forkd-test-store-XXXXXX");
	if (!mkdtemp(scratch))
		return -1;
	snprintf(root, sizeof(root), "%s/root", scratch);
	snprintf(snapshot, sizeof(snapshot), "%s/snapshot", scratch);
	put_snapshot(snapshot);
	return 0;
}

static inline int remove_scratch(void **state)
{
	(void)state;
	remove_path(scratch);
	return 0;
}

static inline unsigned count_entries(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	assert_non_null(d);
	for (const struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static inline unsigned count_fds(void)
{
	return count_entries("/proc/self/fd");
}

static inline struct store *open_store(void)
{
	struct store *store = NULL;
	struct err err = {};

	assert_ok(store_open(root, &store, &err), err);
	return store;
}

/* A staged import of `dir`; *ret is to be discarded or published. */
static inline int import(struct store *store, const char *dir, struct staged **ret, struct err *err)
{
	struct store_source files[STORE_FILES];

	for (unsigned i = 0; i < STORE_FILES; i++) {
		files[i].fd = open(path_of(dir, snapshot_files[i]), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		assert_int_equal(fstat(files[i].fd, &files[i].st), 0);
	}
	int r = store_stage(store, ret, err);
	if (r >= 0)
		r = staged_import(*ret, files, dir, err);
	for (unsigned i = 0; i < STORE_FILES; i++)
		close(files[i].fd);
	return r;
}

static inline int seal(struct staged *staged, const char *name, struct err *err)
{
	struct manifest m;

	fields_init(manifest_fields, &m);
	m.name = strdup(name);
	m.source = strdup("file:///somewhere");
	m.ram_bytes = MEM_BYTES;
	m.vcpus = 2;
	int r = staged_seal(staged, &m, err);
	fields_free(manifest_fields, &m);
	return r;
}

static inline int publish(struct store *store, const char *name, struct err *err)
{
	struct staged *staged = NULL;
	int r = import(store, snapshot, &staged, err);

	if (r == 0)
		r = seal(staged, name, err);
	if (r == 0)
		r = staged_publish(&staged, name, err);
	staged_discard(staged);
	return r;
}

static inline const char *template_file(const char *name, const char *file)
{
	static __thread char path[PATH_BYTES];

	snprintf(path, sizeof(path), "%s/templates/%s/%s", root, name, file);
	return path;
}

/* Names joined by spaces. */
static inline const char *names_text(struct store *store)
{
	static char text[1024];
	struct err err = {};
	char **names = NULL;
	size_t len = 0;

	text[0] = '\0';
	assert_ok(store_names(store, &names, &err), err);
	for (char **n = names; *n; n++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", len ? " " : "", *n);
	store_names_free(names);
	return text;
}

#endif
