// SPDX-License-Identifier: Apache-2.0
/*
 * Walks over a file's data, chunk by chunk: takes the SHA-256 of each chunk, and makes a sparse
 * copy on the way.
 */
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <string.h>

#include "common/io.h"
#include "store/store_internal.h"

enum { PAGE = 4096, SHA256_BYTES = STORE_DIGEST_HEX / 2 };
/* The digest of STORE_CHUNK_BYTES zeros, which most of a template's memory is. */
static const char zero_sha256[] = "5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee";

uint32_t digest_chunks(uint64_t bytes)
{
	return (uint32_t)((bytes + STORE_CHUNK_BYTES - 1) / STORE_CHUNK_BYTES);
}

/*
 * Where the next data at or after `off` begins. On a file system that knows no holes, data is
 * everywhere.
 */
static uint64_t next_data(int fd, uint64_t off)
{
	off_t at = lseek(fd, (off_t)off, SEEK_DATA);

	if (at < 0)
		return errno == ENXIO ? UINT64_MAX : off;
	return (uint64_t)at;
}

uint64_t digest_allocated(int fd)
{
	uint64_t sum = 0;
	off_t end = 0;

	for (;;) {
		off_t start = lseek(fd, end, SEEK_DATA);
		if (start < 0)
			return sum;
		end = lseek(fd, start, SEEK_HOLE);
		if (end <= start)
			return sum;
		sum += (uint64_t)(end - start);
	}
}

static int read_chunk(int fd, uint8_t *buf, size_t len, uint64_t off, const struct store_file *f, struct err *err)
{
	ssize_t n = io_read(fd, buf, len, off);

	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read %s at byte %llu", f->name, (unsigned long long)off);
	if ((size_t)n < len)
		return err_set(err, ERR_CONFLICT, "%s ends at byte %llu of %llu: it was cut while it was read", f->name,
			       (unsigned long long)off + (size_t)n, (unsigned long long)f->bytes);
	return 0;
}

static bool is_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static size_t page_len(size_t len, size_t at)
{
	return len - at < PAGE ? len - at : PAGE;
}

/* Writes all but pages of zeros, which stay holes. */
static int write_sparse(int fd, const uint8_t *buf, size_t len, uint64_t off, const char *name, struct err *err)
{
	for (size_t at = 0; at < len;) {
		size_t start = at;
		while (at < len && !is_zero(buf + at, page_len(len, at)))
			at += page_len(len, at);
		if (at > start && layout_write(fd, buf + start, at - start, off + start, name, err) < 0)
			return err->num;
		while (at < len && is_zero(buf + at, page_len(len, at)))
			at += page_len(len, at);
	}
	return 0;
}

static int sha256_hex(const uint8_t *buf, size_t len, char **ret, struct err *err)
{
	uint8_t sum[SHA256_BYTES];
	int r = gnutls_hash_fast(GNUTLS_DIG_SHA256, buf, len, sum);

	if (r < 0)
		return err_set(err, ERR_INTERNAL, "SHA-256: %s", gnutls_strerror(r));
	char *hex = malloc(STORE_DIGEST_HEX + 1);
	if (!hex)
		return err_num(err, ERR_INTERNAL, ENOMEM, "SHA-256");
	for (unsigned i = 0; i < SHA256_BYTES; i++)
		snprintf(hex + (size_t)i * 2, 3, "%02x", sum[i]);
	*ret = hex;
	return 0;
}

/*
 * Takes the digest of one chunk that is not a hole as a whole. `hole`: its bytes are zeros all the
 * same.
 */
static int digest_chunk(int fd, int copy_fd, uint8_t *buf, uint32_t index, bool hole, struct store_file *f,
			struct err *err)
{
	uint64_t off = (uint64_t)index * STORE_CHUNK_BYTES;
	size_t len = f->bytes - off < STORE_CHUNK_BYTES ? (size_t)(f->bytes - off) : STORE_CHUNK_BYTES;

	if (hole)
		memset(buf, 0, len);
	else if (read_chunk(fd, buf, len, off, f, err) < 0)
		return err->num;
	if (copy_fd >= 0 && !hole && write_sparse(copy_fd, buf, len, off, f->name, err) < 0)
		return err->num;
	return sha256_hex(buf, len, &f->sha256[index], err);
}

int digest_file(int fd, int copy_fd, struct store_file *f, struct err *err)
{
	autofree uint8_t *buf = malloc(STORE_CHUNK_BYTES);
	uint32_t n = digest_chunks(f->bytes);
	uint64_t data = next_data(fd, 0);

	f->sha256 = calloc(n, sizeof(f->sha256[0]));
	if (!buf || !f->sha256)
		return err_num(err, ERR_INTERNAL, ENOMEM, "digests of %s", f->name);
	f->n_sha256 = n;
	/* to 0 first: a refused reflink may leave a part */
	if (copy_fd >= 0 && (ftruncate(copy_fd, 0) < 0 || ftruncate(copy_fd, (off_t)f->bytes) < 0))
		return err_sys(err, ERR_INTERNAL, "make %s of %llu bytes", f->name, (unsigned long long)f->bytes);
	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t off = (uint64_t)i * STORE_CHUNK_BYTES, end = off + STORE_CHUNK_BYTES;
		if (data < off)
			data = next_data(fd, off);
		bool hole = data >= end || data >= f->bytes;
		if (hole && end <= f->bytes)
			f->sha256[i] = strdup(zero_sha256);
		else if (digest_chunk(fd, copy_fd, buf, i, hole, f, err) < 0)
			return err->num;
		if (!f->sha256[i])
			return err_num(err, ERR_INTERNAL, ENOMEM, "digests of %s", f->name);
	}
	return 0;
}
