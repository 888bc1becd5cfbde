// SPDX-License-Identifier: Apache-2.0
/*
 * Guest RAM: layout around the hole below 4 GiB, its two kinds of mapping, and pages that the guest
 * gives back.
 */
#include "vmm/core/gmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/log.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { HUGE_PAGE = 2 << 20 };

void gmem_layout(struct gmem *mem, uint64_t size, gpa_t low_end, gpa_t high_start)
{
	uint64_t low = size < low_end ? size : low_end;

	*mem = (struct gmem){ .size = size, .file_fd = -1, .n = 1 };
	mem->region[0] = (struct gmem_region){ .gpa = 0, .size = low };
	if (size > low) {
		mem->region[1] = (struct gmem_region){ .gpa = high_start, .size = size - low, .file_offset = low };
		mem->n = 2;
	}
}

/*
 * Reserves addresses at a multiple of HUGE_PAGE, as the guest's addresses are: KVM gives a guest
 * the host's huge pages only where both addresses agree. Nothing can be read there yet. NULL with
 * errno.
 */
static uint8_t *reserve_addresses(size_t size)
{
	uint8_t *p = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	size_t before = -(uintptr_t)p % HUGE_PAGE;
	if (before > 0)
		munmap(p, before);
	munmap(p + before + size, HUGE_PAGE - before);
	return p + before;
}

/* gmem_unmap() releases what a failure leaves. */
static int map_region(struct gmem_region *r, int flags, int fd, struct err *err)
{
	off_t offset = fd >= 0 ? (off_t)r->file_offset : 0;

	r->hva = reserve_addresses(r->size);
	if (!r->hva ||
	    mmap(r->hva, r->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | flags, fd, offset) == MAP_FAILED)
		return err_sys(err, ERR_INTERNAL, "map %llu bytes of guest RAM at 0x%llx", (unsigned long long)r->size,
			       (unsigned long long)r->gpa);
	return 0;
}

int gmem_map_anon(struct gmem *mem, bool thp, bool reserve, struct err *err)
{
	for (unsigned i = 0; i < mem->n; i++) {
		struct gmem_region *r = &mem->region[i];
		if (map_region(r, MAP_ANONYMOUS | (reserve ? 0 : MAP_NORESERVE), -1, err) < 0)
			return err->num;
		if (thp)
			madvise(r->hva, r->size, MADV_HUGEPAGE); /* a host without huge pages may ignore this advice */
	}
	mem->backing = GMEM_ANON;
	return 0;
}

int gmem_map_cow(struct gmem *mem, int *fd, struct err *err)
{
	for (unsigned i = 0; i < mem->n; i++)
		if (map_region(&mem->region[i], MAP_NORESERVE, *fd, err) < 0)
			return err->num;
	gmem_use_file(mem, fd);
	return 0;
}

void gmem_use_file(struct gmem *mem, int *fd)
{
	mem->backing = GMEM_FILE_COW;
	mem->refills = true;
	mem->file_fd = steal_fd(fd);
}

uint8_t *gmem_file_ptr(const struct gmem *mem, uint64_t off)
{
	const struct gmem_region *r = &mem->region[0];

	while (off - r->file_offset >= r->size)
		r++;
	return r->hva + (off - r->file_offset);
}

int gmem_map_run(const struct gmem *mem, int fd, uint64_t off, uint64_t len, struct err *err)
{
	if (mmap(gmem_file_ptr(mem, off), len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd,
		 (off_t)off) == MAP_FAILED)
		return err_sys(err, ERR_INTERNAL, "map %llu bytes of guest RAM at %llu of the file",
			       (unsigned long long)len, (unsigned long long)off);
	return 0;
}

int gmem_prefault(const struct gmem *mem, struct err *err)
{
	for (unsigned i = 0; i < mem->n; i++)
		if (madvise(mem->region[i].hva, mem->region[i].size, MADV_POPULATE_WRITE) < 0)
			return err_sys(err, ERR_INTERNAL, "prefault %llu bytes of guest RAM",
				       (unsigned long long)mem->region[i].size);
	return 0;
}

void gmem_merge(struct gmem *mem)
{
	mem->merges = true;
	for (unsigned i = 0; i < mem->n; i++)
		if (madvise(mem->region[i].hva, mem->region[i].size, MADV_MERGEABLE) < 0)
			log_warn("mergeable=on: this host does not merge guest RAM: errno %d", errno);
}

