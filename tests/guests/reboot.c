/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test guest that counts its boots on its disk, in the first sector of it, and prints "boot N". It then does what
 * it is told by the serial port: "r" resets the machine, "o" ends it, "f" writes the count of a flood, and
 * all else is answered "alive N".
 *
 * RAM that no loader has touched must be zero at each boot: it fails when it finds what an earlier boot has left.
 *
 * Options: flood=0 (once "f" has come, each boot resets the machine as long as fewer than so many are counted)
 * end=reset|acpi-reset (how "r" resets)  initramfs=0 (1: prints what text an initramfs of less than a page has)
 */
#include "virtio.h"

#define SECTOR 512u
#define COM1_LSR (COM1 + 5)
#define STALE 0x6f6c642064617461ul /* what a boot leaves in RAM */

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4 };

static struct virtio disk;
static struct virtq queue;
static struct request {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	uint8_t status;
} * request;
static struct kept {
	uint64_t boots, flood_until; /* flood_until 0: none */
	uint8_t rest[SECTOR - 16];
} * kept;

static void transfer(uint32_t type)
{
	const struct seg segs[] = { { &request->header, sizeof(request->header), false },
				    { kept, SECTOR, type == T_IN },
				    { &request->status, 1, true } };
	const struct seg flush[] = { segs[0], segs[2] };
	uint32_t len;

	request->header.type = type;
	request->status = 0xff;
	if (!(type == T_FLUSH ? virtq_add(&queue, flush, 2, false, request)
			      : virtq_add(&queue, segs, 3, false, request)))
		fail("disk: no room in the queue");
	virtq_kick(&queue);
	virtq_wait(&queue, "disk");
	if (virtq_take(&queue, &len) != request || request->status != 0)
		fail("disk request %u: status %u", type, request->status);
}

static void save(void)
{
	transfer(T_OUT);
	transfer(T_FLUSH);
}

static void open_disk(void)
{
	static struct virtio devs[8];
	unsigned n = virtio_scan(devs, ARRAY_LEN(devs)), i = 0;

	while (i < n && devs[i].type != VIRTIO_BLK)
		i++;
	if (i == n)
		fail("there is no disk");
	disk = devs[i];
	request = ram_alloc(sizeof(*request), 64);
	kept = ram_alloc(sizeof(*kept), SECTOR);
	virtio_begin(&disk, 1ul << 9);
	virtq_init(&queue, &disk, 0, 16, 0, 0);
	virtio_go(&disk);
}

static uint64_t end_of_ram(void)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < n_ram; i++)
		if (ram[i].start + ram[i].bytes <= 1ul << 32)
			end = MAX(end, ram[i].start + ram[i].bytes);
	return end;
}

/* Near the end of RAM: far from the kernel, and from what ram_alloc() has given. */
static void check_ram(void)
{
	volatile uint64_t *near_end = (volatile uint64_t *)(end_of_ram() - 16 * PAGE);

	if (*near_end != 0)
		fail("RAM is not empty at a boot: %lx", *near_end);
	*near_end = STALE;
	if (option_number("initramfs", 0))
		print("initramfs %s\n", (const char *)(end_of_ram() - PAGE));
}

static uint8_t typed(void)
{
	while (!(inb(COM1_LSR) & 1))
		relax();
	return inb(COM1);
}

void guest_main(void)
{
	check_ram();
	open_disk();
	transfer(T_IN);
	kept->boots++;
	save();
	print("boot %lu\n", kept->boots);
	if (kept->boots < kept->flood_until)
		return;
	for (;;) {
		uint8_t c = typed();
		if (c == 'f') {
			kept->flood_until = kept->boots + option_number("flood", 0);
			save();
			return;
		}
		if (c == 'r')
			return;
		if (c == 'o')
			outb(0x600, 0x34);
		print("alive %lu\n", kept->boots);
	}
}
