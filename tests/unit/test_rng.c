// SPDX-License-Identifier: Apache-2.0
/* vmm/virtio/rng: what a guest gets for requests of many lengths, and how long one may hold the device. */
#include "vmm/virtio/kinds.h"

#include "tests/unit/unit.h"

enum { RAM_BYTES = 4 << 20, DESC = 0, AVAIL = 0x2000, USED = 0x4000, DATA = 0x10000, CHUNK = 64 << 10, WRITE = 2 };

static struct gmem mem;
static struct device_env env = { .mem = &mem };
static struct virtio_dev *vdev;

/* ---- the transport's part ---- */

void virtio_pci_interrupt(struct virtio_pci *transport, int queue_or_config)
{
	(void)transport;
	(void)queue_or_config;
}

bool virtio_pci_again(struct virtio_pci *transport, unsigned queue)
{
	(void)transport;
	(void)queue;
	return false;
}

void virtio_pci_needs_reset(struct virtio_pci *transport)
{
	(void)transport;
	fail_msg("a chain was refused");
}

/* ---- the guest's part ---- */

static void put(uint64_t gpa, const void *data, size_t len)
{
	memcpy(gmem_ptr(&mem, gpa, len), data, len);
}

/* One request for `len` bytes; how many came. */
static uint32_t request(uint32_t len, uint16_t flags)
{
	const struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} d = { DATA, len, flags, 0 };
	uint16_t idx;
	uint32_t written;

	put(DESC, &d, sizeof(d));
	memcpy(&idx, gmem_ptr(&mem, AVAIL + 2, 2), 2);
	put(AVAIL + 4 + 2 * (idx % 256), &(uint16_t){ 0 }, 2);
	put(AVAIL + 2, &(uint16_t){ (uint16_t)(idx + 1) }, 2);
	virtio_notify(vdev, 0);
	memcpy(&written, gmem_ptr(&mem, USED + 8 + 8 * (idx % 256), 4), 4);
	return written;
}

static bool all_zero(uint64_t from, uint64_t to)
{
	const uint8_t *p = gmem_ptr(&mem, from, to - from);

	for (uint64_t i = 0; i < to - from; i++)
		if (p[i])
			return false;
	return true;
}

/* A long request is answered in part. */
static void a_request_has_a_bound(void **state)
{
	static char src[] = "/dev/urandom";
	struct rng_config cfg = { .src = src };
	struct err err = {};

	(void)state;
	gmem_layout(&mem, RAM_BYTES, RAM_BYTES, 1ULL << 32);
	assert_int_equal(gmem_map_anon(&mem, false, false, &err), 0);
	assert_int_equal(virtio_rng_new(&env, &cfg, &vdev, &err), 0);
	vdev->acked_features = vdev->avail_features;
	vdev->queue[0].s.ready = true;
	vdev->queue[0].s.desc_table = DESC;
	vdev->queue[0].s.avail_ring = AVAIL;
	vdev->queue[0].s.used_ring = USED;
	virtio_activate(vdev);
	assert_int_equal(request(16, 0), 0); /* nothing to fill */
	assert_int_equal(request(64, WRITE), 64);
	assert_false(all_zero(DATA, DATA + 64));
	assert_true(all_zero(DATA + 64, RAM_BYTES));
	uint32_t came = request(RAM_BYTES - DATA, WRITE);
	assert_true(came > 0 && came <= CHUNK);
	assert_true(all_zero(DATA + CHUNK, RAM_BYTES));
	vdev->ops->free(vdev);
	gmem_unmap(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(a_request_has_a_bound) };

	return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
