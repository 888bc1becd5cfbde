// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/virtio_blk: zeroes on file systems that know none, one or all of the ways to make them, through io_uring and without.
 * Without it the file system is this file's fallocate(); with it, a tmpfs (holes only) and a ramfs (nothing at all).
 */
#include "tests/unit/disk.h"

#include <errno.h>
#include <linux/falloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/log.h"

enum { IMAGE_BYTES = 80 << 20 };

static char dir[] = "/tmp/forkd-test-blk-XXXXXX", path[64];
static int image_fd;

/* ---- the file system ---- */

static unsigned knows, n_calls; /* FALLOC_FL_… */
static int calls[4], other_errno;

int fallocate(int fd, int mode, off_t off, off_t len)
{
	(void)fd;
	(void)off;
	(void)len;
	calls[n_calls++ % ARRAY_LEN(calls)] = mode & ~FALLOC_FL_KEEP_SIZE;
	assert_true(mode & FALLOC_FL_KEEP_SIZE);
	errno = (unsigned)mode & knows ? other_errno : EOPNOTSUPP;
	return errno ? -1 : 0;
}

/* ---- memory ---- */

static uint64_t n_copies, most_copies; /* made; at a time: one with each request that is not answered */

int posix_memalign(void **p, size_t align, size_t bytes)
{
	n_copies++;
	most_copies = n_copies - used_idx() > most_copies ? n_copies - used_idx() : most_copies;
	*p = aligned_alloc(align, (bytes + align - 1) / align * align);
	return *p ? 0 : ENOMEM;
}

static void open_disk(const char *where, const char *more)
{
	snprintf(path, sizeof(path), "%s/disk", where);
	image_fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(image_fd, IMAGE_BYTES), 0);
	attach_disk(path, more);
	n_calls = 0;
	other_errno = 0;
	n_copies = most_copies = 0;
}

static void close_disk(void)
{
	detach_disk();
	close(image_fd);
	unlink(path);
}

/* One request; `paused`: the device is paused before it can have ended. Returns the status. */
static uint8_t request(uint32_t type, uint64_t off, uint64_t len, uint32_t flags, bool paused)
{
	const struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head = { .type = type };
	const struct {
		uint64_t sector;
		uint32_t n, flags;
	} range = { off / SECTOR, (uint32_t)(len / SECTOR), flags };
	uint16_t before = used_idx(), next = (uint16_t)(before + 1);

	put(HEAD, &head, sizeof(head));
	put(RANGE, &range, sizeof(range));
	put(STATUS, &(uint8_t){ S_NONE }, 1);
	put_desc(0, HEAD, sizeof(head), NEXT);
	put_desc(1, RANGE, sizeof(range), NEXT);
	put_desc(2, STATUS, 1, WRITE);
	serve_until(next, paused);
	return *(uint8_t *)gmem_ptr(&vm.mem, STATUS, 1);
}

static void fill_image(void)
{
	autofree char *buf = malloc(MIB);

	memset(buf, 'x', MIB);
	for (off_t at = 0; at < IMAGE_BYTES; at += MIB)
		assert_int_equal(pwrite(image_fd, buf, MIB, at), MIB);
}

/* [from, to) of the image has zeroes, all else is as it was. */
static void check_zeroes(uint64_t from, uint64_t to)
{
	static const char zeroes[SECTOR];
	autofree char *buf = malloc(MIB);
	char was[SECTOR];

	memset(was, 'x', SECTOR);
	for (uint64_t at = 0; at < IMAGE_BYTES; at += MIB) {
		assert_int_equal(pread(image_fd, buf, MIB, (off_t)at), MIB);
		for (uint64_t i = 0; i < MIB; i += SECTOR)
			if (memcmp(buf + i, at + i >= from && at + i < to ? zeroes : was, SECTOR) != 0)
				fail_msg("the sector at %llu", (unsigned long long)(at + i));
	}
}

/* ---- tests ---- */

