// SPDX-License-Identifier: Apache-2.0
/* A file of which every byte is read once, in order, and hashed on the way: a blob of an OCI layout, or an archive. One thread. */
#ifndef FORKD_BUILD_BLOB_H
#define FORKD_BUILD_BLOB_H

#include <gnutls/crypto.h>
#include <stdint.h>

#include "common/err.h"

enum { BLOB_DIGEST = 72, BLOB_SUM = 32, BLOB_PIECE = 256 << 10 }; /* "sha256:", 64 digits, NUL */

/* What a manifest says about a blob. Names as in JSON. */
struct descriptor {
	char *mediaType, *digest;
	uint64_t size;
};

struct blob {
	int fd;
	const char *what; /* for messages; its owner's */
	uint64_t size, at;
	char expected[BLOB_DIGEST]; /* "": nobody knows it before */
	gnutls_hash_hd_t hash;
	unsigned char *piece;
};
#define BLOB_NONE        \
	{                \
		.fd = -1 \
	}
#define autoblob __attribute__((cleanup(blob_close)))

/*
 * Opens the blob in the layout `dir_fd`: a regular file, of the size that the descriptor says. The digest must be one of
 * SHA-256. `d` must stay.
 */
MUST_CHECK int blob_open(struct blob *blob, int dir_fd, const struct descriptor *d, struct err *err);
/* Takes over `fd`, a regular file at its beginning. `expected`: its digest, or "". */
MUST_CHECK int blob_open_file(struct blob *blob, int fd, const char *what, const char *expected, struct err *err);
/* The next piece, until the next call; 0 bytes: the end. */
MUST_CHECK ssize_t blob_read(struct blob *blob, const void **ret_bytes, struct err *err);
/* Reads what is left, and compares size and digest. `ret_digest` (BLOB_DIGEST bytes) may be NULL. */
MUST_CHECK int blob_finish(struct blob *blob, char *ret_digest, struct err *err);
void blob_close(struct blob *blob);

/* The whole of a blob as text, with a NUL behind it. At most `max` bytes. */
MUST_CHECK int blob_text(int dir_fd, const struct descriptor *d, uint64_t max, char **ret_text, struct err *err);
/* Opens a file of the layout below `dir_fd`: a regular file, and no symbolic link on the way. */
MUST_CHECK int blob_open_plain(int dir_fd, const char *path, uint64_t *ret_size, struct err *err);

/* A SHA-256 as text (BLOB_DIGEST bytes), and back. */
void blob_digest_text(const unsigned char sum[BLOB_SUM], char *ret_digest);
MUST_CHECK int blob_digest_bytes(const char *digest, unsigned char ret_sum[BLOB_SUM], struct err *err);

#endif
