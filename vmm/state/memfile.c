// SPDX-License-Identifier: Apache-2.0
/*
 * The old file is the one that RAM is mapped over, if any. The pagemap (own_pages.h) tells which pages must
 * be written: anonymous memory that was never touched is zero, and a page of a private mapping that is
 * still file-backed is in the old file. Pages that gmem_discard() replaced are not taken from the old
 * file: a replaced page that was touched again is memory of our own, else the page is zero.
 * Without a pagemap all of RAM is read and compared with the old file's bytes.
 */
#include "vmm/state/memfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/fs.h"
#include "common/io.h"
#include "common/uring.h"
#include "vmm/state/own_pages.h"

enum { PAGEMAP_BATCH = 4096, COPY_BYTES = 8 << 20, EXTENT_BATCH = 1024 };

/* Extents are collected and moved in batches. */
struct batch {
	struct uring_file file;
	bool write;
	bool cow;                      /* the file begins as a copy of the old file */
	uint64_t data_start, data_end; /* in the file: the data that was found last */
	struct extent ext[EXTENT_BATCH];
	uint32_t n;
};

static struct batch *batch_new(int fd, bool write)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (b) {
		uring_file_init(&b->file, fd);
		b->write = write;
	}
	return b;
}

static void batch_free(struct batch **b)
{
	if (*b)
		uring_file_done(&(*b)->file);
	free(*b);
}
#define autobatch __attribute__((cleanup(batch_free)))

static int flush(struct batch *b, struct err *err)
{
	uint32_t n = b->n;

	b->n = 0;
	return b->write ? uring_write(&b->file, b->ext, n, err) : uring_read(&b->file, b->ext, n, err);
}

static int add(struct batch *b, const uint8_t *buf, uint64_t off, uint64_t len, struct err *err)
{
	struct extent *last = b->n ? &b->ext[b->n - 1] : NULL;

	if (last && (const uint8_t *)last->buf + last->len == buf && last->off + last->len == off) {
		last->len += len;
		return 0;
	}
	if (b->n == EXTENT_BATCH && flush(b, err) < 0)
		return err->num;
	b->ext[b->n++] = (struct extent){ .buf = buf, .off = off, .len = len };
	return 0;
}

static bool is_zero(const uint8_t *page)
{
	const uint64_t *w = (const uint64_t *)(const void *)page;

	for (unsigned i = 0; i < GUEST_PAGE / sizeof(*w); i += 8)
		if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7])
			return false;
	return true;
}

/*
 * Whether the file has data at `off`. `last` is the region's end in the file. Offsets of successive
 * calls ascend.
 */
static bool has_data(struct batch *b, uint64_t off, uint64_t last)
{
	if (off >= b->data_end && !memfile_next_data(b->file.fd, off, last, &b->data_start, &b->data_end))
		b->data_start = b->data_end = last;
	return off >= b->data_start;
}

/* Whether the page differs from the file's bytes; a page that cannot be compared differs. */
static bool differs(const struct batch *b, const uint8_t *page, uint64_t off)
{
	uint8_t old[GUEST_PAGE];

	return io_read(b->file.fd, old, sizeof(old), off) != (ssize_t)sizeof(old) ||
	       memcmp(old, page, sizeof(old)) != 0;
}

/*
 * Whether the page must be written. is_known: the pagemap says that the page is memory of our own;
 * else the page may be. `last` is the region's end in the file.
 */
static bool is_missing(struct batch *b, const uint8_t *page, uint64_t off, uint64_t last, bool is_known)
{
	bool in_file = b->cow && has_data(b, off, last);

	return in_file ? is_known || differs(b, page, off) : !is_zero(page);
}