static void ways_in_turn(void **state)
{
	enum { ZERO = FALLOC_FL_ZERO_RANGE, PUNCH = FALLOC_FL_PUNCH_HOLE };
	static const struct {
		uint32_t type, flags;
		unsigned knows;
		int called[2];
		uint8_t status;
	} cases[] = {
		{ T_WRITE_ZEROES, 0, ZERO | PUNCH, { ZERO, 0 }, S_OK },
		{ T_WRITE_ZEROES, 0, PUNCH, { ZERO, PUNCH }, S_OK },
		{ T_WRITE_ZEROES, UNMAP, ZERO | PUNCH, { PUNCH, 0 }, S_OK },
		{ T_WRITE_ZEROES, UNMAP, ZERO, { PUNCH, ZERO }, S_OK },
		{ T_DISCARD, 0, ZERO | PUNCH, { PUNCH, 0 }, S_OK },
		{ T_DISCARD, 0, ZERO, { PUNCH, 0 }, S_OK }, /* only advice */
		{ T_WRITE_ZEROES, 2, ZERO | PUNCH, { 0, 0 }, S_UNSUPP },
		{ T_DISCARD, UNMAP, ZERO | PUNCH, { 0, 0 }, S_UNSUPP },
	};

	(void)state;
	open_disk(dir, PLAIN);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		knows = cases[i].knows;
		n_calls = 0;
		uint8_t status = request(cases[i].type, MIB, MIB, cases[i].flags, false);
		if (status != cases[i].status)
			fail_msg("case %zu: status %u", i, status);
		assert_int_equal(n_calls, (cases[i].called[0] != 0) + (cases[i].called[1] != 0));
		for (unsigned c = 0; c < n_calls; c++)
			assert_int_equal(calls[c], cases[i].called[c]);
	}
	knows = ZERO | PUNCH;
	other_errno = ENOSPC; /* no other way helps */
	n_calls = 0;
	assert_int_equal(request(T_WRITE_ZEROES, 0, MIB, 0, false), S_IOERR);
	assert_int_equal(request(T_DISCARD, 0, MIB, 0, false), S_IOERR);
	assert_int_equal(n_calls, 2);
	close_disk();
}

static unsigned lines_of(int fd)
{
	char buf[65536];
	ssize_t n = pread(fd, buf, sizeof(buf), 0);
	unsigned lines = 0;

	for (ssize_t i = 0; i < n; i++)
		lines += buf[i] == '\n';
	return lines;
}

/* Their number is counted; the log has the 1st, 2nd, 4th … 256th. */
static void failures_in_the_log(void **state)
{
	autoclose int fd = memfd_create("log", MFD_CLOEXEC);

	(void)state;
	log_init("forkd", LOG_INFO, fd);
	open_disk(dir, PLAIN);
	knows = FALLOC_FL_ZERO_RANGE;
	other_errno = ENOSPC;
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(request(T_WRITE_ZEROES, 0, MIB, 0, false), S_IOERR);
	assert_int_equal(lines_of(fd), 9);
	assert_int_equal(vdev->counters.disk_failed_ops, 300);
	assert_int_equal(request(T_WRITE_ZEROES, IMAGE_BYTES, MIB, 0, false), S_IOERR); /* not the image's fault */
	assert_int_equal(vdev->counters.disk_failed_ops, 300);
	close_disk();
	log_init("forkd", LOG_INFO, STDERR_FILENO);
}

/* Requests 0 … n-1, each of which reads `pieces` times 448 KiB to an odd address: all at once. */
static void read_oddly(unsigned n, unsigned pieces)
{
	enum { PIECE = 448 << 10, ODD = 0x80101 };
	const struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head = { .type = 0 };
	uint16_t next = (uint16_t)n;

	put(HEAD, &head, sizeof(head));
	put(STATUS, &(uint8_t){ S_NONE }, 1);
	for (unsigned i = 0; i < pieces; i++)
		put_desc(i, ODD, PIECE, NEXT | WRITE);
	put_desc(pieces, STATUS, 1, WRITE);
	for (unsigned i = 0; i < n; i++) { /* the heads are behind, and all lead to the same pieces */
		uint16_t at = (uint16_t)(pieces + 1 + i);
		put_desc(at, HEAD, sizeof(head), NEXT);
		put(DESC + 16 * at + 14, &(uint16_t){ 0 }, 2);
		put(AVAIL + 4 + 2 * i, &at, 2);
	}
	put(AVAIL + 2, &next, 2);
	pthread_mutex_lock(&vdev->lock);
	virtio_notify(vdev, 0);
	pthread_mutex_unlock(&vdev->lock);
}

