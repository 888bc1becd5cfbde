// SPDX-License-Identifier: Apache-2.0
/* Reading and writing a whole range of a file, however the kernel cuts it into pieces. */
#ifndef COMMON_IO_H
#define COMMON_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/auto.h"

/*
 * Reads [off, off + len). Returns the number of bytes, which is less than len only when the file
 * ends before; or -errno.
 */
MUST_CHECK ssize_t io_read(int fd, void *buf, uint64_t len, uint64_t off);
/*
 * Writes [off, off + len). Returns len, or less when the file takes no more without saying why; or
 * -errno.
 */
MUST_CHECK ssize_t io_write(int fd, const void *buf, uint64_t len, uint64_t off);
/*
 * Whether write() puts data at the end of the file, wherever that is by then: a log that somebody cuts has no hole afterwards. For all
 * who share the open file.
 */
void io_set_append(int fd, bool on);

#endif
