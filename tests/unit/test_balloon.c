// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/virtio_balloon: which pages go, whatever the guest writes into its lists, for each kind of memory; its configuration
 * space and its state.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <sys/mman.h>

#include "vmm/machine/devices.h"
#include "vmm/virtio/kinds.h"
#include "vmm/virtio/transport.h"

enum { PAGE = 4096, LOW_PAGES = 256, HIGH_PAGES = 64, PAGES = LOW_PAGES + HIGH_PAGES, RING_PAGES = 16 };
enum { DESC = 0, AVAIL = 0x1000, USED = 0x2000, LIST = 0x3000 };
enum { NEXT = 1, WRITE = 2 };
#define HIGH (1ULL << 32)
#define HIGH_PFN (HIGH / PAGE)

static struct vm vm;
static struct device_env env = { .mem = &vm.mem, .kvm = &vm.kvm, .mmio = &vm.mmio, .pci = &vm.pci };
static struct virtio_dev *vdev;

/* The transport's part. */
static int last_interrupt;
static unsigned n_interrupts;

void virtio_pci_interrupt(struct virtio_pci *transport, int queue_or_config)
{
	(void)transport;
	last_interrupt = queue_or_config;
	n_interrupts++;
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
}

int virtio_pci_attach(const struct device_env *owner, struct virtio_dev *dev, const struct pci_place *place,
		      struct virtio_pci **ret, struct err *err)
{
	(void)owner;
	(void)dev;
	(void)place;
	(void)ret;
	return err_set(err, ERR_INTERNAL, "not here");
}

void virtio_pci_free(struct virtio_pci *transport)
{
	(void)transport;
}

void virtio_pci_save(struct virtio_pci *transport, struct strbuf *out)
{
	(void)transport;
	(void)out;
}

int virtio_pci_load(struct virtio_pci *transport, const struct json_node *node, struct err *err)
{
	(void)transport;
	(void)node;
	return err_set(err, ERR_INTERNAL, "not here");
}

void virtio_pci_tree(const struct virtio_pci *transport, struct strbuf *out)
{
	(void)transport;
	(void)out;
}

/* ---- memory ---- */

static uint8_t *page(unsigned n)
{
	return gmem_ptr(&vm.mem, n < LOW_PAGES ? (gpa_t)n * PAGE : HIGH + (gpa_t)(n - LOW_PAGES) * PAGE, PAGE);
}

static uint8_t content(unsigned n)
{
	return (uint8_t)(n % 200 + 1);
}

/* Content from a file through a private mapping, or written. */
static void map(bool cow)
{
	autoclose int fd = unit_file();
	struct err err = {};

	vm = (struct vm){};
	gmem_layout(&vm.mem, (uint64_t)PAGES * PAGE, (uint64_t)LOW_PAGES * PAGE, HIGH);
	if (cow) {
		uint8_t buf[PAGE];
		for (unsigned n = 0; n < PAGES; n++) {
			memset(buf, n < RING_PAGES ? 0 : content(n), PAGE);
			assert_int_equal(pwrite(fd, buf, PAGE, (off_t)n * PAGE), PAGE);
		}
		assert_int_equal(gmem_map_cow(&vm.mem, &fd, &err), 0);
	} else {
		assert_int_equal(gmem_map_anon(&vm.mem, false, false, &err), 0);
		for (unsigned n = RING_PAGES; n < PAGES; n++)
			memset(page(n), content(n), PAGE);
	}
}

static bool is(unsigned n, uint8_t value)
{
	const uint8_t *p = page(n);

	for (unsigned i = 0; i < PAGE; i++)
		if (p[i] != value)
			return false;
	return true;
}

/* Exactly the pages [from, to) are gone; all get their content back. */
static void only_gone(unsigned from, unsigned to)
{
	for (unsigned n = RING_PAGES; n < PAGES; n++) {
		if (!is(n, n >= from && n < to ? 0 : content(n)))
			fail_msg("page %u, expected [%u, %u) to be zero", n, from, to);
		memset(page(n), content(n), PAGE);
	}
}

/* ---- the device ---- */

static void put(uint64_t gpa, const void *data, size_t len)
{
	memcpy(gmem_ptr(&vm.mem, gpa, len), data, len);
}

static void open_balloon(const char *options)
{
	struct balloon_config cfg;
	struct err err = {};

	fields_init(balloon_fields, &cfg);
	assert_int_equal(fields_parse_options(balloon_fields, &cfg, options, &err), 0);
	assert_int_equal(virtio_balloon_new(&env, &cfg, &vdev, &err), 0);
	fields_free(balloon_fields, &cfg);
	n_interrupts = 0;
}

