// SPDX-License-Identifier: Apache-2.0
/*
 * memory-ranges is guest RAM as a file: the regions of RAM one after the other, zero pages as holes.
 * RAM may be anonymous memory or a copy-on-write mapping of an older file; a new file is complete in
 * both cases.
 */
#ifndef VMM_STATE_MEMFILE_H
#define VMM_STATE_MEMFILE_H

#include "vmm/core/gmem.h"

/*
 * How memory-ranges is mapped. On most file systems the file is mapped as a whole. In a tmpfs a hole
 * that is read through a mapping becomes a page for good: there only the runs of data are mapped, and
 * holes are anonymous memory. Runs below `shortest` bytes are copied, so that there are never more
 * than MEMFILE_MAX_MAPPED_RUNS mappings of the file.
 */
enum { MEMFILE_MAX_MAPPED_RUNS = 4096 };
struct memfile_run {
	uint64_t start, end; /* offsets in the file; whole pages of one region */
};
struct memfile_plan {
	bool in_runs;
	struct memfile_run *run;
	uint32_t n;
	uint64_t shortest;
};

/*
 * Plans how the file is mapped. The file must not change from now on. *plan must be zeroed. Release:
 * memfile_plan_done(), also after a failure.
 */
MUST_CHECK int memfile_plan(struct memfile_plan *plan, int fd, const struct gmem *mem, struct err *err);
void memfile_plan_done(struct memfile_plan *plan);
/*
 * Maps RAM copy-on-write over the file, by the plan. Takes *fd over on success. After a failure
 * gmem_unmap() releases what was mapped.
 */
MUST_CHECK int memfile_map(const struct memfile_plan *plan, int *fd, struct gmem *mem, struct err *err);
/*
 * Writes all of RAM to the empty file fd. Nobody may write guest memory meanwhile. Where the pagemap
 * cannot be read, fewer pages are written when fd can be read too.
 */
MUST_CHECK int memfile_write(int fd, const struct gmem *mem, struct err *err);
/* Reads all of RAM, which must be zero, from the file. */
MUST_CHECK int memfile_read(int fd, const struct gmem *mem, struct err *err);
/*
 * Finds the next data in [off, end) of the file, as whole pages; false: there is none. A page that is
 * partly a hole counts as data. On a file system without holes everything is data.
 */
bool memfile_next_data(int fd, uint64_t off, uint64_t end, uint64_t *ret_start, uint64_t *ret_end);

#endif
