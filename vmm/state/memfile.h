// SPDX-License-Identifier: Apache-2.0
/*
 * memory-ranges: guest RAM as a file, its regions one after the other, zero pages as holes. Written from anonymous memory
 * or from a copy-on-write mapping of an older file; in both cases the file is complete.
 */
#ifndef VMM_STATE_MEMFILE_H
#define VMM_STATE_MEMFILE_H

#include "vmm/core/gmem.h"

/* Writes all of RAM to the empty file fd. Nobody may write guest memory meanwhile. */
MUST_CHECK int memfile_write(int fd, const struct gmem *mem, struct err *err);
/* Reads all of RAM, which must be zero, from the file. */
MUST_CHECK int memfile_read(int fd, const struct gmem *mem, struct err *err);
/*
 * The next data in [off, end) of the file, as whole pages: false when there is none. A page that is a hole in part counts as data.
 * File systems without holes have one extent.
 */
bool memfile_next_data(int fd, uint64_t off, uint64_t end, uint64_t *ret_start, uint64_t *ret_end);

#endif
