// SPDX-License-Identifier: Apache-2.0
/*
 * memory-ranges: guest RAM as a file, its regions one after the other, zero pages as holes. Written from anonymous memory
 * or from a copy-on-write mapping of an older file; in both cases the file is complete.
 */
#ifndef VMM_STATE_MEMFILE_H
#define VMM_STATE_MEMFILE_H

#include "vmm/core/gmem.h"

/*
 * How memory-ranges is mapped. On most file systems as a whole. A tmpfs gives a hole that is read through a mapping a page for good: there
 * the runs of data are mapped alone and holes are anonymous memory. Runs below `shortest` bytes are copied, so that there are never more
 * than MEMFILE_MAX_MAPPED_RUNS mappings of the file.
 */
enum { MEMFILE_MAX_MAPPED_RUNS = 4096 };
struct memfile_run {
	uint64_t start, end; /* in the file, whole pages of one region */
};
struct memfile_plan {
	bool in_runs;
	struct memfile_run *run;
	uint32_t n;
	uint64_t shortest;
};

/* Looks at the file, which must not change from now on. *plan must be zeroed. Release: memfile_plan_done(), also after a failure. */
MUST_CHECK int memfile_plan(struct memfile_plan *plan, int fd, const struct gmem *mem, struct err *err);
void memfile_plan_done(struct memfile_plan *plan);
/* Maps RAM copy-on-write over the file, by the plan. Takes *fd over on success; what a failure leaves is gmem_unmap()'s. */
MUST_CHECK int memfile_map(const struct memfile_plan *plan, int *fd, struct gmem *mem, struct err *err);
/* Writes all of RAM to the empty file fd, best one that can be read too. Nobody may write guest memory meanwhile. */
MUST_CHECK int memfile_write(int fd, const struct gmem *mem, struct err *err);
/* Reads all of RAM, which must be zero, from the file. */
MUST_CHECK int memfile_read(int fd, const struct gmem *mem, struct err *err);
/*
 * The next data in [off, end) of the file, as whole pages: false when there is none. A page that is a hole in part counts as data.
 * File systems without holes have one extent.
 */
bool memfile_next_data(int fd, uint64_t off, uint64_t end, uint64_t *ret_start, uint64_t *ret_end);

#endif