static int write_region(struct batch *b, int pagemap_fd, const struct gmem_region *r, struct err *err)
{
	uint64_t entry[PAGEMAP_BATCH], pages = r->size / GUEST_PAGE, last = r->file_offset + r->size;

	for (uint64_t at = 0; at < pages; at += PAGEMAP_BATCH) {
		uint64_t n = pages - at < PAGEMAP_BATCH ? pages - at : PAGEMAP_BATCH;
		bool is_known = pagemap_fd >= 0; /* else any page may be memory of our own */
		if (is_known && own_pages_read(pagemap_fd, r->hva + at * GUEST_PAGE, n, entry, err) < 0)
			return err->num;
		for (uint64_t i = 0; i < n; i++) {
			const uint8_t *page = r->hva + (at + i) * GUEST_PAGE;
			uint64_t off = r->file_offset + (at + i) * GUEST_PAGE;
			if ((!is_known || own_pages_is_own(entry[i])) && is_missing(b, page, off, last, is_known) &&
			    add(b, page, off, GUEST_PAGE, err) < 0)
				return err->num;
		}
	}
	return 0;
}

bool memfile_next_data(int fd, uint64_t off, uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
	off_t start = lseek(fd, (off_t)off, SEEK_DATA);

	if (start < 0 && errno == ENXIO)
		return false;
	if (start < 0)
		start = (off_t)off;
	if ((uint64_t)start >= end)
		return false;
	off_t hole = lseek(fd, start, SEEK_HOLE);
	uint64_t first = (uint64_t)start & ~(GUEST_PAGE - 1ULL);
	uint64_t last = ((uint64_t)hole + GUEST_PAGE - 1) & ~(GUEST_PAGE - 1ULL);
	*ret_start = first > off ? first : off;
	*ret_end = hole > start && last < end ? last : end;
	return true;
}

/* Copies [at, end) through a buffer: between some file systems the kernel does not copy by itself. */
static int copy_plain(int from, int to, off_t at, off_t end, struct err *err)
{
	autofree uint8_t *buf = malloc(COPY_BYTES);
	autouringfile struct uring_file in = {}, out = {};

	if (!buf)
		return err_num(err, ERR_INTERNAL, ENOMEM, "copy memory from the template");
	uring_file_init(&in, from);
	uring_file_init(&out, to);
	while (at < end) {
		uint64_t len = end - at < COPY_BYTES ? (uint64_t)(end - at) : COPY_BYTES;
		struct extent e = { .buf = buf, .off = (uint64_t)at, .len = len };
		if (uring_read(&in, &e, 1, err) < 0 || uring_write(&out, &e, 1, err) < 0)
			return err->num;
		at += (off_t)len;
	}
	return 0;
}

/*
 * Copies the old file's data in [off, last) and keeps holes. The two files share the data where the
 * file system can do that.
 */
static int copy_range(int from, int to, uint64_t off, uint64_t last, struct err *err)
{
	uint64_t start, end;

	for (; memfile_next_data(from, off, last, &start, &end); off = end) {
		off_t in = (off_t)start, out = (off_t)start;
		while (in < (off_t)end) {
			ssize_t n = copy_file_range(from, &in, to, &out, (size_t)((off_t)end - in), 0);
			if (n < 0 && errno == EINTR)
				continue;
			if (n == 0)
				return err_set(err, ERR_INVALID, "the template's memory ends at %lld", (long long)in);
			if (n > 0)
				continue;
			/*
			 * File systems refuse to copy with many error numbers; copy_plain() meets a real error
			 * again.
			 */
			if (copy_plain(from, to, in, (off_t)end, err) < 0)
				return err_wrap(err, "copy memory from the template");
			break;
		}
	}
	return 0;
}

/* Copies the old file, without the pages that the guest gave back. */
static int copy_file(const struct gmem *mem, int to, struct err *err)
{
	uint64_t pages = mem->size / GUEST_PAGE, end;

	for (uint64_t page = 0; page < pages; page = end) {
		bool replaced;
		end = gmem_replaced_run(mem, page, &replaced);
		if (!replaced && copy_range(mem->file_fd, to, page * GUEST_PAGE, end * GUEST_PAGE, err) < 0)
			return err->num;
	}
	return 0;
}

