// SPDX-License-Identifier: Apache-2.0
/*
 * What a crash leaves of a qcow2 image. Everything that the disk does to the file is noted. Then the file
 * is made anew as each point of time may have left it: with all writes so far (the process was killed),
 * with none that was not synced, and with a random half of the sectors of those (the power failed).
 * Each time qemu-img finds no error but leaks, and each sector has what was flushed last, or something
 * that was written later. What is written through counts as flushed when it is answered.
 */
#include "tests/unit/wishes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "common/io.h"
#include "vmm/virtio/vring.h"

enum { DISK_BYTES = 3 * MIB, DISK_SECTORS = DISK_BYTES / SECTOR, NOTES_MAX = 4096, GUEST_MAX = 2048 };

static char dir[] = "/tmp/forkd-test-crash-XXXXXX", image[64], behind[64], crashed[64], raw[64];

/* ---- what is done to the file ---- */

enum note_kind { NOTE_WRITE, NOTE_CUT, NOTE_PUNCH, NOTE_SYNC };
static struct note {
	enum note_kind kind;
	uint64_t at, len;
	uint8_t *data;
	bool durable; /* at once */
} notes[NOTES_MAX];
static unsigned n_notes;
static bool noting;

static void note(enum note_kind kind, uint64_t at, uint64_t len, const void *data)
{
	if (!noting)
		return;
	assert_true(n_notes < NOTES_MAX);
	notes[n_notes] = (struct note){ kind, at, len, data ? malloc(len) : NULL, false };
	if (data)
		memcpy(notes[n_notes].data, data, len);
	n_notes++;
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t at)
{
	ssize_t n = syscall(SYS_pwrite64, fd, buf, len, at);

	if (n > 0)
		note(NOTE_WRITE, (uint64_t)at, (uint64_t)n, buf);
	return n;
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t at, int flags)
{
	autofree uint8_t *data = malloc(iov_bytes(iov, (unsigned)n));

	ssize_t written = pwrite(fd, data, iov_to_buf(iov, (unsigned)n, 0, data, SIZE_MAX), at);
	if (noting && written > 0)
		notes[n_notes - 1].durable = flags & RWF_DSYNC;
	return written;
}

int ftruncate(int fd, off_t len)
{
	note(NOTE_CUT, (uint64_t)len, 0, NULL);
	return (int)syscall(SYS_ftruncate, fd, len);
}

int fallocate(int fd, int mode, off_t at, off_t len)
{
	assert_true(mode & FALLOC_FL_KEEP_SIZE);
	note(NOTE_PUNCH, (uint64_t)at, (uint64_t)len, NULL);
	return (int)syscall(SYS_fallocate, fd, mode, at, len);
}

int fdatasync(int fd)
{
	note(NOTE_SYNC, 0, 0, NULL);
	return (int)syscall(SYS_fdatasync, fd);
}

/* ---- what the guest did ---- */

static struct guest_write {
	uint32_t sector, n;
	uint8_t byte;
	bool discard;            /* either what was there, or zeroes */
	unsigned begun, flushed; /* notes before it; notes when a flush that covers it had ended, or UINT_MAX */
} writes[GUEST_MAX];
static unsigned n_writes;
static uint8_t first_bytes[DISK_SECTORS];

static void flushed(unsigned before)
{
	for (unsigned i = 0; i < before; i++)
		if (writes[i].flushed == UINT_MAX)
			writes[i].flushed = n_notes;
}

/* The guest's driver can flush, or it cannot. */
static void write_through(bool yes)
{
	const uint64_t flush = 1ULL << 9;

	vdev->acked_features = yes ? vdev->acked_features & ~flush : vdev->acked_features | flush;
}

