// SPDX-License-Identifier: Apache-2.0
/* Files that nobody changes any more: how one becomes so, and whether it still is what was sealed. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/store_internal.h"

enum { WRITER_TRIES = 500, WRITER_PAUSE_MS = 10 };

bool sealed_same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       timespec_ns(a->st_mtim) == timespec_ns(b->st_mtim) && timespec_ns(a->st_ctim) == timespec_ns(b->st_ctim);
}

/* ---- seal ---- */

/*
 * Waits for some seconds until nobody has the file open for writing. A read lease is refused as
 * long as somebody has, as the VM process may that wrote the file, or a child of this process that
 * has not called exec yet and holds what this process has closed. SIGURG is what breaking the lease
 * would send: it is ignored by default.
 */
static int wait_for_writers(int fd, const char *name, struct err *err)
{
	const struct timespec pause = { .tv_nsec = WRITER_PAUSE_MS * 1000000L };

	for (unsigned i = 0; i < WRITER_TRIES; i++) {
		if (fcntl(fd, F_SETSIG, SIGURG) < 0 || fcntl(fd, F_SETLEASE, F_RDLCK) == 0 || errno != EAGAIN) {
			(void)fcntl(fd, F_SETLEASE, F_UNLCK); /* also where the file system has no leases */
			return 0;
		}
		nanosleep(&pause, NULL);
	}
	return err_set(err, ERR_CONFLICT, "%s is still open for writing", name);
}

int sealed_close_to_others(const struct store_source *in, const char *name, struct err *err)
{
	if (in->st.st_nlink != 1)
		return err_set(err, ERR_INVALID, "%s has %llu names", name, (unsigned long long)in->st.st_nlink);
	if (in->st.st_uid != geteuid() && fchown(in->fd, geteuid(), getegid()) < 0)
		return err_sys(err, ERR_INTERNAL, "take %s over from user %u", name, in->st.st_uid);
	if (fchmod(in->fd, 0400) < 0)
		return err_sys(err, ERR_INTERNAL, "seal %s", name);
	return wait_for_writers(in->fd, name, err);
}

int sealed_note(int fd, struct store_file *f, struct err *err)
{
	struct stat st;

	if (fsync(fd) < 0 || fstat(fd, &st) < 0)
		return err_sys(err, ERR_INTERNAL, "write %s to disk", f->name);
	if ((uint64_t)st.st_size != f->bytes)
		return err_set(err, ERR_CONFLICT, "%s changed while it was read", f->name);
	f->inode = st.st_ino;
	f->mtime_ns = timespec_ns(st.st_mtim);
	f->ctime_ns = timespec_ns(st.st_ctim);
	f->allocated_bytes = digest_allocated(fd);
	return 0;
}

/* ---- check ---- */

int sealed_check_digests(const struct store_file *f, const char *what, struct err *err)
{
	if (f->n_sha256 != digest_chunks(f->bytes))
		return err_set(err, ERR_INTERNAL, "%s: %s has %u digests, %llu bytes need %u", what, f->name,
			       f->n_sha256, (unsigned long long)f->bytes, digest_chunks(f->bytes));
	for (uint32_t i = 0; i < f->n_sha256; i++)
		if (strspn(f->sha256[i], "0123456789abcdef") != STORE_DIGEST_HEX || f->sha256[i][STORE_DIGEST_HEX])
			return err_set(err, ERR_INTERNAL, "%s: digest %u of %s is not a SHA-256: '%.80s'", what, i,
				       f->name, f->sha256[i]);
	return 0;
}

static int compare_stat(const struct stat *st, const struct store_file *f, struct err *err)
{
	const struct {
		const char *what;
		uint64_t now, sealed;
	} facts[] = {
		{ "is inode", st->st_ino, f->inode },
		{ "has length", (uint64_t)st->st_size, f->bytes },
		{ "has mtime", timespec_ns(st->st_mtim), f->mtime_ns },
		{ "has ctime", timespec_ns(st->st_ctim), f->ctime_ns },
	};
	if (!S_ISREG(st->st_mode))
		return err_set(err, ERR_INTERNAL, "%s is not a regular file", f->name);
	for (unsigned i = 0; i < ARRAY_LEN(facts); i++)
		if (facts[i].now != facts[i].sealed)
			return err_set(err, ERR_INTERNAL, "%s changed since it was sealed: it %s %llu, not %llu",
				       f->name, facts[i].what, (unsigned long long)facts[i].now,
				       (unsigned long long)facts[i].sealed);
	return 0;
}

int sealed_check(int dir_fd, const struct store_file *f, struct err *err)
{
	struct stat st;

	if (fstatat(dir_fd, f->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, ERR_INTERNAL, "%s", f->name);
	return compare_stat(&st, f, err);
}

int sealed_check_open(int fd, const struct store_file *f, struct err *err)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? err_sys(err, ERR_INTERNAL, "%s", f->name) : compare_stat(&st, f, err);
}

static int open_sealed(int dir_fd, const struct store_file *f, struct err *err)
{
	struct stat st;
	autoclose int fd = openat(dir_fd, f->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, ERR_INTERNAL, "open %s", f->name);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INTERNAL, "%s is not a regular file", f->name);
	if ((uint64_t)st.st_size != f->bytes)
		return err_set(err, ERR_INTERNAL, "%s has %llu bytes, sealed were %llu", f->name,
			       (unsigned long long)st.st_size, (unsigned long long)f->bytes);
	return steal_fd(&fd);
}

static int compare_digests(const struct store_file *now, const struct store_file *sealed, struct err *err)
{
	for (uint32_t i = 0; i < sealed->n_sha256; i++)
		if (strcmp(now->sha256[i], sealed->sha256[i]) != 0)
			return err_set(err, ERR_INTERNAL, "%s: chunk %u (from byte %llu) has SHA-256 %s, sealed was %s",
				       sealed->name, i, (unsigned long long)i * STORE_CHUNK_BYTES, now->sha256[i],
				       sealed->sha256[i]);
	return 0;
}

int sealed_verify(int dir_fd, const struct store_file *sealed, struct err *err)
{
	struct store_file now;
	autoclose int fd = open_sealed(dir_fd, sealed, err);

	if (fd < 0)
		return err->num;
	fields_init(store_file_fields, &now);
	now.bytes = sealed->bytes;
	now.name = strdup(sealed->name);
	int r = now.name ? digest_file(fd, -1, &now, err) : err_num(err, ERR_INTERNAL, ENOMEM, "verify");
	if (r == 0)
		r = compare_digests(&now, sealed, err);
	else
		err->code = ERR_INTERNAL;
	fields_free(store_file_fields, &now);
	return r;
}