/* One queue at a time lives in the ring pages. */
static void activate(unsigned queue)
{
	memset(page(0), 0, PAGE * 4);
	if (vdev->active)
		virtio_reset(vdev);
	vdev->acked_features = vdev->avail_features;
	vdev->queue[queue].s.ready = true;
	vdev->queue[queue].s.desc_table = DESC;
	vdev->queue[queue].s.avail_ring = AVAIL;
	vdev->queue[queue].s.used_ring = USED;
	virtio_activate(vdev);
	assert_true(vdev->active);
}

struct part {
	uint64_t gpa;
	uint32_t len;
	uint16_t flags;
};

static void chain(unsigned queue, const struct part *part, unsigned n)
{
	uint16_t idx;

	for (unsigned i = 0; i < n; i++) {
		const struct {
			uint64_t addr;
			uint32_t len;
			uint16_t flags, next;
		} d = { part[i].gpa, part[i].len, (uint16_t)(part[i].flags | (i + 1 < n ? NEXT : 0)),
			(uint16_t)(i + 1) };
		put(DESC + 16 * i, &d, sizeof(d));
	}
	memcpy(&idx, gmem_ptr(&vm.mem, AVAIL + 2, 2), 2);
	put(AVAIL + 4 + 2 * (idx % vdev->queue[queue].s.size), &(uint16_t){ 0 }, 2);
	idx++;
	put(AVAIL + 2, &idx, 2);
	n_interrupts = 0;
	pthread_mutex_lock(&vdev->lock);
	virtio_notify(vdev, queue);
	pthread_mutex_unlock(&vdev->lock);
	assert_int_equal(n_interrupts, 1);
	assert_int_equal(last_interrupt, queue);
	uint16_t used;
	memcpy(&used, gmem_ptr(&vm.mem, USED + 2, 2), 2);
	assert_int_equal(used, idx);
}

static void list(unsigned queue, const uint32_t *pfn, unsigned n)
{
	put(LIST, pfn, n * sizeof(*pfn));
	chain(queue, &(struct part){ LIST, n * 4, 0 }, 1);
}

static void close_balloon(void)
{
	vdev->ops->free(vdev);
	gmem_unmap(&vm.mem);
}

