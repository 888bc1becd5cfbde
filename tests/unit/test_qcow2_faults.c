// SPDX-License-Identifier: Apache-2.0
/*
 * A disk of a qcow2 image whose host fails now and then: reads, writes, syncs and changes of the file's
 * length come back with an error, or short. What was answered well is there; what was not is there or
 * not, sector by sector; and qemu-img finds no error but leaks.
 */
#include "tests/unit/wishes.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "common/io.h"
#include "vmm/virtio/qcow2_private.h"

enum { DISK_BYTES = 6 * MIB + 40 * SECTOR, DISK_SECTORS = DISK_BYTES / SECTOR, NO_FLUSH = 3 };

static char dir[] = "/tmp/forkd-test-faults-XXXXXX", image[64], behind[64], raw[64];

/* ---- the host ---- */

static unsigned one_in;         /* operations fail at random; 0: none does */
static unsigned n_ops, fail_at; /* the operation with this number fails; 0: none does */
static bool no_sync;            /* no fdatasync() comes back well */
static uint64_t n_failed;

static bool fails(void)
{
	bool yes = (one_in && draw(one_in) == 0) || ++n_ops == fail_at;

	n_failed += yes;
	errno = draw(2) ? EIO : ENOSPC;
	return yes;
}

/* A write that fails may have written a part before. */
static ssize_t fail_write(int fd, const void *buf, size_t len, off_t at)
{
	size_t part = len / SECTOR > 1 ? draw((uint32_t)(len / SECTOR)) * (size_t)SECTOR : 0;

	return part ? syscall(SYS_pwrite64, fd, buf, part, at) : -1;
}

ssize_t pread(int fd, void *buf, size_t len, off_t at)
{
	return fails() ? -1 : syscall(SYS_pread64, fd, buf, len, at);
}

ssize_t preadv(int fd, const struct iovec *iov, int n, off_t at)
{
	return fails() ? -1 : syscall(SYS_preadv, fd, iov, n, at, 0);
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t at)
{
	return fails() ? fail_write(fd, buf, len, at) : syscall(SYS_pwrite64, fd, buf, len, at);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t at, int flags)
{
	autofree uint8_t *data = malloc(iov_bytes(iov, (unsigned)n));

	(void)flags;
	return pwrite(fd, data, iov_to_buf(iov, (unsigned)n, 0, data, SIZE_MAX), at);
}

int ftruncate(int fd, off_t len)
{
	return fails() ? -1 : (int)syscall(SYS_ftruncate, fd, len);
}

int fallocate(int fd, int mode, off_t at, off_t len)
{
	return fails() ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, len);
}

int fdatasync(int fd)
{
	return fails() || no_sync ? -1 : (int)syscall(SYS_fdatasync, fd);
}

/* ---- what each sector may have: a bit for each byte that may fill it ---- */

static struct {
	uint64_t bytes[4];
} may[DISK_SECTORS];

static void only(uint32_t sector, uint8_t byte)
{
	memset(&may[sector], 0, sizeof(*may));
	may[sector].bytes[byte / 64] = 1ULL << byte % 64;
}

static void check_sector(uint32_t sector, const uint8_t *data)
{
	if (memcmp(data, data + 1, SECTOR - 1) != 0 || !(may[sector].bytes[*data / 64] >> *data % 64 & 1))
		fail_msg("sector %u has %#x, then %#x", sector, data[0], data[SECTOR - 1]);
	only(sector, *data);
}

static void learn(const struct wish *w, uint8_t byte, bool ok)
{
	for (uint32_t i = 0; i < w->n; i++) {
		if (w->type == T_IN && ok)
			check_sector(w->sector + i, ram(slot_at(w) + SLOT_DATA + i * (uint64_t)SECTOR, SECTOR));
		else if (w->type != T_IN && ok && w->type != T_DISCARD)
			only(w->sector + i, byte);
		else if (w->type != T_IN)
			may[w->sector + i].bytes[byte / 64] |= 1ULL << byte % 64;
	}
}

static bool ask(uint32_t type, uint32_t sector, uint32_t n, uint8_t byte)
{
	static uint8_t data[DATA_MAX_SECTORS * SECTOR];
	const struct wish w = { type, 0, sector, n, 0, data };

	memset(data, byte, n * (size_t)SECTOR);
	ask_wishes(&w, 1, false);
	bool ok = answer_of(&w) == S_OK;
	if (type != T_FLUSH)
		learn(&w, type == T_OUT ? byte : 0, ok);
	return ok;
}

static void ask_at_random(void)
{
	static const uint32_t types[] = { T_IN, T_IN, T_OUT, T_OUT, T_OUT, T_OUT, T_FLUSH, T_DISCARD, T_WRITE_ZEROES };
	uint32_t sector = draw(DISK_SECTORS), n = 1 + draw(draw(3) ? 24 : DATA_MAX_SECTORS);

	n = n < DISK_SECTORS - sector ? n : DISK_SECTORS - sector;
	(void)ask(types[draw(ARRAY_LEN(types))], sector, n, (uint8_t)draw(256));
}

/* ---- images ---- */

