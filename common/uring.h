// SPDX-License-Identifier: Apache-2.0
/*
 * io_uring batches: a restricted ring for some files, and moving a file's extents at full depth.
 */
#ifndef COMMON_URING_H
#define COMMON_URING_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/*
 * A ring that can do only the given operations, and only on the registered files 0..n_fds-1: what a broken process could
 * do with it otherwise goes past seccomp. Completions signal event_fd (-1: none; see io_uring_cq_eventfd_toggle()).
 */
MUST_CHECK int uring_open(struct io_uring *ring, unsigned entries, const int *fds, unsigned n_fds, const uint8_t *ops,
			  unsigned n_ops, int event_fd, struct err *err);

/* Closes it, but never the calling thread's last ring: see keep_a_ring(). */
void uring_close(struct io_uring *ring);

/* A file for bulk transfers: one ring for all of them; plain reads and writes where the host forbids io_uring. */
struct uring_file {
	int fd; /* not owned */
	bool has_ring;
	struct io_uring ring;
};

struct extent {
	const void *buf; /* uring_read() writes there */
	uint64_t off, len;
};

void uring_file_init(struct uring_file *f, int fd);
void uring_file_done(struct uring_file *f);
#define autouringfile __attribute__((cleanup(uring_file_done)))
/*
 * Writes all extents, many at once; returns when all are written, not when they are durable. After an error there is nothing
 * left but uring_file_done().
 */
MUST_CHECK int uring_write(struct uring_file *f, const struct extent *ext, uint32_t n, struct err *err);
/* Reads all extents; the end of the file before that is an error. */
MUST_CHECK int uring_read(struct uring_file *f, const struct extent *ext, uint32_t n, struct err *err);

#endif
