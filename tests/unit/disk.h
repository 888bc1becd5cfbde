// SPDX-License-Identifier: Apache-2.0
/* A disk for a unit test: a machine's memory, one queue, and nothing behind the transport. */
#ifndef TESTS_UNIT_DISK_H
#define TESTS_UNIT_DISK_H

#include "tests/unit/rounds.h"
#include "vmm/machine/devices.h"
#include "vmm/virtio/kinds.h"

enum { MIB = 1 << 20, RAM_BYTES = 2 << 20, SECTOR = 512 };
enum { DESC = 0, AVAIL = 0x1000, USED = 0x2000, HEAD = 0x3000, RANGE = 0x3800, STATUS = 0x3c00 };
enum { NEXT = 1, WRITE = 2, NO_INTERRUPT = 1 };
enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
	UNMAP = 1,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14
};
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xff };

#define PLAIN ",_disable_io_uring=on"

static struct vm vm;
static struct device_env env = { .mem = &vm.mem, .kvm = &vm.kvm, .mmio = &vm.mmio, .pci = &vm.pci };
static struct virtio_dev *vdev;

static inline void *ram(uint64_t gpa, size_t len)
{
	void *p = gmem_ptr(&vm.mem, gpa, len);

	if (!p)
		abort();
	return p;
}

static inline void put(uint64_t gpa, const void *data, size_t len)
{
	memcpy(ram(gpa, len), data, len);
}

static inline uint16_t used_idx(void)
{
	uint16_t v;

	memcpy(&v, ram(USED + 2, 2), 2);
	return v;
}

static inline void put_desc(unsigned i, uint64_t addr, uint32_t len, uint16_t flags)
{
	const struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} d = { addr, len, flags, (uint16_t)(i + 1) };

	put(DESC + 16 * i, &d, sizeof(d));
}

/* `more`: options after the path and the type. As virtio_blk_new(); to be followed by detach_disk() or close_machine(). */
static inline int make_disk(const char *image, const char *type, const char *more, struct err *ret_err)
{
	struct disk_config cfg;
	struct err err = {};
	char text[160];

	snprintf(text, sizeof(text), "id=disk0,path=%s,image_type=%s%s", image, type, more);
	fields_init(disk_fields, &cfg);
	assert_int_equal(fields_parse_options(disk_fields, &cfg, text, &err), 0);
	vm = (struct vm){ .loop = &loop };
	env.loop = &loop;
	gmem_layout(&vm.mem, RAM_BYTES, RAM_BYTES, 1ULL << 32);
	assert_int_equal(gmem_map_anon(&vm.mem, false, false, &err), 0);
	assert_int_equal(loop_init(&loop, &err), 0);
	int r = virtio_blk_new(&env, &cfg, &vdev, ret_err);
	fields_free(disk_fields, &cfg);
	return r;
}

static inline void attach_image(const char *image, const char *type, const char *more)
{
	struct err err = {};

	if (make_disk(image, type, more, &err) < 0)
		fail_msg("%s", err.msg);
	vdev->acked_features = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << F_DISCARD | 1ULL << F_WRITE_ZEROES | 1ULL << 9;
	vdev->queue[0].s.ready = true;
	vdev->queue[0].s.desc_table = DESC;
	vdev->queue[0].s.avail_ring = AVAIL;
	vdev->queue[0].s.used_ring = USED;
	put(AVAIL, &(uint16_t){ NO_INTERRUPT }, 2);
	virtio_activate(vdev);
	assert_true(vdev->active);
}

static inline void attach_disk(const char *image, const char *more)
{
	attach_image(image, "raw", more);
}

static inline void close_machine(void)
{
	loop_done(&loop);
	gmem_unmap(&vm.mem);
}

static inline void detach_disk(void)
{
	vdev->ops->free(vdev);
	close_machine();
}

/* Until the device has answered so many chains. */
static inline void wait_used(uint16_t idx)
{
	for (unsigned i = 0; i < 20000 && used_idx() != idx; i++) {
		run_rounds(1);
		usleep(500);
	}
	assert_int_equal(used_idx(), idx);
}

/* Makes the chains up to `next` available, tells the device, and waits for all answers; `paused`: the device is paused right after. */
static inline void serve_until(uint16_t next, bool paused)
{
	put(AVAIL + 2, &next, 2);
	pthread_mutex_lock(&vdev->lock);
	virtio_notify(vdev, 0);
	if (paused)
		vdev->ops->pause(vdev);
	pthread_mutex_unlock(&vdev->lock);
	wait_used(next);
}

#endif
