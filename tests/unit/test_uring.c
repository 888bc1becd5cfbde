// SPDX-License-Identifier: Apache-2.0
/* common/uring: bulk transfers cut at every awkward place, the end of the file, and what a restricted ring refuses. */
#include "common/uring.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>

enum { MIB = 1 << 20 };

static int write_extents(int fd, const struct extent *ext, uint32_t n, struct err *err)
{
	autouringfile struct uring_file f;

	uring_file_init(&f, fd);
	return uring_write(&f, ext, n, err);
}

static int read_range(int fd, void *buf, uint64_t off, uint64_t len, struct err *err)
{
	autouringfile struct uring_file f;
	const struct extent e = { buf, off, len };

	uring_file_init(&f, fd);
	return uring_read(&f, &e, 1, err);
}

static uint8_t byte_at(uint64_t off)
{
	return (uint8_t)(off * 2654435761U >> 13);
}

static uint8_t *pattern(uint64_t off, size_t len)
{
	uint8_t *p = malloc(len);

	assert_non_null(p);
	for (size_t i = 0; i < len; i++)
		p[i] = byte_at(off + i);
	return p;
}

static void writes_and_reads(void **state)
{
	enum { BYTES = 70 * MIB + 12345 }; /* more pieces than the ring is deep, the last one short */
	autoclose int fd = unit_file();
	autofree uint8_t *in = pattern(0, BYTES), *out = malloc(BYTES + 1);
	struct extent e = { in, 4097, BYTES };
	struct err err = {};

	(void)state;
	assert_int_equal(write_extents(fd, &e, 1, &err), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), 4097 + BYTES);
	out[BYTES] = 0x5a;
	assert_int_equal(read_range(fd, out, 4097, BYTES, &err), 0);
	assert_memory_equal(in, out, BYTES);
	assert_int_equal(out[BYTES], 0x5a);
	assert_int_equal(read_range(fd, out, 0, 4097, &err), 0); /* the hole before it */
	for (unsigned i = 0; i < 4097; i++)
		assert_int_equal(out[i], 0);
}

static void many_extents(void **state)
{
	static const uint64_t lens[] = { 1, 4096, 0, MIB, MIB + 1, 3, 2 * MIB, 4095 };
	enum { N = 100 };
	autoclose int fd = unit_file();
	struct extent ext[N];
	uint8_t *bufs[N];
	struct err err = {};
	uint64_t off = 0;

	(void)state;
	for (unsigned i = 0; i < N; i++, off += 7) {
		uint64_t len = lens[i % ARRAY_LEN(lens)];
		bufs[i] = pattern(off, len ? len : 1);
		ext[i] = (struct extent){ bufs[i], off, len };
		off += len;
	}
	assert_int_equal(write_extents(fd, ext, N, &err), 0);
	for (unsigned i = 0; i < N; i++) {
		autofree uint8_t *out = malloc(ext[i].len + 1);
		assert_int_equal(read_range(fd, out, ext[i].off, ext[i].len, &err), 0);
		assert_memory_equal(out, bufs[i], ext[i].len);
		if (i > 0) { /* nothing was written between them */
			assert_int_equal(read_range(fd, out, ext[i].off - 1, 1, &err), 0);
			assert_int_equal(out[0], 0);
		}
		free(bufs[i]);
	}
	assert_int_equal(write_extents(fd, NULL, 0, &err), 0);
}

/* One ring for all transfers of a file, in both directions. */
static void one_ring_for_a_file(void **state)
{
	enum { N = 50, BYTES = 10000 };
	autoclose int fd = unit_file();
	autouringfile struct uring_file f = {};
	autofree uint8_t *in = pattern(0, N * BYTES), *out = calloc(1, N * BYTES);
	struct extent back[N];
	struct err err = {};

	(void)state;
	uring_file_init(&f, fd);
	int ring_fd = f.has_ring ? f.ring.ring_fd : -1;
	for (unsigned i = 0; i < N; i++) {
		struct extent e = { in + i * BYTES, i * BYTES, BYTES };
		assert_int_equal(uring_write(&f, &e, 1, &err), 0);
		back[N - 1 - i] = (struct extent){ out + i * BYTES, i * BYTES, BYTES };
	}
	assert_int_equal(uring_read(&f, back, N, &err), 0);
	assert_memory_equal(in, out, N * BYTES);
	assert_int_equal(f.has_ring ? f.ring.ring_fd : -1, ring_fd);
	uring_file_done(&f);
	assert_false(f.has_ring);
}

