// SPDX-License-Identifier: Apache-2.0
/* vmm/virtio/console: output in turns, however long the guest makes a chain; a pause in between; a device without a worker. */
#include "vmm/virtio/kinds.h"

#include "tests/unit/rounds.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "vmm/console/chardev.h"

enum { RAM_BYTES = 4 << 20, DESC = 0, AVAIL = 0x2000, USED = 0x4000, TEXT = 0x10000, TURN_MAX = 64 << 10, TX = 1 };
enum { NEXT = 1, CHAIN_MAX = 255, QUEUE_SIZE = 256, AVAIL_EVENT = USED + 4 + 8 * QUEUE_SIZE };

static struct gmem mem;
static struct device_env env = { .loop = &loop, .mem = &mem };
static struct virtio_dev *vdev;
static int log_fd;

/* ---- the transport's part ---- */

static unsigned n_again;
static bool has_worker;

void virtio_pci_interrupt(struct virtio_pci *transport, int queue_or_config)
{
	(void)transport;
	(void)queue_or_config;
}

bool virtio_pci_again(struct virtio_pci *transport, unsigned queue)
{
	(void)transport;
	assert_int_equal(queue, TX);
	n_again += has_worker;
	return has_worker;
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

static uint16_t used(void)
{
	uint16_t idx;

	memcpy(&idx, gmem_ptr(&mem, USED + 2, 2), 2);
	return idx;
}

/* One chain more: n descriptors of `len` bytes, each over the same text. */
static void add_chain(unsigned n, uint32_t len)
{
	uint16_t idx;

	for (unsigned i = 0; i < n; i++) {
		const struct {
			uint64_t addr;
			uint32_t len;
			uint16_t flags, next;
		} d = { TEXT, len, i + 1 < n ? NEXT : 0, (uint16_t)(i + 1) };
		put(DESC + 16 * i, &d, sizeof(d));
	}
	memcpy(&idx, gmem_ptr(&mem, AVAIL + 2, 2), 2);
	put(AVAIL + 4 + 2 * (idx % QUEUE_SIZE), &(uint16_t){ 0 }, 2);
	idx++;
	put(AVAIL + 2, &idx, 2);
}

static bool endless; /* the guest adds a chain for each that is written */

ssize_t write(int fd, const void *buf, size_t n)
{
	if (endless && n == 8)
		add_chain(1, 8);
	return syscall(SYS_write, fd, buf, n);
}

/* One notification; the bytes of the log afterwards. */
static off_t notify(void)
{
	struct stat st;

	pthread_mutex_lock(&vdev->lock);
	virtio_notify(vdev, TX);
	pthread_mutex_unlock(&vdev->lock);
	assert_int_equal(fstat(log_fd, &st), 0);
	assert_true(st.st_size <= CHARDEV_LOG_MAX);
	return st.st_size;
}

static int make(void **state)
{
	struct console_config cfg = {};
	struct err err = {};

	(void)state;
	n_again = 0;
	has_worker = true;
	log_fd = unit_file();
	cfg.log_fd = log_fd;
	assert_int_equal(loop_init(&loop, &err), 0);
	gmem_layout(&mem, RAM_BYTES, RAM_BYTES, 1ULL << 32);
	assert_int_equal(gmem_map_anon(&mem, false, false, &err), 0);
	for (uint32_t at = TEXT; at < RAM_BYTES; at += 4)
		put(at, &at, 4);
	assert_int_equal(virtio_console_new(&env, &cfg, &vdev, &err), 0);
	vdev->acked_features = vdev->avail_features;
	vdev->queue[TX].s.ready = true;
	vdev->queue[TX].s.desc_table = DESC;
	vdev->queue[TX].s.avail_ring = AVAIL;
	vdev->queue[TX].s.used_ring = USED;
	virtio_activate(vdev);
	assert_true(vdev->active);
	return 0;
}

static int done(void **state)
{
	(void)state;
	vdev->ops->free(vdev);
	gmem_unmap(&mem);
	loop_done(&loop);
	close(log_fd);
	return 0;
}

/* ---- tests ---- */

/* All of RAM, 255 times: a turn writes no more than TURN_MAX, and the log has its newest part. */
static void a_chain_of_all_ram(void **state)
{
	const uint64_t len = RAM_BYTES - TEXT, turns = (CHAIN_MAX * len + TURN_MAX - 1) / TURN_MAX;
	uint32_t last;

	(void)state;
	add_chain(CHAIN_MAX, (uint32_t)len);
	off_t before = 0;
	for (uint64_t turn = 1; turn < turns; turn++) {
		off_t now = notify();
		assert_true(now - before <= TURN_MAX);
		assert_int_equal(n_again, turn);
		assert_int_equal(used(), 0);
		before = now;
	}
	off_t bytes = notify();
	assert_int_equal(used(), 1);
	assert_int_equal(n_again, turns - 1);
	assert_true(bytes > CHARDEV_LOG_MAX / 2);
	assert_int_equal(pread(log_fd, &last, 4, bytes - 4), 4);
	assert_int_equal(last, RAM_BYTES - 4);
}

/* Each byte once, in order, over turns and chains. */
static void nothing_is_lost(void **state)
{
	enum { CHAINS = 3, LEN = 100004 };
	autofree uint32_t *text = malloc(CHAINS * 2 * LEN);

	(void)state;
	for (unsigned i = 0; i < CHAINS; i++)
		add_chain(2, LEN);
	while (used() < CHAINS)
		notify();
	assert_int_equal(notify(), CHAINS * 2 * LEN);
	assert_int_equal(pread(log_fd, text, CHAINS * 2 * LEN, 0), CHAINS * 2 * LEN);
	for (unsigned i = 0; i < CHAINS * 2 * LEN / 4; i++)
		assert_int_equal(text[i], TEXT + i * 4 % LEN);
}

/* Between two turns: nothing more until the resume, which goes on where it was. */
static void pause_in_the_middle(void **state)
{
	(void)state;
	add_chain(1, 3 * TURN_MAX);
	assert_int_equal(notify(), TURN_MAX);
	virtio_pause(vdev);
	assert_int_equal(notify(), TURN_MAX);
	assert_int_equal(used(), 0);
	virtio_resume(vdev, false);
	assert_int_equal(notify(), 3 * TURN_MAX);
	assert_int_equal(used(), 1);
}

static void *pause_it(void *arg)
{
	virtio_pause(arg);
	return NULL;
}

/* Who pauses waits for the lock; the worker that holds it, and takes it again at once, begins no other turn. */
static void pause_comes_first(void **state)
{
	pthread_t thread;

	(void)state;
	add_chain(1, 3 * TURN_MAX);
	pthread_mutex_lock(&vdev->lock);
	assert_int_equal(pthread_create(&thread, NULL, pause_it, vdev), 0);
	while (!vdev->pausing)
		usleep(100);
	virtio_notify(vdev, TX);
	pthread_mutex_unlock(&vdev->lock);
	pthread_join(thread, NULL);
	assert_int_equal(notify(), 0);
	virtio_resume(vdev, false);
	assert_int_equal(notify(), 2 * TURN_MAX);
}

/* The turn that is under way when the pause comes ends as always: what the guest was told to notify of is done. */
static void pause_in_a_turn(void **state)
{
	pthread_t thread;

	(void)state;
	add_chain(1, 8);
	pthread_mutex_lock(&vdev->lock);
	assert_int_equal(pthread_create(&thread, NULL, pause_it, vdev), 0);
	while (!vdev->pausing)
		usleep(100);
	vdev->ops->notify(vdev, TX);
	pthread_mutex_unlock(&vdev->lock);
	pthread_join(thread, NULL);
	assert_int_equal(used(), 1);
	assert_true(vdev->paused);
}

/* A queue whose next turn the pause prevents asks for the guest's next chain in the snapshot. */
static void paused_queue_asks(void **state)
{
	uint16_t asks;

	(void)state;
	vdev->queue[TX].event_idx = true;
	add_chain(1, 3 * TURN_MAX);
	notify();
	memcpy(&asks, gmem_ptr(&mem, AVAIL_EVENT, 2), 2);
	assert_int_equal(asks, 0);
	virtio_pause(vdev);
	memcpy(&asks, gmem_ptr(&mem, AVAIL_EVENT, 2), 2);
	assert_int_equal(asks, 1);
}

/* A guest whose ring never runs empty has its turn as any other, and the worker goes on later. */
static void an_endless_ring(void **state)
{
	(void)state;
	endless = true;
	add_chain(1, 8);
	notify();
	endless = false;
	assert_int_equal(used(), 2 * QUEUE_SIZE);
	assert_int_equal(n_again, 1);
}

/* The rest of a chain that was under way is forgotten. */
static void reset_in_the_middle(void **state)
{
	struct vring_state s = vdev->queue[TX].s;

	(void)state;
	add_chain(1, 3 * TURN_MAX);
	assert_int_equal(notify(), TURN_MAX);
	virtio_reset(vdev);
	put(AVAIL + 2, &(uint16_t){ 0 }, 2);
	vdev->queue[TX].s = s;
	virtio_activate(vdev);
	add_chain(1, 8);
	assert_int_equal(notify(), TURN_MAX + 8);
	assert_int_equal(used(), 1);
}

/* Where no thread can be had, one turn is all. */
static void without_a_worker(void **state)
{
	(void)state;
	has_worker = false;
	add_chain(1, 3 * TURN_MAX);
	add_chain(1, 3 * TURN_MAX);
	assert_int_equal(notify(), TURN_MAX);
	assert_int_equal(used(), 2);
	add_chain(1, 100);
	assert_int_equal(notify(), TURN_MAX + 100);
	assert_int_equal(used(), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_chain_of_all_ram, make, done),
		cmocka_unit_test_setup_teardown(nothing_is_lost, make, done),
		cmocka_unit_test_setup_teardown(pause_in_the_middle, make, done),
		cmocka_unit_test_setup_teardown(pause_comes_first, make, done),
		cmocka_unit_test_setup_teardown(pause_in_a_turn, make, done),
		cmocka_unit_test_setup_teardown(paused_queue_asks, make, done),
		cmocka_unit_test_setup_teardown(an_endless_ring, make, done),
		cmocka_unit_test_setup_teardown(reset_in_the_middle, make, done),
		cmocka_unit_test_setup_teardown(without_a_worker, make, done),
	};

	return cmocka_run_group_tests_name("console", tests, NULL, NULL);
}
