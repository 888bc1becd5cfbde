// SPDX-License-Identifier: Apache-2.0
/* vmm/memfile: the file has all of RAM and nothing but its data, from anonymous memory and from a copy-on-write mapping. */
#include "vmm/state/memfile.h"

#include "tests/unit/small_blocks.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { PAGE = 4096, LOW_PAGES = 6000, HIGH_PAGES = 100, PAGES = LOW_PAGES + HIGH_PAGES };
#define HIGH (1ULL << 32)

static void layout(struct gmem *m)
{
	gmem_layout(m, (uint64_t)PAGES * PAGE, (uint64_t)LOW_PAGES * PAGE, HIGH);
}

/* Page n of the file. */
static uint8_t *page(const struct gmem *m, unsigned n)
{
	return gmem_ptr(m, n < LOW_PAGES ? (gpa_t)n * PAGE : HIGH + (gpa_t)(n - LOW_PAGES) * PAGE, PAGE);
}

/* The file against memory, byte for byte. */
static void same(int fd, const struct gmem *m)
{
	uint8_t buf[PAGE];

	for (unsigned n = 0; n < PAGES; n++) {
		assert_int_equal(pread(fd, buf, PAGE, (off_t)n * PAGE), PAGE);
		if (memcmp(buf, page(m, n), PAGE) != 0)
			fail_msg("page %u differs", n);
	}
}

static bool has_data(int fd, unsigned n)
{
	uint64_t start, end;

	return memfile_next_data(fd, (uint64_t)n * PAGE, (uint64_t)(n + 1) * PAGE, &start, &end);
}

/* Pages that are no hole. Not st_blocks: that counts the file system's own, too, once it has written them. */
static unsigned data_pages(int fd)
{
	struct stat st;
	unsigned found = 0;

	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, (off_t)PAGES * PAGE);
	for (unsigned n = 0; n < PAGES; n++)
		found += has_data(fd, n);
	return found;
}

static const unsigned touched[] = { 0, 1, 2, 77, 4095, 4096, 4097, 5999, 6000, 6001, 6099 };

static void map(struct gmem *m)
{
	struct err err = {};

	layout(m);
	assert_int_equal(gmem_map_anon(m, false, false, &err), 0);
	for (unsigned i = 0; i < m->n; i++) /* page by page, whatever this host prefers */
		madvise(m->region[i].hva, m->region[i].size, MADV_NOHUGEPAGE);
}

static void from_anonymous_memory(void **state)
{
	autoclose int fd = unit_file();
	struct gmem m, n;
	struct err err = {};

	(void)state;
	map(&m);
	for (size_t i = 0; i < ARRAY_LEN(touched); i++)
		page(&m, touched[i])[i % 2 ? PAGE - 1 : 0] = (uint8_t)(i + 1); /* one byte is enough, at either end */
	page(&m, 3000)[5] = 0;                                                 /* touched, but zero: no data */
	(void)*(volatile uint8_t *)page(&m, 3500);
	assert_int_equal(memfile_write(fd, &m, &err), 0);
	same(fd, &m);
	assert_int_equal(data_pages(fd), ARRAY_LEN(touched));
	assert_false(has_data(fd, 3000));
	assert_true(has_data(fd, 77));
	map(&n);
	assert_int_equal(memfile_read(fd, &n, &err), 0);
	unsigned char resident;
	assert_int_equal(mincore(page(&n, 3000), PAGE, &resident), 0);
	assert_int_equal(resident & 1, 0); /* holes are not touched */
	same(fd, &n);
	gmem_unmap(&m);
	gmem_unmap(&n);
}

/* Every other page: more extents than a batch has. */
static void scattered_pages(void **state)
{
	autoclose int fd = unit_file();
	struct gmem m;
	struct err err = {};

	(void)state;
	map(&m);
	for (unsigned n = 0; n < PAGES; n += 2)
		memset(page(&m, n), (int)(n % 251) + 1, PAGE);
	assert_int_equal(memfile_write(fd, &m, &err), 0);
	same(fd, &m);
	assert_int_equal(data_pages(fd), PAGES / 2);
	gmem_unmap(&m);
}