static void short_file(void **state)
{
	autoclose int fd = unit_file();
	autofree uint8_t *buf = calloc(1, 3 * MIB);
	struct err err = {};

	(void)state;
	assert_int_equal(ftruncate(fd, 2 * MIB + 100), 0);
	assert_int_equal(read_range(fd, buf, 0, 2 * MIB + 100, &err), 0);
	assert_int_equal(read_range(fd, buf, 0, 2 * MIB + 101, &err), -EINVAL);
	assert_int_equal(err.code, ERR_INVALID);
	assert_string_equal(err.msg, "the file ends at byte 2097252");
	err = (struct err){};
	assert_int_equal(read_range(fd, buf, 10 * MIB, 1, &err), -EINVAL);
	assert_string_equal(err.msg, "the file ends at byte 10485760");
}

static void failing_files(void **state)
{
	autoclose int read_only = open("/proc/self/exe", O_RDONLY | O_CLOEXEC),
		      full = open("/dev/full", O_RDWR | O_CLOEXEC);
	autofree uint8_t *buf = calloc(1, 64 * MIB);
	struct extent e[] = { { buf, 0, 64 * MIB }, { buf, 64 * MIB, 1 } };
	struct err err = {};

	(void)state;
	assert_int_equal(write_extents(read_only, e, 1, &err), -EBADF);
	assert_non_null(strstr(err.msg, "write 1048576 bytes at "));
	assert_int_equal(write_extents(full, e, 2, &err), -ENOSPC);
	assert_int_equal(write_extents(-1, e, 1, &err), -EBADF); /* without a ring: the plain way */
	assert_int_equal(read_range(-1, buf, 0, 1, &err), -EBADF);
	assert_non_null(strstr(err.msg, "read 1 bytes at 0"));
}

/* A ring for reading one file can do nothing else. */
static void restricted_ring(void **state)
{
	autoclose int fd = unit_file(), other = unit_file(), event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	const uint8_t ops[] = { IORING_OP_READ };
	struct io_uring ring;
	struct err err = {};
	char buf[8] = "unread";

	(void)state;
	assert_int_equal(pwrite(fd, "content", 8, 0), 8);
	if (uring_open(&ring, 8, &fd, 1, ops, 1, event, &err) < 0) {
		print_message("no io_uring here: %s\n", err.msg);
		skip();
	}
	const struct {
		uint8_t op;
		int fd;
		unsigned flags;
		int res;
	} cases[] = {
		{ IORING_OP_READ, 0, IOSQE_FIXED_FILE, 8 },
		{ IORING_OP_READ, 1, IOSQE_FIXED_FILE, -EBADF },
		{ IORING_OP_READ, other, 0, -EACCES },
		{ IORING_OP_WRITE, 0, IOSQE_FIXED_FILE, -EACCES },
		{ IORING_OP_FSYNC, 0, IOSQE_FIXED_FILE, -EACCES },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct io_uring_cqe *cqe;
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
		io_uring_prep_rw(cases[i].op, sqe, cases[i].fd, buf, 8, 0);
		sqe->flags = (uint8_t)cases[i].flags;
		assert_int_equal(io_uring_submit(&ring), 1);
		assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
		if (cqe->res != cases[i].res)
			fail_msg("case %zu: %d", i, cqe->res);
		io_uring_cqe_seen(&ring, cqe);
	}
	assert_string_equal(buf, "content");
	uint64_t n = 0;
	assert_int_equal(read(event, &n, sizeof(n)), sizeof(n));
	io_uring_queue_exit(&ring);
	assert_true(uring_open(&ring, 0, &fd, 1, ops, 1, -1, &err) < 0);
	assert_non_null(strstr(err.msg, "make an io_uring of 0 entries"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_and_reads),    cmocka_unit_test(many_extents),
		cmocka_unit_test(one_ring_for_a_file), cmocka_unit_test(short_file),
		cmocka_unit_test(failing_files),       cmocka_unit_test(restricted_ring),
	};

	return cmocka_run_group_tests_name("uring", tests, NULL, NULL);
}
