// SPDX-License-Identifier: Apache-2.0
/*
 * The header of a qcow2 image (QEMU's docs/interop/qcow2.txt): read and checked, and written for a
 * new overlay. What an image maps, and the guest's reads and writes, are in vmm/virtio/. No thread of
 * its own; a header is plain data.
 */
#ifndef COMMON_QCOW2_H
#define COMMON_QCOW2_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

#define QCOW2_MAGIC "QFI\xfb"
enum {
	QCOW2_MAGIC_BYTES = 4,
	QCOW2_BITS_MIN = 9, /* of a cluster's size */
	QCOW2_BITS_MAX = 21,
	QCOW2_BITS_OWN = 16,                  /* of the overlays made here */
	QCOW2_HEAD_MAX = 1 << QCOW2_BITS_MAX, /* the first cluster, where the header and all names are */
	QCOW2_NAME_MAX = 1023,
	QCOW2_FORMAT_MAX = 15,
	QCOW2_L1_MAX_BYTES = 32 << 20, /* QEMU's own bounds */
	QCOW2_REFS_MAX_BYTES = 8 << 20,
	QCOW2_AUTOCLEAR_AT = 88, /* offsets in the file */
	QCOW2_REFS_AT = 48,
};

struct qcow2_header {
	uint32_t version; /* 2 or 3 */
	uint32_t cluster_bits;
	uint64_t bytes; /* that the guest sees */
	uint64_t l1_at, l1_entries;
	uint64_t refs_at, refs_clusters; /* the refcount table */
	uint32_t refs_order;             /* log2 of a refcount's bits */
	bool zstd;                       /* what compressed clusters are; else deflate */
	uint64_t autoclear;              /* features that a writer clears unless it keeps them up */
	char backing[QCOW2_NAME_MAX + 1];
	char backing_format[QCOW2_FORMAT_MAX + 1]; /* "" : the image does not say */
};

static inline uint64_t qcow2_cluster_bytes(const struct qcow2_header *h)
{
	return 1ULL << h->cluster_bits;
}

/* Guest bytes for which one L2 table stands. */
static inline uint64_t qcow2_l2_covers(const struct qcow2_header *h)
{
	return 1ULL << (2 * h->cluster_bits - 3);
}

/*
 * Reads and checks the header of an image of `file_bytes`. `path` is for messages alone. Every table
 * that *ret names lies within the file. Refused by name: encryption, an external data file, extended
 * L2 entries, internal snapshots, an image that is marked dirty or corrupt, features that are unknown.
 */
MUST_CHECK int qcow2_read_header(int fd, uint64_t file_bytes, const char *path, struct qcow2_header *ret,
				 struct err *err);
/* The same of the image's first `len` bytes, QCOW2_HEAD_MAX or all of them. Makes no system call. */
MUST_CHECK int qcow2_parse_header(const uint8_t *head, size_t len, uint64_t file_bytes, const char *path,
				  struct qcow2_header *ret, struct err *err);

/*
 * Writes an empty image of `bytes` (a multiple of 512) into the empty file fd: version 3, clusters of
 * 64 KiB. `backing` (NULL: none) and `backing_format` ("raw", "qcow2") go into its header as they are.
 * Not synced.
 */
MUST_CHECK int qcow2_create(int fd, uint64_t bytes, const char *backing, const char *backing_format, struct err *err);

/*
 * Where the file is that the image at `image` names as its backing file: a relative name counts from the folder
 * of that image. On the heap; NULL: no memory.
 */
char *qcow2_backing_path(const char *image, const char *name);
/*
 * Changes what an image that qcow2_create() made names as its backing file. Nobody else has it open for
 * writing. ERR_INVALID: it was not made by qcow2_create(). Not synced.
 */
MUST_CHECK int qcow2_rename_backing(int fd, const char *backing, const char *backing_format, struct err *err);

#endif
