// SPDX-License-Identifier: Apache-2.0
/* GET /files: a regular file, as its bytes are. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "guest/files/files.h"
#include "guest/files/filesystem.h"

enum {
	PIECE = 128 << 10,
	TURN = 1 << 20, /* bytes; then other clients come first */
};

struct download {
	int fd;
	bool to_the_end; /* the size is not known: a file of /proc */
	uint64_t left;
};

static void download_free(struct download *d)
{
	close(d->fd);
	free(d);
}

static void on_gone(struct exchange *ex)
{
	download_free(ex->state);
}

/* Sends as much as the client takes now. */
static void pump(struct exchange *ex)
{
	struct download *d = ex->state;
	static char piece[PIECE];

	for (size_t sent = 0; sent < TURN && d->left > 0;) {
		ssize_t n = read(d->fd, piece, d->left < PIECE ? (size_t)d->left : PIECE);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 && !(n == 0 && d->to_the_end)) { /* cannot be read, or was cut meanwhile */
			download_free(d);
			return ex_abort(ex);
		}
		if (n == 0)
			break;
		ex_write(ex, piece, (size_t)n);
		sent += (size_t)n;
		d->left -= d->to_the_end ? 0 : (uint64_t)n;
		if (sent >= TURN || ex_room(ex) < LIMIT_OUT)
			return ex_yield(ex);
	}
	download_free(d);
	ex_end(ex);
}

/* A file whose size is 0 may have bytes: those of /proc. Few of them are sent with their length. */
static bool answer_small(struct exchange *ex, int fd)
{
	static char text[PIECE];
	size_t len = 0;
	ssize_t n;

	while (len < sizeof(text) && (n = pread(fd, text + len, sizeof(text) - len, (off_t)len)) > 0)
		len += (size_t)n;
	if (len == sizeof(text))
		return false;
	ex_answer(ex, 200, "application/octet-stream", text, len);
	return true;
}

/* What is no regular file is not opened: that alone may do something to a device. */
static int open_file(const char *path, struct stat *st, struct err *err)
{
	autoclose int fd = -1;

	if (stat(path, st) < 0)
		return err_sys(err, errno == ENOTDIR ? ERR_NOT_FOUND : path_code(errno), "path '%s'", path);
	if (S_ISREG(st->st_mode)) {
		fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, st) < 0)
			return err_sys(err, path_code(errno), "read '%s'", path);
	}
	if (S_ISDIR(st->st_mode))
		return err_set(err, ERR_INVALID, "path '%s' is a directory", path);
	if (!S_ISREG(st->st_mode))
		return err_set(err, ERR_INVALID, "path '%s' is no regular file", path);
	return steal_fd(&fd);
}

static bool is_word(const char *at, size_t len, const char *word)
{
	return len == strlen(word) && strncasecmp(at, word, len) == 0;
}

bool files_accepts_identity(const char *header)
{
	bool named = false, accepted = true, others = true;

	for (const char *at = header ? header : ""; *at;) {
		at += strspn(at, ", \t");
		const size_t all = strcspn(at, ","), name = strcspn(at, ",; \t");
		const char *q = memchr(at, '=', all);
		const bool zero = q && strspn(q + 1, "0.") == strcspn(q + 1, ",; \t") && q[1] == '0';
		if (is_word(at, name, "identity")) {
			named = true;
			accepted = !zero;
		} else if (is_word(at, name, "*")) {
			others = !zero;
		}
		at += all;
	}
	return named ? accepted : others;
}

void files_get(struct exchange *ex)
{
	const char *asked = ex_query(ex, "path");
	autofree char *home = NULL, *path = NULL;
	struct owner_ids owner;
	struct err err = {};
	struct stat st;

	if (!files_user(ex, &owner, &home))
		return;
	if (path_resolve(asked ? asked : "", home, &path, &err) < 0)
		return files_fail(ex, &err);
	autoclose int fd = open_file(path, &st, &err);
	if (fd < 0)
		return files_fail(ex, &err);
	if (!files_accepts_identity(ex_header(ex, "accept-encoding")))
		return ex_fail(ex, 406, "files are sent as they are: identity");
	if (st.st_size == 0 && answer_small(ex, fd))
		return;
	struct download *d = calloc(1, sizeof(*d));
	if (!d)
		return ex_fail(ex, 500, "no memory");
	*d = (struct download){ .fd = steal_fd(&fd),
				.to_the_end = st.st_size == 0,
				.left = st.st_size ? (uint64_t)st.st_size : UINT64_MAX };
	ex->state = d;
	ex->on_drain = pump;
	ex->on_gone = on_gone;
	ex_begin(ex, 200, "application/octet-stream", NULL, st.st_size ? (int64_t)st.st_size : -1);
	pump(ex);
}
