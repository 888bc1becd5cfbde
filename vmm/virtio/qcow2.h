// SPDX-License-Identifier: Apache-2.0
/*
 * One qcow2 file in use: where the guest's bytes lie, new clusters, and the tables' way to the disk.
 * The tables are read here at once (pread()); the guest's data are the caller's to move. Guarded by
 * the device's lock.
 *
 * The order that a crash needs: refcounts are written before a cluster is handed out, and data and
 * refcounts are durable before an entry of a table names their cluster. So such entries are kept in
 * memory until a commit: after a crash what the guest had flushed is there, and `qemu-img check` finds
 * nothing but leaked clusters.
 */
#ifndef VMM_VIRTIO_QCOW2_H
#define VMM_VIRTIO_QCOW2_H

#include "common/qcow2.h"

struct qcow2;

enum qcow2_kind {
	QCOW2_ABSENT, /* as the backing file has it, or zeroes */
	QCOW2_ZERO,
	QCOW2_DATA,
	QCOW2_COMPRESSED, /* one cluster at most */
};

struct qcow2_run {
	enum qcow2_kind kind;
	uint64_t at; /* QCOW2_DATA: in the file; QCOW2_COMPRESSED: for qcow2_read_compressed() */
	uint64_t len;
	bool shared; /* QCOW2_DATA that is not to be written in its place */
	bool fresh;  /* a power loss may take it back: no commit has ended since it changed */
};

/*
 * Opens the file. fd stays the caller's, outlives the image and is not O_DIRECT. `path` is for messages.
 */
MUST_CHECK int qcow2_open(int fd, const char *path, const struct qcow2_header *h, bool writable, struct qcow2 **ret,
			  struct err *err);
/*
 * Takes NULL. Of a writable image what was not committed is lost; clusters that were reserved ahead
 * are given back.
 */
void qcow2_free(struct qcow2 *q);

uint64_t qcow2_bytes(const struct qcow2 *q);
uint32_t qcow2_cluster(const struct qcow2 *q); /* bytes */

/*
 * Says where the bytes from `off` on are: the longest run within `len` (> 0, inside the image) that is
 * of one kind and in one piece. 0 or -errno: a table cannot be read, or lies (-EUCLEAN); logged.
 */
MUST_CHECK int qcow2_map(struct qcow2 *q, uint64_t off, uint64_t len, struct qcow2_run *ret);
/*
 * Reads the whole cluster that qcow2_map() called compressed. *ret is the image's and stands until the
 * next call. 0 or -errno, logged.
 */
MUST_CHECK int qcow2_read_compressed(struct qcow2 *q, uint64_t entry, const uint8_t **ret);

/*
 * To be called before anything is written, data in their place too: clears the autoclear features, once
 * and durably. They are bitmaps and the like, which a writer would have to keep up.
 */
MUST_CHECK int qcow2_touch(struct qcow2 *q);
/*
 * Takes *len bytes (whole clusters) of the file, in one piece at *ret_at, and makes *len less where not
 * all are had at once. They read as zeroes. -ENOSPC and others as the file system says.
 */
MUST_CHECK int qcow2_reserve(struct qcow2 *q, uint64_t *len, uint64_t *ret_at);
/* Gives back what was reserved last; what was reserved before that is lost until `qemu-img check`. */
void qcow2_unreserve(struct qcow2 *q, uint64_t at, uint64_t len);
/*
 * The guest's clusters [off, off + len) are at `at` of the file from now on, where their data have been
 * written; or, `at` 0: they read as zeroes (version 3 alone: see qcow2_has_zeroes()). After an error the
 * first of them may be there; the place of the others is given back.
 */
MUST_CHECK int qcow2_bind(struct qcow2 *q, uint64_t off, uint64_t len, uint64_t at);
bool qcow2_has_zeroes(const struct qcow2 *q);

/*
 * What is to be written for the tables as they are now; NULL: nothing, or *ret_error < 0. Its steps are
 * taken one after the other: qcow2_commit_step() says that the file is to be synced (1), or that all
 * is done (0), or -errno. Meanwhile the guest's data may go on, but no other commit.
 */
struct qcow2_commit;
bool qcow2_is_committing(const struct qcow2 *q);
/* So much has changed during the commit under way that qcow2_bind() is to wait for its end. */
bool qcow2_is_behind(const struct qcow2 *q);
struct qcow2_commit *qcow2_commit_begin(struct qcow2 *q, int *ret_error);
int qcow2_commit_step(struct qcow2 *q, struct qcow2_commit *c);
/* ok: the last sync came back well. Else all is to be written again. */
void qcow2_commit_end(struct qcow2 *q, struct qcow2_commit *c, bool ok);
/* The whole of it at once, for a pause and an end. */
MUST_CHECK int qcow2_commit(struct qcow2 *q);

#endif
