// SPDX-License-Identifier: Apache-2.0
/* The inside of a qcow2 file in use: qcow2.c maps, qcow2_refs.c takes clusters, qcow2_commit.c writes. */
#ifndef VMM_VIRTIO_QCOW2_PRIVATE_H
#define VMM_VIRTIO_QCOW2_PRIVATE_H

#include "vmm/virtio/qcow2.h"

enum {
	SLICE_MAX_BYTES = 4096, /* the part of an L2 table that is read at once: 32 MiB of the guest's at 64 KiB */
	SLICES_MAX = 4096,      /* that are kept while clean ones can go */
	SLICES_LIMIT = 2 * SLICES_MAX,
	SLICE_BUCKETS = 1024,
	FREED_MAX = 4096,
};
#define QCOW2_COPIED (1ULL << 63)
#define QCOW2_IS_COMPRESSED (1ULL << 62)
#define QCOW2_READS_ZERO 1ULL
#define QCOW2_OFFSET 0x00fffffffffffe00ULL

/* A part of an L2 table, as it lies in the file: big-endian. */
struct slice {
	struct slice *next; /* in its bucket */
	uint64_t at;        /* in the file */
	bool dirty, held;   /* held: a commit writes a copy */
	bool used;          /* since the hand passed */
	uint64_t entries[];
};

struct qcow2 {
	int fd;
	bool writable;
	char *path;
	struct qcow2_header h;
	uint64_t file_bytes; /* whole clusters */
	uint64_t *l1;        /* offsets of L2 tables */
	uint8_t *l1_dirty;   /* a bit for each */
	unsigned n_l1_dirty, n_dirty;
	struct slice *buckets[SLICE_BUCKETS], **slices;
	unsigned n_slices, hand;
	/* New clusters: those in [next, ready) have their refcount already. In clusters. */
	uint64_t next, ready;
	uint64_t *refs; /* the refcount table, as in the file; a writable image alone */
	/* L2 entries that were replaced, until a commit has made that durable. */
	uint64_t freed[FREED_MAX];
	unsigned n_freed;
	bool committing;
	uint8_t *inflated; /* of the compressed cluster `inflated_entry` */
	uint64_t inflated_entry;
	uint64_t faults;
};

static inline uint64_t slice_bytes(const struct qcow2 *q)
{
	uint64_t cluster = qcow2_cluster_bytes(&q->h);

	return cluster < SLICE_MAX_BYTES ? cluster : SLICE_MAX_BYTES;
}

/* Logs a lie of the image, and returns -EUCLEAN. */
int qcow2_lies(struct qcow2 *q, const char *what, uint64_t value);
/* Where the data of a compressed cluster are in the file, and how many bytes they may be. */
void qcow2_compressed_range(const struct qcow2 *q, uint64_t entry, uint64_t *ret_at, uint64_t *ret_len);

/* ---- qcow2_refs.c ---- */

/* Writes [at, at + len) of the file: 0 or -errno. */
MUST_CHECK int qcow2_put(struct qcow2 *q, const void *buf, size_t len, uint64_t at);
MUST_CHECK int qcow2_refs_open(struct qcow2 *q, struct err *err);
/* Gives back the clusters that were taken ahead, and cuts the file. */
void qcow2_refs_close(struct qcow2 *q);
/* Frees what q->freed[0..n) name: a commit has made durable that no table names it any more. */
void qcow2_refs_drop(struct qcow2 *q, unsigned n);

#endif