static void write_template(int fd)
{
	uint8_t buf[PAGE];

	assert_int_equal(ftruncate(fd, (off_t)PAGES * PAGE), 0);
	for (size_t i = 0; i < ARRAY_LEN(touched); i++) {
		memset(buf, 'A' + (int)i, PAGE);
		assert_int_equal(pwrite(fd, buf, PAGE, (off_t)touched[i] * PAGE), PAGE);
	}
}

static void map_template(struct gmem *m, int *template)
{
	struct memfile_plan plan = {};
	struct err err = {};

	assert_int_equal(memfile_plan(&plan, *template, m, &err), 0);
	assert_int_equal(memfile_map(&plan, template, m, &err), 0);
	assert_int_equal(*template, -1);
	memfile_plan_done(&plan);
}

static void copy_on_write_of(int template)
{
	autoclose int fd = unit_file();
	struct gmem m;
	struct err err = {};

	write_template(template);
	layout(&m);
	map_template(&m, &template);
	(void)*(volatile uint8_t *)page(&m, 0); /* read only: still the file's */
	(void)*(volatile uint8_t *)page(&m, 3000);
	page(&m, 1)[9] = 'x';            /* a page of data, changed */
	page(&m, 500)[9] = 'y';          /* a hole, written */
	memset(page(&m, 4096), 0, PAGE); /* data that became zero */
	page(&m, 6050)[0] = 'z';
	memset(page(&m, 5000), 0, PAGE); /* a hole, written with zeros */
	assert_int_equal(memfile_write(fd, &m, &err), 0);
	same(fd, &m);
	assert_true(data_pages(fd) <= ARRAY_LEN(touched) + 3);
	assert_false(has_data(fd, 3000));
	uint8_t byte;
	assert_int_equal(pread(m.file_fd, &byte, 1, PAGE + 9), 1);
	assert_int_equal(byte, 'B'); /* the template is as it was */
	gmem_unmap(&m);
}

static void from_copy_on_write(void **state)
{
	(void)state;
	copy_on_write_of(unit_file());
	copy_on_write_of(memfd_create("template", MFD_CLOEXEC));
}

static blkcnt_t blocks(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_blocks;
}

/* How many mappings lie in RAM. */
static unsigned n_mappings(const struct gmem *m)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned long first, last;
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx ", &first, &last) == 2)
			for (unsigned i = 0; i < m->n; i++)
				n += first >= (uintptr_t)m->region[i].hva &&
				     last <= (uintptr_t)m->region[i].hva + m->region[i].size;
	fclose(f);
	return n;
}

/* A file in memory stays as it is, however much of it is looked at. */
static void tmpfs_does_not_grow(void **state)
{
	int template = memfd_create("template", MFD_CLOEXEC);
	autoclose int copy = unit_file();
	struct gmem m;
	struct err err = {};

	(void)state;
	write_template(template);
	autoclose int mine = fcntl(template, F_DUPFD_CLOEXEC, 0);
	blkcnt_t before = blocks(mine);
	assert_int_equal(before, ARRAY_LEN(touched) * PAGE / 512);
	layout(&m);
	map_template(&m, &template);
	same(mine, &m);
	assert_int_equal(blocks(mine), before);
	assert_int_equal(n_mappings(&m), 10); /* low: four runs of data, three holes; high: two, and one */
	page(&m, 4095)[0] = 'x';
	page(&m, 4000)[0] = 'y';
	assert_int_equal(memfile_write(copy, &m, &err), 0);
	same(copy, &m);
	assert_int_equal(data_pages(copy), ARRAY_LEN(touched) + 1);
	assert_int_equal(blocks(mine), before);
	gmem_unmap(&m);
}