static void begin(const char *make, const char *more)
{
	autofree uint8_t *bytes = malloc(DISK_BYTES);
	autoclose int fd = open(behind, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
	bool empty = !strstr(make, "%2$s") || strstr(make, ": %2$s");

	one_in = fail_at = 0;
	for (uint32_t i = 0; i < DISK_SECTORS; i++) {
		uint8_t byte = !empty && i / 100 % 3 ? (uint8_t)(1 + i / 100 % 250) : 0;
		memset(bytes + i * (size_t)SECTOR, byte, SECTOR);
		only(i, byte);
	}
	assert_int_equal(io_write(fd, bytes, DISK_BYTES, 0), DISK_BYTES);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	sh(make, image, behind);
#pragma GCC diagnostic pop
	attach_image(image, "qcow2", more);
}

/* The host is well again: what the disk has now is in the image. */
static void end(void)
{
	autofree uint8_t *got = malloc(DISK_BYTES);

	one_in = fail_at = 0;
	for (uint32_t at = 0; at < DISK_SECTORS; at += DATA_MAX_SECTORS)
		assert_true(
			ask(T_IN, at, DISK_SECTORS - at < DATA_MAX_SECTORS ? DISK_SECTORS - at : DATA_MAX_SECTORS, 0));
	assert_true(ask(T_FLUSH, 0, 0, 0));
	detach_disk();
	/* 3: leaks alone */
	sh("qemu-img check -q -f qcow2 %s >%s/check 2>&1; test $? = 0 -o $? = 3", image, dir);
	sh("qemu-img convert -q -f qcow2 -O raw %s %s", image, raw);
	autoclose int fd = open(raw, O_RDONLY | O_CLOEXEC);
	assert_int_equal(io_read(fd, got, DISK_BYTES, 0), DISK_BYTES);
	for (uint32_t i = 0; i < DISK_SECTORS; i++)
		check_sector(i, got + i * (size_t)SECTOR);
}

static const char *const kinds[] = {
	"qemu-img create -q -f qcow2 -F raw -b %2$s %1$s",
	"qemu-img convert -q -c -f raw -O qcow2 %2$s %1$s",
	"qemu-img convert -q -o cluster_size=512 -f raw -O qcow2 %2$s %1$s",
	"qemu-img create -q -f qcow2 -o cluster_size=8k %1$s 6311936 && : %2$s",
	"qemu-img create -q -f qcow2 -o cluster_size=4k,compat=0.10 -F raw -b %2$s %1$s",
	("qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=1,preallocation=metadata %1$s 6311936 && "
	 "qemu-io -f qcow2 -c 'write -q -z 0 6311936' %1$s && : %2$s"),
};

/* ---- tests ---- */

static void failures_at_random(void **state)
{
	(void)state;
	for (unsigned times = 0; times < 4; times++)
		for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
			begin(kinds[k], ",backing_files=on" PLAIN);
			n_failed = 0;
			for (unsigned i = 0; i < 300; i++) {
				if (times == NO_FLUSH && i == 100)
					vdev->acked_features &= ~(1ULL << 9);
				one_in = i / 20 % 2 ? 0 : 20;
				ask_at_random();
			}
			assert_true(n_failed > 0);
			end();
		}
}

/* Around a border of two parts of an L2 table: what fails between them leaves the first part's new clusters. */
static void each_operation_fails_once(void **state)
{
	enum { BORDER = 4 * MIB / SECTOR, CLUSTER = 8192 / SECTOR };
	unsigned at = 0;

	(void)state;
	do {
		begin(kinds[3], PLAIN);
		n_ops = 0;
		n_failed = 0;
		fail_at = ++at;
		(void)ask(T_OUT, BORDER - CLUSTER, 2 * CLUSTER, 0xaa);
		(void)ask(T_OUT, 0, 2 * CLUSTER, 0xbb);
		(void)ask(T_FLUSH, 0, 0, 0);
		(void)ask(T_WRITE_ZEROES, BORDER - 1, 2, 0);
		end();
	} while (n_failed > 0);
	assert_true(at > 10);
}

/*
 * The list of replaced clusters is full in the middle of a write, and the tables cannot be written then.
 * The first part of the write has its new clusters: no later write gets them.
 */
static void tables_cannot_be_written(void **state)
{
	uint32_t first = 5, n = 100; /* not at the border of two parts of a table */

	(void)state;
	begin(kinds[5], PLAIN);
	for (uint32_t at = first; at < DISK_SECTORS; at += n) {
		n = DISK_SECTORS - at < n ? DISK_SECTORS - at : n;
		no_sync = at - first <= FREED_MAX && at - first + n > FREED_MAX;
		assert_int_equal(ask(T_OUT, at, n, (uint8_t)(1 + at / n)), !no_sync);
	}
	no_sync = false;
	end();
}

static int make_dir(void **state)
{
	(void)state;
	draw_seed();
	assert_non_null(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/image", dir);
	snprintf(behind, sizeof(behind), "%s/behind", dir);
	snprintf(raw, sizeof(raw), "%s/raw", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	sh("rm -r %s", dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(failures_at_random),
		cmocka_unit_test(each_operation_fails_once),
		cmocka_unit_test(tables_cannot_be_written),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
