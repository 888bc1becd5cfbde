// SPDX-License-Identifier: Apache-2.0
/* Opens, reads and verifies the files that an image consists of. */
#include "forkd/build/blob.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/io.h"

#define SHA256_PREFIX "sha256:"
enum { SHA256_DIGITS = 2 * BLOB_SUM };

static int check_digest(const char *digest, struct err *err)
{
	size_t prefix = strlen(SHA256_PREFIX);

	if (strncmp(digest, SHA256_PREFIX, prefix) != 0)
		return err_set(err, ERR_INVALID, "digest '%.80s': only sha256 is supported", digest);
	if (strlen(digest) != prefix + SHA256_DIGITS || strspn(digest + prefix, "0123456789abcdef") != SHA256_DIGITS)
		return err_set(err, ERR_INVALID, "digest '%.80s': sha256 has 64 digits, 0 to 9 and a to f", digest);
	return 0;
}

void blob_digest_text(const unsigned char sum[BLOB_SUM], char *ret_digest)
{
	int at = snprintf(ret_digest, BLOB_DIGEST, SHA256_PREFIX);

	for (int i = 0; i < BLOB_SUM; i++)
		at += snprintf(ret_digest + at, (size_t)(BLOB_DIGEST - at), "%02x", sum[i]);
}

int blob_digest_bytes(const char *digest, unsigned char ret_sum[BLOB_SUM], struct err *err)
{
	if (check_digest(digest, err) < 0)
		return err->num;
	for (int i = 0; i < BLOB_SUM; i++) {
		const char pair[3] = { digest[strlen(SHA256_PREFIX) + 2 * (size_t)i],
				       digest[strlen(SHA256_PREFIX) + 2 * (size_t)i + 1] };
		ret_sum[i] = (unsigned char)strtoul(pair, NULL, 16);
	}
	return 0;
}

int blob_open_plain(int dir_fd, const char *path, uint64_t *ret_size, struct err *err)
{
	struct open_how how = { .flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
				.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	struct stat st;

	autoclose int fd = (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
	if (fd < 0 && errno == ELOOP)
		return err_set(err, ERR_INVALID, "%s: a symbolic link, or behind one", path);
	if (fd < 0)
		return err_sys(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_INVALID, "open %s", path);
	if (fstat(fd, &st) < 0)
		return err_sys(err, ERR_INTERNAL, "look at %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INVALID, "%s: not a regular file", path);
	*ret_size = (uint64_t)st.st_size;
	return steal_fd(&fd);
}

static int begin(struct blob *blob, int fd, uint64_t size, struct err *err)
{
	blob->fd = fd;
	blob->size = size;
	blob->at = 0;
	blob->piece = malloc(BLOB_PIECE);
	if (!blob->piece || gnutls_hash_init(&blob->hash, GNUTLS_DIG_SHA256) < 0)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read %s", blob->what);
	return 0;
}

int blob_open(struct blob *blob, int dir_fd, const struct descriptor *d, struct err *err)
{
	char path[BLOB_DIGEST + 16];
	uint64_t size = 0;

	if (check_digest(d->digest, err) < 0)
		return err->num;
	blob->what = d->digest;
	snprintf(blob->expected, sizeof(blob->expected), "%s", d->digest);
	snprintf(path, sizeof(path), "blobs/sha256/%s", d->digest + strlen(SHA256_PREFIX));
	autoclose int fd = blob_open_plain(dir_fd, path, &size, err);
	if (fd < 0)
		return err->num;
	if (size != d->size)
		return err_set(err, ERR_INVALID, "%s: the file has %llu bytes, the descriptor says %llu", path,
			       (unsigned long long)size, (unsigned long long)d->size);
	return begin(blob, steal_fd(&fd), size, err);
}

int blob_open_file(struct blob *blob, int fd, const char *what, const char *expected, struct err *err)
{
	autoclose int owned = fd;
	struct stat st;

	blob->what = what;
	snprintf(blob->expected, sizeof(blob->expected), "%s", expected);
	if (fstat(owned, &st) < 0)
		return err_sys(err, ERR_INTERNAL, "look at %s", what);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INVALID, "%s: not a regular file", what);
	return begin(blob, steal_fd(&owned), (uint64_t)st.st_size, err);
}

ssize_t blob_read(struct blob *blob, const void **ret_bytes, struct err *err)
{
	uint64_t left = blob->size - blob->at;
	ssize_t n = io_read(blob->fd, blob->piece, left < BLOB_PIECE ? left : BLOB_PIECE, blob->at);

	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read %s at byte %llu", blob->what,
			       (unsigned long long)blob->at);
	if (n == 0 && left)
		return err_set(err, ERR_INVALID, "%s ends at byte %llu of %llu: it was cut while it was read",
			       blob->what, (unsigned long long)blob->at, (unsigned long long)blob->size);
	gnutls_hash(blob->hash, blob->piece, (size_t)n);
	blob->at += (uint64_t)n;
	*ret_bytes = blob->piece;
	return n;
}

int blob_finish(struct blob *blob, char *ret_digest, struct err *err)
{
	unsigned char sum[BLOB_SUM];
	char digest[BLOB_DIGEST];
	const void *bytes = NULL;
	ssize_t n;

	while ((n = blob_read(blob, &bytes, err)) > 0)
		;
	if (n < 0)
		return err->num;
	gnutls_hash_output(blob->hash, sum);
	blob_digest_text(sum, digest);
	if (blob->expected[0] && strcmp(digest, blob->expected) != 0)
		return err_set(err, ERR_INVALID, "%s: its digest should be %s, and is %s", blob->what, blob->expected,
			       digest);
	if (ret_digest)
		memcpy(ret_digest, digest, sizeof(digest));
	return 0;
}

void blob_close(struct blob *blob)
{
	if (blob->fd >= 0)
		close(blob->fd);
	if (blob->hash)
		gnutls_hash_deinit(blob->hash, NULL);
	free(blob->piece);
	*blob = (struct blob)BLOB_NONE;
}

int blob_text(int dir_fd, const struct descriptor *d, uint64_t max, char **ret_text, struct err *err)
{
	autoblob struct blob blob = BLOB_NONE;
	const void *bytes = NULL;
	ssize_t n;

	if (d->size > max)
		return err_set(err, ERR_INVALID, "%.80s: %llu bytes, more than %llu", d->digest,
			       (unsigned long long)d->size, (unsigned long long)max);
	if (blob_open(&blob, dir_fd, d, err) < 0)
		return err->num;
	autofree char *text = malloc(d->size + 1);
	if (!text)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read %s", d->digest);
	for (uint64_t at = 0; (n = blob_read(&blob, &bytes, err)) > 0 && bytes; at += (uint64_t)n)
		memcpy(text + at, bytes, (size_t)n);
	if (n < 0 || blob_finish(&blob, NULL, err) < 0)
		return err->num;
	text[d->size] = '\0';
	*ret_text = steal_ptr(&text);
	return 0;
}
