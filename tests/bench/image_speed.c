// SPDX-License-Identifier: Apache-2.0
/*
 * The speed of a disk's image without a guest: the device's queue is filled and served by this program, as `qemu-img bench` does with
 * qemu's own images.   image_speed PATH TYPE COUNT DEPTH STEP_BYTES
 * Writes COUNT times 4 KiB, STEP_BYTES apart, DEPTH at a time, and prints the seconds.
 */
#include "common/clock.h"
#include "tests/unit/disk.h"

enum { BLOCK = 4096, DATA_AT = 0x10000 };

static void put_write(unsigned slot, uint64_t off)
{
	const struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head = { T_OUT, 0, off / SECTOR };
	uint64_t at = HEAD + 32ULL * slot;

	put(at, &head, sizeof(head));
	put_desc(3 * slot, at, sizeof(head), NEXT);
	put_desc(3 * slot + 1, DATA_AT + (uint64_t)slot * BLOCK, BLOCK, NEXT);
	put_desc(3 * slot + 2, at + 16, 1, WRITE);
}

int main(int argc, char **argv)
{
	if (argc != 6)
		return 2;
	uint64_t count = strtoull(argv[3], NULL, 0), depth = strtoull(argv[4], NULL, 0),
		 step = strtoull(argv[5], NULL, 0);
	if (depth == 0 || depth > 32)
		return 2;
	attach_image(argv[1], argv[2], ",backing_files=on");
	memset(ram(DATA_AT, 32 * BLOCK), 0xaa, 32 * BLOCK);
	uint64_t begin = monotonic_ns();
	for (uint64_t done = 0; done < count; done += depth) {
		for (unsigned i = 0; i < depth; i++) {
			uint16_t first = (uint16_t)(3 * i);
			put_write(i, (done + i) * step);
			put(AVAIL + 4 + 2 * ((done + i) % 128), &first, 2);
		}
		uint16_t next = (uint16_t)(done + depth);
		put(AVAIL + 2, &next, 2);
		pthread_mutex_lock(&vdev->lock);
		virtio_notify(vdev, 0);
		vdev->ops->reset(vdev); /* waits for what is under way */
		pthread_mutex_unlock(&vdev->lock);
		if (used_idx() != next)
			return 1;
		for (unsigned i = 0; i < depth; i++)
			if (*(uint8_t *)ram(HEAD + 32ULL * i + 16, 1) != S_OK)
				return 1;
	}
	printf("%.6f\n", (double)(monotonic_ns() - begin) / 1e9);
	detach_disk();
	return 0;
}