static void wish_of(uint32_t type, uint32_t sector, uint32_t len, bool through)
{
	static uint8_t data[DATA_MAX_SECTORS * SECTOR];
	unsigned before = n_writes;
	struct wish w = {
		.type = type, .sector = sector, .n = len, .data = data, .flags = type == T_WRITE_ZEROES ? draw(2) : 0
	};

	if (type != T_FLUSH) {
		uint8_t byte = type == T_OUT ? (uint8_t)draw(256) : 0;
		memset(data, byte, len * (size_t)SECTOR);
		writes[n_writes++] = (struct guest_write){ sector, len, byte, type == T_DISCARD, n_notes, UINT_MAX };
	}
	write_through(through);
	do_wish(w);
	if (type == T_FLUSH)
		flushed(before);
	else if (through)
		writes[n_writes - 1].flushed = n_notes;
}

static void wish_at_random(bool through)
{
	static const uint32_t types[] = { T_OUT, T_OUT, T_OUT, T_OUT, T_FLUSH, T_WRITE_ZEROES, T_DISCARD };
	uint32_t type = types[draw(ARRAY_LEN(types))], len = 1 + draw(draw(3) ? 16 : DATA_MAX_SECTORS);
	uint32_t sector = draw(DISK_SECTORS);

	wish_of(type, sector, len < DISK_SECTORS - sector ? len : DISK_SECTORS - sector, through);
}

/* In clusters that a write before has made, and that no flush has made durable. */
static void wish_in_new_clusters(void)
{
	wish_of(T_OUT, 0, 16, false);
	wish_of(T_OUT, 2, 1, true);
	wish_of(T_OUT, 200, 16, false);
	wish_of(T_WRITE_ZEROES, 202, 1, true);
	wish_of(T_WRITE_ZEROES, 384, 128, false);
	wish_of(T_WRITE_ZEROES, 400, 16, true);
	wish_of(T_WRITE_ZEROES, 4, 8, true);
}

/* ---- crashes ---- */

static void fall(int fd, const struct note *n, bool torn)
{
	switch (n->kind) {
	case NOTE_WRITE:
		for (uint64_t done = 0; done < n->len;) {
			uint64_t piece = torn ? SECTOR - (n->at + done) % SECTOR : n->len;
			piece = piece < n->len - done ? piece : n->len - done;
			if (!torn || draw(2))
				assert_int_equal(io_write(fd, n->data + done, piece, n->at + done), piece);
			done += piece;
		}
		break;
	case NOTE_CUT:
		if (!torn || draw(2))
			assert_int_equal(ftruncate(fd, (off_t)n->at), 0);
		break;
	case NOTE_PUNCH:
		if (!torn || draw(2))
			assert_int_equal(
				fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)n->at, (off_t)n->len),
				0);
		break;
	case NOTE_SYNC:
		break;
	}
}

enum crash { KILLED, NOTHING_UNSYNCED, HALF_UNSYNCED, CRASHES };

static void make_crashed(unsigned point, enum crash how)
{
	unsigned synced = point;

	while (synced > 0 && notes[synced - 1].kind != NOTE_SYNC)
		synced--;
	sh("cp --sparse=always %s.first %s", image, crashed);
	autoclose int fd = open(crashed, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < point; i++)
		if (how != NOTHING_UNSYNCED || i < synced || notes[i].durable)
			fall(fd, &notes[i], how == HALF_UNSYNCED && i >= synced && !notes[i].durable);
}

/* Whether the sector may have such bytes after a crash at the point. */
static bool may_have(uint32_t sector, uint8_t byte, unsigned point)
{
	bool may = first_bytes[sector] == byte;

	for (unsigned i = 0; i < n_writes && writes[i].begun <= point; i++) {
		const struct guest_write *w = &writes[i];
		if (sector < w->sector || sector >= w->sector + w->n)
			continue;
		if (w->flushed <= point && !w->discard)
			may = false;
		may |= w->byte == byte;
	}
	return may;
}