/* More runs than mappings are wanted: the shortest ones are copied, the long ones mapped. */
static void many_runs_in_a_tmpfs(void **state)
{
	enum { SHORT = MEMFILE_MAX_MAPPED_RUNS + 100, LONG = 100, LONG_PAGES = 4, RUNS = SHORT + LONG };
	enum { FILE_PAGES = 2 * SHORT + LONG * (LONG_PAGES + 1) };
	int template = memfd_create("template", MFD_CLOEXEC);
	struct gmem m;
	uint8_t buf[LONG_PAGES * PAGE];

	(void)state;
	memset(buf, 'd', sizeof(buf));
	assert_int_equal(ftruncate(template, (off_t)FILE_PAGES * PAGE), 0);
	for (int i = 0; i < SHORT; i++)
		assert_int_equal(pwrite(template, buf, PAGE, (off_t)i * 2 * PAGE), PAGE);
	for (int i = 0; i < LONG; i++)
		assert_int_equal(pwrite(template, buf, sizeof(buf), ((off_t)SHORT * 2 + i * (LONG_PAGES + 1)) * PAGE),
				 sizeof(buf));
	autoclose int mine = fcntl(template, F_DUPFD_CLOEXEC, 0);
	blkcnt_t before = blocks(mine);
	gmem_layout(&m, (uint64_t)FILE_PAGES * PAGE, (uint64_t)SHORT * PAGE, HIGH);
	map_template(&m, &template);
	for (unsigned n = 0; n < FILE_PAGES; n++) {
		const uint8_t *p = gmem_file_ptr(&m, (uint64_t)n * PAGE);
		bool data = n < 2 * SHORT ? n % 2 == 0 : (n - 2 * SHORT) % (LONG_PAGES + 1) < LONG_PAGES;
		assert_int_equal(p[0], data ? 'd' : 0);
		assert_int_equal(p[PAGE - 1], data ? 'd' : 0);
	}
	assert_int_equal(blocks(mine), before);
	assert_int_equal(n_mappings(&m), 1 + 2 * LONG + 1);
	gmem_unmap(&m);
}

/* Pages that the guest gave back are not the template's any more, whatever happened to them before and after. */
static void from_copy_on_write_with_holes(void **state)
{
	autoclose int fd = unit_file();
	int template = unit_file();
	struct gmem m;
	struct err err = {};
	uint8_t buf[PAGE];

	(void)state;
	write_template(template);
	for (unsigned n = 100; n < 200; n++) {
		memset(buf, (int)n, PAGE);
		assert_int_equal(pwrite(template, buf, PAGE, (off_t)n * PAGE), PAGE);
	}
	layout(&m);
	map_template(&m, &template);
	page(&m, 110)[0] = 'x'; /* changed, then given back */
	(void)*(volatile uint8_t *)page(&m, 111);
	assert_true(gmem_discard(&m, page(&m, 110), 20 * PAGE));
	assert_true(gmem_discard(&m, page(&m, 77), PAGE));
	assert_true(gmem_discard(&m, page(&m, LOW_PAGES - 1), PAGE)); /* at the border of the regions */
	assert_true(gmem_discard(&m, page(&m, LOW_PAGES), 2 * PAGE));
	assert_true(gmem_discard(&m, page(&m, PAGES - 1), PAGE));
	assert_int_equal(m.n_replaced_runs, 5);   /* two are neighbours in the file, not in memory */
	page(&m, 115)[7] = 'n';                   /* in use again */
	(void)*(volatile uint8_t *)page(&m, 117); /* looked at: the kernel's page of zeroes */
	page(&m, 119)[7] = 0;
	page(&m, 150)[7] = 'k';
	assert_int_equal(memfile_write(fd, &m, &err), 0);
	same(fd, &m);
	assert_int_equal(pread(fd, buf, PAGE, 110 * PAGE), PAGE);
	assert_int_equal(buf[0], 0);
	assert_int_equal(pread(fd, buf, PAGE, 115 * PAGE), PAGE);
	assert_int_equal(buf[7], 'n');
	for (unsigned n = 110; n < 130; n++)
		if (n != 115) /* zeroes are no data, looked at or written */
			assert_false(has_data(fd, n));
	assert_false(has_data(fd, PAGES - 1));
	assert_false(has_data(fd, LOW_PAGES - 1));
	assert_true(has_data(fd, 130));
	gmem_unmap(&m);
}

