// SPDX-License-Identifier: Apache-2.0
/* The pagemap of this process, and lists of pages. */
#include "vmm/state/own_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"

#define PM_PRESENT (1ULL << 63)
#define PM_SWAPPED (1ULL << 62)
#define PM_FILE (1ULL << 61)

enum { BATCH = 4096 };

int own_pages_open(void)
{
	return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

int own_pages_read(int fd, const uint8_t *hva, uint64_t n, uint64_t *ret_entry, struct err *err)
{
	off_t where = (off_t)((uintptr_t)hva / GUEST_PAGE * sizeof(*ret_entry));

	if (pread(fd, ret_entry, n * sizeof(*ret_entry), where) != (ssize_t)(n * sizeof(*ret_entry)))
		return err_sys(err, ERR_INTERNAL, "read /proc/self/pagemap");
	return 0;
}

bool own_pages_is_own(uint64_t entry)
{
	return (entry & (PM_PRESENT | PM_SWAPPED)) && !(entry & PM_FILE);
}

/* ---- lists ---- */

/* false: the list is full. */
static bool add_page(struct own_pages *list, uint32_t *left, uint32_t page)
{
	struct own_run *last = list->n ? &list->run[list->n - 1] : NULL;
	bool follows = last && last->first + last->n == page;

	if (*left == 0 || (!follows && list->n == OWN_RUNS_MAX))
		return false;
	if (follows)
		last->n++;
	else
		list->run[list->n++] = (struct own_run){ page, 1 };
	(*left)--;
	return true;
}

int own_pages_list(const struct gmem *mem, struct own_pages *ret, struct err *err)
{
	autoclose int fd = own_pages_open();
	uint64_t entry[BATCH];
	uint32_t left = OWN_PAGES_MAX;

	ret->n = 0;
	if (mem->backing != GMEM_FILE_COW)
		return err_set(err, ERR_INVALID, "guest RAM is no snapshot's");
	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "open /proc/self/pagemap");
	for (unsigned i = 0; i < mem->n; i++) {
		const struct gmem_region *r = &mem->region[i];
		for (uint64_t at = 0; at < r->size / GUEST_PAGE; at++) {
			uint64_t rest = r->size / GUEST_PAGE - at, n = rest < BATCH ? rest : BATCH;
			if (at % BATCH == 0 && own_pages_read(fd, r->hva + at * GUEST_PAGE, n, entry, err) < 0)
				return err->num;
			if (own_pages_is_own(entry[at % BATCH]) &&
			    !add_page(ret, &left, (uint32_t)(r->file_offset / GUEST_PAGE + at)))
				return 0;
		}
	}
	return 0;
}

/* The part of the run that stands in the region. */
static int make_run(const struct gmem_region *r, const struct own_run *run)
{
	uint64_t begin = (uint64_t)run->first * GUEST_PAGE, end = begin + (uint64_t)run->n * GUEST_PAGE;
	uint64_t last = r->file_offset + r->size;

	begin = begin > r->file_offset ? begin : r->file_offset;
	end = end < last ? end : last;
	return begin < end ? madvise(r->hva + (begin - r->file_offset), end - begin, MADV_POPULATE_WRITE) : 0;
}

void own_pages_make(const struct gmem *mem, const struct own_pages *list)
{
	for (uint32_t k = 0; k < list->n; k++)
		for (unsigned i = 0; i < mem->n; i++)
			if (make_run(&mem->region[i], &list->run[k]) < 0) {
				log_debug("pages are not copied ahead: errno %d", errno);
				return;
			}
}

/* ---- from a clone to its template host ---- */

static size_t list_bytes(uint32_t n)
{
	return offsetof(struct own_pages, run) + n * sizeof(struct own_run);
}

void own_pages_send(int fd, const struct own_pages *list)
{
	if (send(fd, list, list_bytes(list->n), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("nobody wants the list of pages: errno %d", errno);
}

bool own_pages_recv(int fd, uint64_t ram_bytes, struct own_pages *ret)
{
	struct own_pages list;
	uint64_t end = 0, pages = 0;
	ssize_t n = recv(fd, &list, sizeof(list), MSG_DONTWAIT);

	if (n < (ssize_t)list_bytes(0) || list.n > OWN_RUNS_MAX || n != (ssize_t)list_bytes(list.n))
		return false;
	for (uint32_t i = 0; i < list.n; i++) {
		if (list.run[i].first < end || list.run[i].n == 0)
			return false;
		end = (uint64_t)list.run[i].first + list.run[i].n;
		pages += list.run[i].n;
	}
	if (end > ram_bytes / GUEST_PAGE || pages > OWN_PAGES_MAX)
		return false;
	*ret = list;
	return true;
}