#define LIST_OF(queue, ...) \
	list(queue, (const uint32_t[]){ __VA_ARGS__ }, sizeof((const uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t))

static void lists(bool cow)
{
	map(cow);
	open_balloon("size=1M");
	assert_int_equal(vdev->n_queues, 2);
	assert_int_equal(vdev->queue[0].s.max_size, 128);
	activate(0);
	LIST_OF(0, 100);
	only_gone(100, 101);
	LIST_OF(0, 30, 33, 31, 32, 31);
	only_gone(30, 34);
	LIST_OF(0, 255, 254);
	only_gone(254, 256);
	LIST_OF(0, HIGH_PFN + 1, HIGH_PFN, 0xffffffff, 0xffffffff, HIGH_PFN + HIGH_PAGES + 7, 5000);
	only_gone(LOW_PAGES, LOW_PAGES + 2);
	LIST_OF(0, HIGH_PFN + HIGH_PAGES - 1);
	only_gone(PAGES - 1, PAGES);
	put(LIST, (const uint32_t[]){ 40, 41, 42 }, 12); /* in pieces, the last number cut off */
	chain(0, (const struct part[]){ { LIST, 2, 0 }, { LIST + 2, 6, 0 }, { LIST + 8, 3, 0 } }, 3);
	only_gone(40, 42);
	chain(0, &(struct part){ 0x20000, 64, WRITE }, 1); /* not a list */
	only_gone(0, 0);
	uint32_t many[1000];
	for (unsigned i = 0; i < 150; i++)
		many[i] = 250 - i;
	for (unsigned i = 150; i < 1000; i++)
		many[i] = 60 + i % 41;
	list(0, many, 1000);
	only_gone(60, 251);
	uint32_t too_many[1030]; /* those behind a page full of numbers stay */
	for (unsigned i = 0; i < 1030; i++)
		too_many[i] = i < 1024 ? 70 : 80 + i - 1024;
	list(0, too_many, 1030);
	only_gone(70, 71);
	activate(1); /* deflate: nothing happens to the pages */
	LIST_OF(1, 100, 101);
	only_gone(0, 0);
	close_balloon();
}

static void lists_of_anonymous_memory(void **state)
{
	(void)state;
	lists(false);
}

static void lists_of_a_snapshots_memory(void **state)
{
	(void)state;
	lists(true);
}

static void reports(void **state)
{
	(void)state;
	for (unsigned cow = 0; cow < 2; cow++) {
		map(cow);
		open_balloon("size=0,free_page_reporting=on,deflate_on_oom=on");
		assert_int_equal(vdev->n_queues, 3);
		assert_int_equal(vdev->queue[2].s.max_size, 32);
		assert_int_equal(vdev->avail_features, 1ULL << 32 | 1 << 5 | 1 << 2);
		activate(2);
		chain(2, &(struct part){ 20 * PAGE, 30 * PAGE, WRITE }, 1);
		only_gone(20, 50);
		chain(2, (const struct part[]){ { 20 * PAGE, 10 * PAGE, WRITE }, { 30 * PAGE, PAGE, WRITE } }, 2);
		only_gone(20, 31);
		chain(2, &(struct part){ 20 * PAGE + 1, 2 * PAGE, WRITE }, 1); /* whole pages only */
		only_gone(21, 22);
		chain(2, &(struct part){ 20 * PAGE + 1, PAGE, WRITE }, 1);
		only_gone(0, 0);
		chain(2, &(struct part){ HIGH, HIGH_PAGES * PAGE, WRITE }, 1);
		only_gone(LOW_PAGES, PAGES);
		chain(2, &(struct part){ 50 * PAGE, 4 * PAGE, 0 }, 1); /* not to be written: no report */
		only_gone(0, 0);
		close_balloon();
	}
}

static void configuration(void **state)
{
	uint32_t actual = 77;

	(void)state;
	map(false);
	open_balloon("size=4097,id=bal");
	const uint32_t *space = vdev->config;
	assert_string_equal(vdev->id, "bal");
	assert_int_equal(vdev->ops->config_bytes, 8);
	assert_int_equal(space[0], 1);
	vdev->ops->write_config(vdev, 4, &actual, 4);
	vdev->ops->write_config(vdev, 0, &actual, 4); /* all else is not the guest's */
	vdev->ops->write_config(vdev, 4, &(uint32_t){ 5 }, 2);
	vdev->ops->write_config(vdev, 6, &(uint32_t){ 5 }, 2);
	assert_int_equal(space[0], 1);
	assert_int_equal(space[1], 77);
	assert_int_equal(virtio_balloon_bytes(vdev), 77 * PAGE);
	virtio_balloon_resize(vdev, 10 * PAGE + 5);
	assert_int_equal(space[0], 10);
	assert_int_equal(n_interrupts, 0); /* nobody is there */
	activate(0);
	n_interrupts = 0;
	virtio_balloon_resize(vdev, UINT64_MAX);
	assert_int_equal(space[0], UINT32_MAX);
	assert_int_equal(n_interrupts, 1);
	assert_int_equal(last_interrupt, VIRTIO_CONFIG_CHANGE);
	close_balloon();
}

static int load(const char *text, struct err *err)
{
	autofree char *copy = exact_copy(text, strlen(text)); /* parsed in place */
	autojson struct json json = {};

	assert_int_equal(json_parse(&json, copy, strlen(text), err), 0);
	return vdev->ops->load(vdev, json.nodes, err);
}

static void saved_state(void **state)
{
	static const char text[] = "{\"avail_features\":4294967300,\"acked_features\":4294967296,"
				   "\"config\":{\"num_pages\":256,\"actual\":12}}";
	autostrbuf struct strbuf out = {};
	struct err err = {};

	(void)state;
	map(false);
	open_balloon("size=8M,deflate_on_oom=on");
	assert_int_equal(load(text, &err), 0);
	vdev->ops->save(vdev, &out);
	assert_string_equal(out.text, text);
	assert_int_equal(virtio_balloon_bytes(vdev), 12 * PAGE);
	close_balloon();
	map(false);
	open_balloon("size=8M");
	assert_true(load("{\"avail_features\":4294967300,\"acked_features\":4294967300,"
			 "\"config\":{\"num_pages\":256,\"actual\":12}}",
			 &err) < 0);
	assert_non_null(strstr(err.msg, "__balloon: acked_features has 0x4"));
	err = (struct err){};
	assert_true(load("{\"avail_features\":4294967296,\"acked_features\":0,\"config\":{\"actual\":12}}", &err) < 0);
	assert_non_null(strstr(err.msg, "config.num_pages"));
	close_balloon();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists_of_anonymous_memory),
		cmocka_unit_test(lists_of_a_snapshots_memory),
		cmocka_unit_test(reports),
		cmocka_unit_test(configuration),
		cmocka_unit_test(saved_state),
	};

	return cmocka_run_group_tests_name("virtio_balloon", tests, NULL, NULL);
}
