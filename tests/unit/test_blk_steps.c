// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/virtio/blk_steps: images that take whole blocks only, and a guest that does not know. Several requests at once, whose sectors
 * share blocks, through memory at odd addresses; then every sector of the image is compared with a model of it.
 */
#include "tests/unit/disk.h"

#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { IMAGE_BYTES = 2 << 20, SECTORS = IMAGE_BYTES / SECTOR, WINDOW = 200, GUARD = 8 };
enum { SLOTS = 16, SLOT_GPA = 0x100000, SLOT_BYTES = 0x8000, LENGTH_MAX = 24, DESCS = 5 };
enum { UNKNOWN = 0, UNTOUCHED = 'x' };

struct slot {
	uint32_t type, sector, n;
	uint8_t fill;
	uint64_t data;
};

static int model[SECTORS]; /* the byte that a sector is full of, or UNKNOWN; 256: zeroes */
enum { ZEROES = 256 };
static uint32_t seed;

static uint32_t dice(uint32_t n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

/* ---- the image ---- */

static int image_fd;
static char device[32];

/* A loop device that goes away with its last descriptor; false: there can be none here. */
static bool open_loop(uint32_t block)
{
	int file = memfd_create("image", MFD_CLOEXEC), control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	struct loop_config cfg = { .fd = (uint32_t)file, .block_size = block, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	bool made = false;

	assert_int_equal(ftruncate(file, IMAGE_BYTES), 0);
	for (unsigned i = 0; i < 100 && control >= 0 && !made; i++) {
		snprintf(device, sizeof(device), "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
		image_fd = open(device, O_RDWR | O_CLOEXEC);
		made = image_fd >= 0 &&
		       ioctl(image_fd, LOOP_CONFIGURE, &cfg) == 0; /* another one may have been quicker */
		if (!made && image_fd >= 0)
			close(image_fd);
	}
	if (control >= 0)
		close(control);
	close(file);
	return made;
}

static void fill_image(void)
{
	static char buf[IMAGE_BYTES];

	memset(buf, UNTOUCHED, sizeof(buf));
	assert_int_equal(pwrite(image_fd, buf, sizeof(buf), 0), sizeof(buf));
	assert_int_equal(fsync(image_fd), 0);
	for (unsigned i = 0; i < SECTORS; i++)
		model[i] = UNTOUCHED;
}

static void check_sector(const uint8_t *data, unsigned sector, const char *where)
{
	for (unsigned i = 0; i < SECTOR && model[sector] != UNKNOWN; i++)
		if (data[i] != (uint8_t)model[sector])
			fail_msg("%s: sector %u has 0x%02x at %u, not 0x%02x", where, sector, data[i], i,
				 (uint8_t)model[sector]);
}

static void check_image(void)
{
	static uint8_t buf[IMAGE_BYTES];

	assert_int_equal(pread(image_fd, buf, sizeof(buf), 0), sizeof(buf));
	for (unsigned i = 0; i < SECTORS; i++)
		check_sector(buf + i * SECTOR, i, "the image");
}

/* ---- the guest ---- */

static void choose(struct slot *s, unsigned i, uint32_t sector)
{
	static const uint32_t types[] = { T_OUT, T_OUT, T_OUT, T_IN, T_WRITE_ZEROES, T_DISCARD };
	static const uint32_t odd[] = { 0, 0, 512, 64, 513 };

	*s = (struct slot){ .type = types[dice(ARRAY_LEN(types))], .sector = sector, .n = 1 + dice(LENGTH_MAX) };
	s->data = SLOT_GPA + i * SLOT_BYTES + odd[dice(ARRAY_LEN(odd))];
	s->fill = (uint8_t)(1 + dice(250));
	memset(gmem_ptr(&vm.mem, s->data, s->n * SECTOR), s->fill, s->n * SECTOR);
}

static void submit(const struct slot *s, uint16_t i, uint16_t avail)
{
	const struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head = { .type = s->type, .sector = s->sector };
	const struct {
		uint64_t sector;
		uint32_t n, flags;
	} range = { s->sector, s->n, s->type == T_WRITE_ZEROES ? dice(2) : 0 };
	uint32_t bytes = s->n * SECTOR, first = (1 + dice(s->n)) * SECTOR;
	uint16_t flags = s->type == T_IN ? NEXT | WRITE : NEXT, at = (uint16_t)(i * DESCS);

	put(HEAD + i * 16U, &head, sizeof(head));
	put(RANGE + i * 16U, &range, sizeof(range));
	put(STATUS + i, &(uint8_t){ S_NONE }, 1);
	put(AVAIL + 4 + 2U * (avail % 128U), &at, 2);
	put_desc(at++, HEAD + i * 16U, sizeof(head), NEXT);
	if (s->type == T_IN || s->type == T_OUT) {
		put_desc(at++, s->data, first, flags);
		if (first < bytes)
			put_desc(at++, s->data + first, bytes - first, flags);
	} else {
		put_desc(at++, RANGE + i * 16U, sizeof(range), NEXT);
	}
	put_desc(at, STATUS + i, 1, WRITE);
}

static void finish(const struct slot *s, unsigned i)
{
	const uint8_t *data = gmem_ptr(&vm.mem, s->data, s->n * SECTOR);
	uint8_t status = *(uint8_t *)gmem_ptr(&vm.mem, STATUS + i, 1);

	if (status != S_OK)
		fail_msg("type %u, sector %u, %u long: status %u", s->type, s->sector, s->n, status);
	for (unsigned k = 0; k < s->n; k++) {
		int *was = &model[s->sector + k];
		if (s->type == T_IN)
			check_sector(data + k * SECTOR, s->sector + k, "read");
		else
			*was = s->type == T_OUT ? s->fill : s->type == T_DISCARD ? UNKNOWN : ZEROES;
	}
}

/* All of them at once; `paused`: the device is paused right after. */
static void run(struct slot *slots, bool paused)
{
	uint16_t before = used_idx(), next = (uint16_t)(before + SLOTS);

	for (unsigned i = 0; i < SLOTS; i++)
		submit(&slots[i], (uint16_t)i, (uint16_t)(before + i));
	serve_until(next, paused);
	for (unsigned i = 0; i < SLOTS; i++)
		finish(&slots[i], i);
}

/* Requests side by side: each shares a block with the next. */
static void side_by_side(bool paused)
{
	struct slot slots[SLOTS];
	uint32_t sector = GUARD + dice(WINDOW);

	for (unsigned i = 0; i < SLOTS; sector += slots[i++].n)
		choose(&slots[i], i, sector);
	run(slots, paused);
}

/* Writes of whole blocks, and each with one of a sector in it: either may come last, but the other sectors are those of the first. */
static void one_in_another(bool paused)
{
	struct slot slots[SLOTS];

	for (unsigned i = 0; i < SLOTS; i += 2) {
		unsigned inner = i + dice(2), outer = 2 * i + 1 - inner;
		uint32_t sector = GUARD + i * 8;
		choose(&slots[outer], outer, sector);
		choose(&slots[inner], inner, sector + 1 + dice(14));
		slots[outer].type = slots[inner].type = T_OUT;
		slots[outer].n = 16;
		slots[inner].n = 1;
		memset(gmem_ptr(&vm.mem, slots[outer].data, 16 * SECTOR), slots[outer].fill, 16 * SECTOR);
	}
	run(slots, paused);
	for (unsigned i = 0; i < SLOTS; i++)
		if (slots[i].n == 16)
			finish(&slots[i], i);
	for (unsigned i = 0; i < SLOTS; i++)
		if (slots[i].n == 1)
			model[slots[i].sector] = UNKNOWN;
}

static void check_disk(uint32_t block, const char *options)
{
	if (!open_loop(block))
		skip();
	fill_image();
	attach_disk(device, options);
	for (unsigned i = 0; i < 60; i++) {
		side_by_side(i % 3 == 0);
		check_image();
		one_in_another(i % 3 == 0);
		check_image();
	}
	detach_disk();
	close(image_fd);
}

/* ---- tests ---- */

static void direct(void **state)
{
	(void)state;
	check_disk(4096, ",direct=on");
}

static void direct_plain(void **state)
{
	(void)state;
	check_disk(4096, ",direct=on" PLAIN);
}

static void buffered(void **state)
{
	(void)state;
	check_disk(4096, "");
}

static void buffered_plain(void **state)
{
	(void)state;
	check_disk(4096, PLAIN);
}

static void small_blocks(void **state)
{
	(void)state;
	check_disk(512, ",direct=on");
}

/* Of the same place in the configuration space as Cloud Hypervisor. */
static void guest_is_told(void **state)
{
	static const struct {
		const char *options;
		uint32_t block, told;
	} cases[] = { { ",direct=on", 4096, 4096 }, { "", 4096, 4096 }, { ",direct=on", 512, 512 }, { "", 512, 512 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		if (!open_loop(cases[i].block))
			skip();
		attach_disk(device, cases[i].options);
		const uint8_t *space = vdev->config;
		uint32_t block, alignment;
		memcpy(&block, space + 20, sizeof(block));
		memcpy(&alignment, space + 44, sizeof(alignment));
		assert_int_equal(block, cases[i].told);
		assert_int_equal(alignment, cases[i].told / SECTOR);
		detach_disk();
		close(image_fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(direct),         cmocka_unit_test(direct_plain), cmocka_unit_test(buffered),
		cmocka_unit_test(buffered_plain), cmocka_unit_test(small_blocks), cmocka_unit_test(guest_is_told),
	};

	seed = 1;
	return cmocka_run_group_tests_name("blk_steps", tests, NULL, NULL);
}