static void errors(void **state)
{
	autoclose int read_only = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	autoclose int write_only = open("/tmp", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	struct gmem m;
	struct err err = {};

	(void)state;
	map(&m);
	page(&m, 0)[0] = 1;
	assert_true(memfile_write(read_only, &m, &err) < 0);
	assert_non_null(strstr(err.msg, "make a file of 24985600 bytes"));
	assert_int_equal(memfile_write(write_only, &m, &err), 0);
	assert_int_equal(memfile_read(write_only, &m, &err), -EBADF);
	assert_non_null(strstr(err.msg, "read 4096 bytes at 0"));
	gmem_unmap(&m);
}

static void next_data(void **state)
{
	autoclose int fd = unit_file();
	uint64_t start = 1, end = 2;
	int pipe_fds[2];

	(void)state;
	write_template(fd);
	assert_true(memfile_next_data(fd, 0, (uint64_t)PAGES * PAGE, &start, &end));
	assert_int_equal(start, 0);
	assert_int_equal(end, 3 * PAGE);
	assert_true(memfile_next_data(fd, end, (uint64_t)PAGES * PAGE, &start, &end));
	assert_int_equal(start, 77 * PAGE);
	assert_int_equal(end, 78 * PAGE);
	assert_true(memfile_next_data(fd, 4095 * PAGE, 4096 * PAGE, &start, &end)); /* cut at the end asked for */
	assert_int_equal(end, 4096 * PAGE);
	assert_false(memfile_next_data(fd, end = 78 * PAGE, 100 * PAGE, &start, &end));
	assert_false(memfile_next_data(fd, (uint64_t)PAGES * PAGE, (uint64_t)PAGES * PAGE + 1, &start, &end));
	assert_int_equal(pipe(pipe_fds), 0); /* no holes are known: one extent */
	assert_true(memfile_next_data(pipe_fds[0], 5, 10, &start, &end));
	assert_int_equal(start, 5);
	assert_int_equal(end, 10);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

/* Holes that begin and end within pages: data is whole pages, so that nobody has to read or map a part of one. */
static void holes_within_pages(void **state)
{
	int fd = small_blocks_file();
	uint64_t start = 0, end = 0;
	struct gmem m, copy;
	struct err err = {};

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)PAGES * PAGE), 0);
	assert_int_equal(pwrite(fd, "second", 6, 10 * PAGE + 1024), 6);
	assert_int_equal(pwrite(fd, "third", 5, 11 * PAGE + 2048), 5);
	assert_int_equal(pwrite(fd, "last", 4, (off_t)PAGES * PAGE - 4), 4);
	assert_int_equal(lseek(fd, 0, SEEK_DATA), 10 * PAGE + 1024); /* as this test needs it */
	assert_true(memfile_next_data(fd, 0, (uint64_t)PAGES * PAGE, &start, &end));
	assert_int_equal(start, 10 * PAGE);
	assert_int_equal(end, 11 * PAGE);
	assert_true(memfile_next_data(fd, 10 * PAGE + 2048, (uint64_t)PAGES * PAGE, &start, &end));
	assert_int_equal(start, 11 * PAGE);
	assert_int_equal(end, 12 * PAGE);
	assert_true(memfile_next_data(fd, end, (uint64_t)PAGES * PAGE, &start, &end));
	assert_int_equal(start, (PAGES - 1) * PAGE);
	assert_int_equal(end, PAGES * PAGE);

	map(&m);
	assert_int_equal(memfile_read(fd, &m, &err), 0);
	same(fd, &m);
	gmem_unmap(&m);

	autoclose int out = unit_file();
	layout(&copy);
	assert_int_equal(gmem_map_cow(&copy, &fd, &err), 0);
	assert_int_equal(memfile_write(out, &copy, &err), 0);
	same(out, &copy);
	assert_int_equal(data_pages(out), 3);
	gmem_unmap(&copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(from_anonymous_memory),
		cmocka_unit_test(scattered_pages),
		cmocka_unit_test(from_copy_on_write),
		cmocka_unit_test(tmpfs_does_not_grow),
		cmocka_unit_test(many_runs_in_a_tmpfs),
		cmocka_unit_test(from_copy_on_write_with_holes),
		cmocka_unit_test(errors),
		cmocka_unit_test(next_data),
		cmocka_unit_test(holes_within_pages),
	};

	int failed = cmocka_run_group_tests_name("memfile", tests, NULL, NULL);
	pid_t other = geteuid() == 0 ? fork() : -1;
	int status = 0;
	if (other == 0) { /* a process that changed its user may not see its pagemap, as one with file capabilities */
		if (setresuid(65534, 65534, 65534) < 0 || open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) >= 0)
			_exit(1);
		_exit(cmocka_run_group_tests_name("memfile without pagemap", tests, NULL, NULL));
	}
	if (other > 0)
		waitpid(other, &status, 0);
	return failed || status;
}
