// SPDX-License-Identifier: Apache-2.0
/*
 * Reads the header of a qcow2 image that somebody gave to the daemon. The header is parsed by a child
 * that can do nothing but read and write what is open, and end (seccomp's strict mode). Any thread.
 */
#ifndef FORKD_ACCESS_IMAGE_HEADER_H
#define FORKD_ACCESS_IMAGE_HEADER_H

#include "common/qcow2.h"

/*
 * fd is open for reading. `path` is for messages. E_INVALID: the header is refused, or the child did not answer within
 * some seconds.
 */
MUST_CHECK int image_header_read(int fd, uint64_t file_bytes, const char *path, struct qcow2_header *ret,
				 struct err *err);

#endif