int memfile_write(int fd, const struct gmem *mem, struct err *err)
{
	autoclose int pagemap_fd = own_pages_open();
	autobatch struct batch *b = batch_new(fd, true);

	if (!b)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write guest memory");
	b->cow = mem->backing == GMEM_FILE_COW;
	if (ftruncate(fd, (off_t)mem->size) < 0)
		return err_sys(err, ERR_INTERNAL, "make a file of %llu bytes", (unsigned long long)mem->size);
	if (b->cow && copy_file(mem, fd, err) < 0)
		return err->num;
	for (unsigned i = 0; i < mem->n; i++)
		if (write_region(b, pagemap_fd, &mem->region[i], err) < 0)
			return err->num;
	return flush(b, err);
}

static int add_run(struct memfile_plan *plan, uint64_t start, uint64_t end, struct err *err)
{
	if ((plan->n & (plan->n - 1)) == 0) { /* full at each power of two */
		size_t room = plan->n ? 2 * (size_t)plan->n : 1;
		struct memfile_run *run = realloc(plan->run, room * sizeof(*run));
		if (!run)
			return err_num(err, ERR_INTERNAL, ENOMEM, "plan the mapping of memory-ranges");
		plan->run = run;
	}
	plan->run[plan->n++] = (struct memfile_run){ start, end };
	return 0;
}

/*
 * Runs below the returned number of bytes are copied, so that few enough runs are left to map. A
 * mapped run costs one mapping, whatever the run's length.
 */
static uint64_t shortest_to_map(const struct memfile_plan *plan)
{
	uint32_t longer[64] = {}, n = 0; /* [i]: runs of 2^i bytes and more, below the next power */
	int i = 63;

	for (uint32_t k = 0; k < plan->n; k++)
		longer[63 - __builtin_clzll(plan->run[k].end - plan->run[k].start)]++;
	for (; i >= 0 && n + longer[i] <= MEMFILE_MAX_MAPPED_RUNS; i--)
		n += longer[i];
	return i < 0 ? 0 : 2ULL << i;
}

int memfile_plan(struct memfile_plan *plan, int fd, const struct gmem *mem, struct err *err)
{
	plan->in_runs = fs_fills_holes(fd);
	for (unsigned i = 0; plan->in_runs && i < mem->n; i++) {
		const struct gmem_region *r = &mem->region[i];
		uint64_t start, end, last = r->file_offset + r->size;
		for (uint64_t off = r->file_offset; memfile_next_data(fd, off, last, &start, &end); off = end)
			if (add_run(plan, start, end, err) < 0)
				return err->num;
	}
	plan->shortest = shortest_to_map(plan);
	return 0;
}

void memfile_plan_done(struct memfile_plan *plan)
{
	free(plan->run);
	*plan = (struct memfile_plan){};
}

int memfile_map(const struct memfile_plan *plan, int *fd, struct gmem *mem, struct err *err)
{
	if (!plan->in_runs)
		return gmem_map_cow(mem, fd, err);
	autobatch struct batch *b = batch_new(*fd, false);
	if (!b)
		return err_num(err, ERR_INTERNAL, ENOMEM, "map guest memory");
	if (gmem_map_anon(mem, false, false, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < plan->n; i++) {
		const struct memfile_run *run = &plan->run[i];
		uint64_t len = run->end - run->start;
		int r = len < plan->shortest ? add(b, gmem_file_ptr(mem, run->start), run->start, len, err)
					     : gmem_map_run(mem, *fd, run->start, len, err);
		if (r < 0)
			return r;
	}
	if (flush(b, err) < 0)
		return err->num;
	gmem_use_file(mem, fd);
	return 0;
}

int memfile_read(int fd, const struct gmem *mem, struct err *err)
{
	autobatch struct batch *b = batch_new(fd, false);

	if (!b)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read guest memory");
	for (unsigned i = 0; i < mem->n; i++) {
		const struct gmem_region *r = &mem->region[i];
		uint64_t start, end, last = r->file_offset + r->size;
		for (uint64_t off = r->file_offset; memfile_next_data(fd, off, last, &start, &end); off = end)
			if (add(b, r->hva + (start - r->file_offset), start, end - start, err) < 0)
				return err->num;
	}
	return flush(b, err);
}