void gmem_unmap(struct gmem *mem)
{
	for (unsigned i = 0; i < mem->n; i++)
		if (mem->region[i].hva)
			munmap(mem->region[i].hva, mem->region[i].size);
	if (mem->file_fd >= 0)
		close(mem->file_fd);
	free(mem->replaced);
	*mem = (struct gmem){ .file_fd = -1 };
}

/* ---- pages that the guest gives back ---- */

static bool is_replaced(const struct gmem *mem, uint64_t page)
{
	return mem->replaced && mem->replaced[page / 64] >> page % 64 & 1;
}

uint64_t gmem_replaced_run(const struct gmem *mem, uint64_t page, bool *ret_replaced)
{
	uint64_t end = mem->size / GUEST_PAGE;
	bool replaced = is_replaced(mem, page);

	*ret_replaced = replaced;
	while (mem->replaced && ++page < end) {
		uint64_t word = mem->replaced[page / 64];
		if (page % 64 == 0 && word == (replaced ? UINT64_MAX : 0))
			page += 63;
		else if (is_replaced(mem, page) != replaced)
			return page;
	}
	return end;
}

/*
 * How many more runs of replaced pages there are once [first, end) is replaced. Only pages of the
 * same region count: no mapping spans two regions.
 */
static int more_runs(const struct gmem *mem, const struct gmem_region *r, uint64_t first, uint64_t end)
{
	uint64_t region_first = r->file_offset / GUEST_PAGE, region_end = region_first + r->size / GUEST_PAGE;
	bool before = first > region_first && is_replaced(mem, first - 1);
	bool after = end < region_end && is_replaced(mem, end), in_run = before;
	int runs_now = before;

	for (uint64_t page = first; page < end; page++) {
		bool here = is_replaced(mem, page);
		runs_now += here && !in_run;
		in_run = here;
	}
	runs_now += after && !in_run;
	return 1 - runs_now;
}

/*
 * Puts new memory in place of memory that refills. It is one step for everybody who looks: this
 * process, KVM and the pager.
 */
static bool replace(struct gmem *mem, const struct gmem_region *r, uint8_t *hva, uint64_t len)
{
	uint64_t first = (r->file_offset + (uint64_t)(hva - r->hva)) / GUEST_PAGE, end = first + len / GUEST_PAGE;

	if (!mem->replaced)
		mem->replaced = calloc((mem->size / GUEST_PAGE + 63) / 64, sizeof(*mem->replaced));
	if (!mem->replaced)
		return false;
	int64_t runs = (int64_t)mem->n_replaced_runs + more_runs(mem, r, first, end);
	if (runs > GMEM_MAX_REPLACED_RUNS ||
	    mmap(hva, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
		    MAP_FAILED)
		return false;
	if (mem->merges)
		madvise(hva, len, MADV_MERGEABLE);
	mem->n_replaced_runs = (uint32_t)runs;
	for (uint64_t page = first; page < end; page++)
		mem->replaced[page / 64] |= 1ULL << page % 64;
	return true;
}

static const struct gmem_region *region_of(const struct gmem *mem, const uint8_t *hva, uint64_t len)
{
	for (unsigned i = 0; i < mem->n; i++) {
		const struct gmem_region *r = &mem->region[i];
		if (hva >= r->hva && (uint64_t)(hva - r->hva) <= r->size && len <= r->size - (uint64_t)(hva - r->hva))
			return r;
	}
	return NULL;
}

bool gmem_discard(struct gmem *mem, void *hva, uint64_t len)
{
	const struct gmem_region *r = region_of(mem, hva, len);
	uintptr_t first = ((uintptr_t)hva + GUEST_PAGE - 1) & ~(GUEST_PAGE - 1ULL);
	uintptr_t end = ((uintptr_t)hva + len) & ~(GUEST_PAGE - 1ULL);

	if (!r)
		return false;
	if (first >= end)
		return true;
	uint8_t *p = (uint8_t *)hva + (first - (uintptr_t)hva);
	return mem->refills ? replace(mem, r, p, end - first) : madvise(p, end - first, MADV_DONTNEED) == 0;
}

int gmem_write(const struct gmem *mem, gpa_t gpa, const void *data, uint64_t len, const char *what, struct err *err)
{
	void *p = gmem_ptr(mem, gpa, len);

	if (!p)
		return err_set(err, ERR_INVALID, "%s: %llu bytes at 0x%llx do not fit in guest RAM of %llu bytes", what,
			       (unsigned long long)len, (unsigned long long)gpa, (unsigned long long)mem->size);
	memcpy(p, data, len);
	return 0;
}
