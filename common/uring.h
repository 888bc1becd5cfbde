// SPDX-License-Identifier: Apache-2.0
/*
 * io_uring batches: a restricted ring for one file, and writing a file's extents at full depth.
 */
#ifndef COMMON_URING_H
#define COMMON_URING_H

#include <liburing.h>
#include <stdint.h>

#include "common/err.h"

/*
 * A ring that can do only the given operations, and only on the registered files 0..n_fds-1: what a broken process could
 * do with it otherwise goes past seccomp. Completions signal event_fd (-1: none; see io_uring_cq_eventfd_toggle()).
 */
MUST_CHECK int uring_open(struct io_uring *ring, unsigned entries, const int *fds, unsigned n_fds, const uint8_t *ops,
			  unsigned n_ops, int event_fd, struct err *err);

struct extent {
	const void *buf;
	uint64_t off, len;
};

/*
 * Writes all extents to fd, many at once; returns when all are written, not when they are durable. Falls back to plain
 * writes where the host forbids io_uring.
 */
MUST_CHECK int uring_write_extents(int fd, const struct extent *ext, uint32_t n, struct err *err);
/* Reads [off, off + len) of the file into buf; the end of the file before that is an error. */
MUST_CHECK int uring_read_all(int fd, void *buf, uint64_t off, uint64_t len, struct err *err);

#endif
