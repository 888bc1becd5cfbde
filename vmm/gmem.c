// SPDX-License-Identifier: Apache-2.0
/* Guest RAM: layout around the hole below 4 GiB, and its two kinds of mapping. */
#include "vmm/gmem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "common/log.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

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

static int map_region(struct gmem_region *r, int flags, int fd, struct err *err)
{
	off_t offset = fd >= 0 ? (off_t)r->file_offset : 0;
	void *p = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, fd, offset);

	if (p == MAP_FAILED)
		return err_sys(err, ERR_INTERNAL, "map %llu bytes of guest RAM at 0x%llx", (unsigned long long)r->size,
			       (unsigned long long)r->gpa);
	r->hva = p;
	return 0;
}

int gmem_map_anon(struct gmem *mem, bool thp, bool reserve, struct err *err)
{
	for (unsigned i = 0; i < mem->n; i++) {
		struct gmem_region *r = &mem->region[i];
		if (map_region(r, MAP_ANONYMOUS | (reserve ? 0 : MAP_NORESERVE), -1, err) < 0)
			return err->num;
		if (thp)
			madvise(r->hva, r->size, MADV_HUGEPAGE); /* advice: a host without THP is fine */
	}
	mem->backing = GMEM_ANON;
	return 0;
}

int gmem_map_cow(struct gmem *mem, int *fd, struct err *err)
{
	for (unsigned i = 0; i < mem->n; i++)
		if (map_region(&mem->region[i], MAP_NORESERVE, *fd, err) < 0)
			return err->num;
	mem->backing = GMEM_FILE_COW;
	mem->file_fd = steal_fd(fd);
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

void gmem_merge(const struct gmem *mem)
{
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
	*mem = (struct gmem){ .file_fd = -1 };
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