static void check_crashed(unsigned point, enum crash how)
{
	autofree uint8_t *got = malloc(DISK_BYTES);

	/* 3: leaks alone */
	sh("qemu-img check -q -f qcow2 %s >%s/check 2>&1; test $? = 0 -o $? = 3 || { r=$?; qemu-img check -f qcow2 %s; test $r = 3; }",
	   crashed, dir, crashed);
	sh("qemu-img convert -q -f qcow2 -O raw %s %s", crashed, raw);
	autoclose int fd = open(raw, O_RDONLY | O_CLOEXEC);
	assert_int_equal(io_read(fd, got, DISK_BYTES, 0), DISK_BYTES);
	for (uint32_t i = 0; i < DISK_SECTORS; i++) {
		const uint8_t *s = got + i * (size_t)SECTOR;
		if (memcmp(s, s + 1, SECTOR - 1) != 0 || !may_have(i, *s, point))
			fail_msg("crash %d at %u of %u: sector %u has %#x, then %#x", how, point, n_notes, i, s[0],
				 s[SECTOR - 1]);
	}
}

static void all_crashes(void)
{
	noting = false;
	for (unsigned point = 0; point <= n_notes; point++)
		for (enum crash how = KILLED; how < CRASHES; how++) {
			if (how == NOTHING_UNSYNCED && point > 0 && notes[point - 1].kind != NOTE_SYNC &&
			    !notes[point - 1].durable && point < n_notes)
				continue; /* as at the point before */
			make_crashed(point, how);
			check_crashed(point, how);
		}
}

/* ---- tests ---- */

enum { WISHES = 40 };

static void write_behind(void)
{
	autofree uint8_t *bytes = malloc(DISK_BYTES);
	autoclose int fd = open(behind, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

	for (uint32_t i = 0; i < DISK_SECTORS; i++) {
		first_bytes[i] = i / 100 % 3 ? (uint8_t)(1 + i / 100 % 250) : 0;
		memset(bytes + i * (size_t)SECTOR, first_bytes[i], SECTOR);
	}
	assert_int_equal(io_write(fd, bytes, DISK_BYTES, 0), DISK_BYTES);
}

/* through: some of the writes are written through, by drivers that come and go. */
static void crash_of(const char *make, const char *more, unsigned wishes, bool through)
{
	for (unsigned i = 0; i < n_notes; i++)
		free(notes[i].data);
	n_notes = n_writes = 0;
	write_behind();
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	sh(make, image, behind);
#pragma GCC diagnostic pop
	sh("cp --sparse=always %s %s.first", image, image);
	attach_image(image, "qcow2", more);
	noting = true;
	if (through)
		wish_in_new_clusters();
	for (unsigned i = 0; i < wishes; i++)
		wish_at_random(through && draw(2));
	detach_disk();
	all_crashes();
}

static void over_raw(void **state)
{
	(void)state;
	crash_of("qemu-img create -q -f qcow2 -F raw -b %2$s %1$s", ",backing_files=on" PLAIN, WISHES, false);
}

static void compressed(void **state)
{
	(void)state;
	crash_of("qemu-img convert -q -c -f raw -O qcow2 %2$s %1$s", PLAIN, WISHES, false);
}

static void small_clusters(void **state)
{
	(void)state;
	crash_of("qemu-img convert -q -o cluster_size=512 -f raw -O qcow2 %2$s %1$s", PLAIN, WISHES, false);
}

static void written_through(void **state)
{
	(void)state;
	crash_of("qemu-img create -q -f qcow2 -F raw -b %2$s %1$s", ",backing_files=on" PLAIN, WISHES / 4, true);
}

static int make_dir(void **state)
{
	(void)state;
	draw_seed();
	assert_non_null(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/image", dir);
	snprintf(behind, sizeof(behind), "%s/behind", dir);
	snprintf(crashed, sizeof(crashed), "%s/crashed", dir);
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
		cmocka_unit_test(over_raw),
		cmocka_unit_test(compressed),
		cmocka_unit_test(small_clusters),
		cmocka_unit_test(written_through),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