/* A guest that has much in flight from odd addresses waits with the rest of it. */
static void copies_are_bounded(void **state)
{
	enum { REQUESTS = 12, PIECES = 64 }; /* 28 MiB each */

	(void)state;
	for (unsigned drained = 0; drained < 2; drained++) {
		open_disk(dir, ",direct=on");
		read_oddly(REQUESTS, PIECES);
		if (drained) /* by another than the queue or its completions: it is looked at again all the same */
			vdev->ops->pause(vdev);
		wait_used(REQUESTS);
		assert_int_equal(*(uint8_t *)gmem_ptr(&vm.mem, STATUS, 1), S_OK);
		assert_int_equal(vdev->counters.disk_read_bytes, REQUESTS * PIECES * (448ULL << 10));
		assert_int_equal(n_copies, REQUESTS);
		assert_int_equal(most_copies, 2);
		close_disk();
	}
}

static const struct {
	uint64_t from, len;
	uint8_t status;
} ranges[] = {
	{ 3 * SECTOR, SECTOR, S_OK },
	{ 5 * MIB - SECTOR, 3 * MIB + 2 * SECTOR, S_OK }, /* pieces, the last one short */
	{ 7 * MIB, 64 * MIB, S_OK },
	{ 7 * MIB, 64 * MIB + SECTOR, S_UNSUPP }, /* so much is the guest's own work */
	{ 79 * MIB, 2 * MIB, S_IOERR },
};

static void zero_ranges(bool paused, bool unlimited)
{
	for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
		uint64_t end = ranges[i].from + ranges[i].len;
		bool ok = ranges[i].status == S_OK || (unlimited && end <= IMAGE_BYTES);
		fill_image();
		assert_int_equal(request(T_WRITE_ZEROES, ranges[i].from, ranges[i].len, i % 2 ? UNMAP : 0, paused),
				 ok ? S_OK : ranges[i].status);
		check_zeroes(ok ? ranges[i].from : 0, ok ? end : 0);
	}
}

static void written_in_pieces(void **state)
{
	(void)state;
	open_disk(dir, PLAIN);
	knows = 0;
	zero_ranges(false, false);
	close_disk();
}

static unsigned n_syncs;

int fdatasync(int fd)
{
	(void)fd;
	n_syncs++;
	return 0;
}

/* fallocate() makes zeroes, and a sync makes them durable. */
static void zeroes_written_through(void **state)
{
	(void)state;
	for (unsigned through = 0; through < 2; through++) {
		open_disk(dir, PLAIN);
		if (through)
			vdev->acked_features &= ~(1ULL << 9);
		knows = FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE;
		n_syncs = 0;
		assert_int_equal(request(T_WRITE_ZEROES, 3 * SECTOR, MIB, 0, false), S_OK);
		assert_int_equal(n_syncs, through);
		close_disk();
	}
}

static bool mount_here(const char *type)
{
	if (mount(type, dir, type, 0, NULL) == 0)
		return true;
	print_message("no %s can be mounted here: errno %d\n", type, errno);
	return false;
}

static void with_a_ring(const char *type, bool unlimited)
{
	if (!mount_here(type))
		skip();
	for (unsigned paused = 0; paused < 2; paused++) {
		open_disk(dir, "");
		zero_ranges(paused, unlimited);
		assert_int_equal(request(T_DISCARD, 0, MIB, 0, paused), S_OK);
		assert_int_equal(n_calls, 0); /* the ring did it */
		close_disk();
	}
	assert_int_equal(umount2(dir, MNT_DETACH), 0); /* a ring lets go of its files some time after its end */
}

/* Knows PUNCH_HOLE alone. */
static void ring_on_tmpfs(void **state)
{
	(void)state;
	with_a_ring("tmpfs", true);
}

static void ring_on_ramfs(void **state)
{
	(void)state;
	with_a_ring("ramfs", false);
}

static int make_dir(void **state)
{
	(void)state;
	if (unshare(CLONE_NEWNS) == 0)
		(void)!mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ways_in_turn),           cmocka_unit_test(failures_in_the_log),
		cmocka_unit_test(copies_are_bounded),     cmocka_unit_test(written_in_pieces),
		cmocka_unit_test(zeroes_written_through), cmocka_unit_test(ring_on_tmpfs),
		cmocka_unit_test(ring_on_ramfs),
	};

	return cmocka_run_group_tests_name("virtio_blk", tests, make_dir, remove_dir);
}
