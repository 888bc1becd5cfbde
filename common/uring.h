// SPDX-License-Identifier: Apache-2.0
/*
 * io_uring: a ring that is restricted to some files and operations, and transfers of a file's
 * extents at full depth.
 */
#ifndef COMMON_URING_H
#define COMMON_URING_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/*
 * Makes a ring that can do only the given operations, and only on the registered files 0..n_fds-1:
 * without that, what a broken process does with the ring would go past seccomp. Completions signal
 * event_fd (-1: none; see io_uring_cq_eventfd_toggle()).
 */
MUST_CHECK int uring_open(struct io_uring *ring, unsigned entries, const int *fds, unsigned n_fds, const uint8_t *ops,
			  unsigned n_ops, int event_fd, struct err *err);

/* Closes the ring, but never the calling thread's last one: see keep_a_ring(). */
void uring_close(struct io_uring *ring);

/*
 * A file for bulk transfers, with one ring for all of them. Where the host forbids io_uring the
 * transfers are plain reads and writes.
 */
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
 * Writes all extents, many at once. On return all are written, but not durable. After an error only
 * uring_file_done() may follow.
 */
MUST_CHECK int uring_write(struct uring_file *f, const struct extent *ext, uint32_t n, struct err *err);
/* Reads all extents. It is an error when the file ends before. */
MUST_CHECK int uring_read(struct uring_file *f, const struct extent *ext, uint32_t n, struct err *err);

#endif
