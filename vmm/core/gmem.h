// SPDX-License-Identifier: Apache-2.0
/*
 * Guest RAM: where it stands in the guest's physical addresses and in this process. RAM is mapped
 * once, before the first vCPU exists, and is never moved or resized: pointers into it stay valid
 * and need no lock. Pages that the guest gives back through its balloon (gmem_discard()) become
 * zero where they stand.
 */
#ifndef VMM_CORE_GMEM_H
#define VMM_CORE_GMEM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

typedef uint64_t gpa_t;

enum { GMEM_MAX_REGIONS = 2, GUEST_PAGE = 4096 };

struct gmem_region {
	gpa_t gpa;
	uint64_t size;        /* bytes */
	uint64_t file_offset; /* in memory-ranges: the sizes of the regions before */
	uint8_t *hva;
};

enum gmem_backing {
	GMEM_ANON,     /* private anonymous memory */
	GMEM_FILE_COW, /* MAP_PRIVATE of a snapshot's memory-ranges */
};

struct gmem {
	struct gmem_region region[GMEM_MAX_REGIONS];
	unsigned n;
	uint64_t size; /* of all regions */
	enum gmem_backing backing;
	int file_fd;  /* GMEM_FILE_COW: memory-ranges, owned, for the next snapshot; else -1 */
	bool merges;  /* gmem_merge() was called */
	bool refills; /* a page that is merely dropped comes back with the snapshot's bytes */
	/*
	 * For memory that refills: a bit for each page, in file order, that has new memory. NULL
	 * until the first page is discarded.
	 */
	uint64_t *replaced;
	uint32_t n_replaced_runs;
};

/*
 * The bound on runs of replaced pages: each run splits a mapping, and the host allows 65530
 * mappings.
 */
enum { GMEM_MAX_REPLACED_RUNS = 8192 };

/*
 * Fills in the places of the regions for `size` bytes of RAM; nothing is mapped yet. Where RAM is
 * split is up to the architecture.
 */
void gmem_layout(struct gmem *mem, uint64_t size, gpa_t low_end, gpa_t high_start);
/* Anonymous memory, zero. thp: advise huge pages. */
MUST_CHECK int gmem_map_anon(struct gmem *mem, bool thp, bool reserve, struct err *err);
/*
 * Maps the file copy-on-write. The caller has checked that the file has mem->size bytes. Takes *fd
 * over on success.
 */
MUST_CHECK int gmem_map_cow(struct gmem *mem, int *fd, struct err *err);
/*
 * The same in steps, where not all of the file is to be mapped: gmem_map_anon(), then
 * gmem_map_run() for parts of the file, which are whole pages in one region, then gmem_use_file().
 * What is not mapped is the caller's to copy.
 */
MUST_CHECK int gmem_map_run(const struct gmem *mem, int fd, uint64_t off, uint64_t len, struct err *err);
void gmem_use_file(struct gmem *mem, int *fd);
/* The host address of what stands at `off` in the file. */
uint8_t *gmem_file_ptr(const struct gmem *mem, uint64_t off);
/* Populates all of RAM for writing. */
MUST_CHECK int gmem_prefault(const struct gmem *mem, struct err *err);
/*
 * Gives the whole pages in [hva, hva + len), which lie in one region, back to the host; the guest
 * reads zeros there from then on. The pages never show bytes of the snapshot: where that would take
 * too many mappings, they keep what the guest had there, and the function returns false. Callers
 * take turns; memfile_write() does not run meanwhile.
 */
bool gmem_discard(struct gmem *mem, void *hva, uint64_t len);
/*
 * The end of the run of pages, from `page` on in file order, that were all replaced or all not
 * replaced. *ret_replaced says which.
 */
uint64_t gmem_replaced_run(const struct gmem *mem, uint64_t page, bool *ret_replaced);
/*
 * Lets the host's same-page merging (KSM) share equal pages of RAM that belong to this process. On
 * a host without KSM that is logged, and no error.
 */
void gmem_merge(struct gmem *mem);
void gmem_unmap(struct gmem *mem);

/* The host address of [gpa, gpa + len), or NULL when any byte of it is not RAM. len may be 0. */
static inline void *gmem_ptr(const struct gmem *mem, gpa_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < mem->n; i++) {
		const struct gmem_region *r = &mem->region[i];
		if (gpa >= r->gpa && gpa - r->gpa <= r->size && len <= r->size - (gpa - r->gpa))
			return r->hva + (gpa - r->gpa);
	}
	return NULL;
}

/* Copies into guest RAM. For the loader; `what` names the bytes in the message. */
MUST_CHECK int gmem_write(const struct gmem *mem, gpa_t gpa, const void *data, uint64_t len, const char *what,
			  struct err *err);

#endif
