// SPDX-License-Identifier: Apache-2.0
/*
 * A disk of a qcow2 image against a model of its bytes: images as qemu-img makes them and our own, alone
 * and over other files, with many requests at a time. qemu-img says afterwards whether the image is sound
 * and what its bytes are.
 */
#include "tests/unit/wishes.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/io.h"
#include "vmm/virtio/qcow2_private.h"

enum { DISK_BYTES = 6 * MIB + 40 * SECTOR, DISK_SECTORS = DISK_BYTES / SECTOR, BATCHES = 50, SHORTER = 1000001 };

static char dir[] = "/tmp/forkd-test-qcow2-XXXXXX", image[64], behind[64];
static uint8_t *model;

/* ---- the model ---- */

static void check_read(const struct wish *w)
{
	const uint8_t *got = ram(slot_at(w) + SLOT_DATA, w->n * (size_t)SECTOR);

	for (uint32_t i = 0; i < w->n; i++)
		if (memcmp(got + i * (size_t)SECTOR, model + (w->sector + i) * (size_t)SECTOR, SECTOR) != 0)
			fail_msg("sector %u of [%u, %u)", w->sector + i, w->sector, w->sector + w->n);
}

/* What was discarded is as it was, or zeroes. */
static void learn_discard(const struct wish *d)
{
	static const uint8_t zeroes[SECTOR];

	for (uint32_t at = d->sector; at < d->sector + d->n; at += DATA_MAX_SECTORS) {
		uint32_t rest = d->sector + d->n - at;
		struct wish w = { .type = T_IN, .sector = at, .n = rest < DATA_MAX_SECTORS ? rest : DATA_MAX_SECTORS };
		do_wish(w);
		const uint8_t *got = ram(slot_at(&w) + SLOT_DATA, w.n * (size_t)SECTOR);
		for (uint32_t i = 0; i < w.n; i++) {
			uint8_t *was = model + (at + i) * (size_t)SECTOR;
			if (memcmp(got + i * (size_t)SECTOR, zeroes, SECTOR) == 0)
				memset(was, 0, SECTOR);
			else
				assert_memory_equal(got + i * (size_t)SECTOR, was, SECTOR);
		}
	}
}

static void apply(const struct wish *w)
{
	uint8_t *at = model + w->sector * (size_t)SECTOR;

	switch (w->type) {
	case T_OUT:
		memcpy(at, w->data, w->n * (size_t)SECTOR);
		break;
	case T_WRITE_ZEROES:
		memset(at, 0, w->n * (size_t)SECTOR);
		break;
	case T_DISCARD:
		learn_discard(w);
		break;
	case T_IN:
		check_read(w);
		break;
	default:
		break;
	}
}

static bool overlaps(const struct wish *w, unsigned n, uint32_t sector, uint32_t len)
{
	for (unsigned i = 0; i < n; i++)
		if (w[i].sector < sector + len && sector < w[i].sector + w[i].n)
			return true;
	return false;
}

/* Some requests that go at the same time: near each other, but no two for the same sector. */
static unsigned draw_wishes(struct wish *w)
{
	static const uint32_t types[] = { T_IN,  T_IN,  T_IN,    T_OUT,     T_OUT,
					  T_OUT, T_OUT, T_FLUSH, T_DISCARD, T_WRITE_ZEROES };
	uint32_t near = draw(DISK_SECTORS), spread = draw(3) ? 256 : DISK_SECTORS;
	unsigned n = 0;

	for (unsigned tries = 1 + draw(BATCH_MAX); tries > 0; tries--) {
		uint32_t type = types[draw(ARRAY_LEN(types))], len = 1 + draw(draw(4) ? 24 : DATA_MAX_SECTORS);
		uint32_t sector = (near + draw(spread)) % DISK_SECTORS;
		if (type == T_DISCARD || type == T_WRITE_ZEROES)
			len *= 1 + draw(8);
		if (draw(8) == 0)
			sector &= ~127U;
		len = len < DISK_SECTORS - sector ? len : DISK_SECTORS - sector;
		if (type == T_FLUSH)
			sector = len = 0;
		else if (overlaps(w, n, sector, len))
			continue;
		w[n] = (struct wish){ type, type == T_WRITE_ZEROES ? draw(2) : 0, sector, len, n, NULL };
		if (type == T_OUT) {
			w[n].data = malloc(len * (size_t)SECTOR);
			memset(w[n].data, draw(6) ? (int)(1 + draw(255)) : 0, len * (size_t)SECTOR);
		}
		n++;
	}
	return n;
}

static void work(unsigned batches)
{
	struct wish w[BATCH_MAX];

	for (unsigned b = 0; b < batches; b++) {
		unsigned n = draw_wishes(w);
		if (n == 0)
			continue;
		do_wishes(w, n, draw(10) == 0);
		for (unsigned i = 0; i < n; i++)
			if (w[i].type == T_IN)
				apply(&w[i]);
		for (unsigned i = 0; i < n; i++) {
			if (w[i].type != T_IN)
				apply(&w[i]);
			free(w[i].data);
		}
	}
}

/* ---- images ---- */

static void fill_model(void)
{
	memset(model, 0, DISK_BYTES);
	for (uint32_t at = 0; at < DISK_SECTORS;) {
		uint32_t n = 1 + draw(400), rest = DISK_SECTORS - at;
		n = n < rest ? n : rest;
		if (draw(2))
			memset(model + at * (size_t)SECTOR, (int)(1 + draw(255)), n * (size_t)SECTOR);
		at += n;
	}
}

static void write_model(const char *path)
{
	autoclose int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(io_write(fd, model, DISK_BYTES, 0), DISK_BYTES);
}

/* The image is sound, with no leak, and its bytes are the model's. */
static void check_image(void)
{
	char raw[80];
	autofree uint8_t *got = malloc(DISK_BYTES);

	sh("qemu-img check -q -f qcow2 %s", image);
	snprintf(raw, sizeof(raw), "%s/raw", dir);
	sh("qemu-img convert -q -f qcow2 -O raw %s %s", image, raw);
	autoclose int fd = open(raw, O_RDONLY | O_CLOEXEC);
	assert_int_equal(io_read(fd, got, DISK_BYTES, 0), DISK_BYTES);
	for (uint32_t i = 0; i < DISK_SECTORS; i++)
		if (memcmp(got + i * (size_t)SECTOR, model + i * (size_t)SECTOR, SECTOR) != 0)
			fail_msg("sector %u of the image is not what the guest wrote (seed %llu)", i,
				 (unsigned long long)seed);
}

static void own_image(const char *path, const char *backing, const char *format)
{
	struct err err = {};
	autoclose int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

	assert_int_equal(qcow2_create(fd, DISK_BYTES, backing, format, &err), 0);
}

/* How an image comes to be. The model has its bytes. `%1$s` is the image, `%2$s` the file behind, which has the model's bytes as raw. */
static const struct {
	const char *name, *make;
} kinds[] = {
	{ "ours, empty", NULL },
	{ "ours over raw", "" },
	{ "compressed", "qemu-img convert -q -c -f raw -O qcow2 %2$s %1$s" },
	{ "compressed by zstd", "qemu-img convert -q -c -o compression_type=zstd -f raw -O qcow2 %2$s %1$s" },
	{ "compressed, version 2", "qemu-img convert -q -c -o compat=0.10 -f raw -O qcow2 %2$s %1$s" },
	{ "small clusters", "qemu-img convert -q -o cluster_size=512 -f raw -O qcow2 %2$s %1$s" },
	{ "large clusters", "qemu-img convert -q -o cluster_size=2M -f raw -O qcow2 %2$s %1$s" },
	{ "large compressed clusters", "qemu-img convert -q -c -o cluster_size=2M -f raw -O qcow2 %2$s %1$s" },
	{ "refcounts of a bit", "qemu-img convert -q -o refcount_bits=1 -f raw -O qcow2 %2$s %1$s" },
	{ "refcounts of 64 bits", "qemu-img convert -q -o refcount_bits=64 -f raw -O qcow2 %2$s %1$s" },
	{ "small clusters over raw", "qemu-img create -q -f qcow2 -o cluster_size=512 -F raw -b %2$s %1$s" },
	{ "large clusters over raw", "qemu-img create -q -f qcow2 -o cluster_size=2M -F raw -b %2$s %1$s" },
	{ "version 2 over raw", "qemu-img create -q -f qcow2 -o compat=0.10 -F raw -b %2$s %1$s" },
	{ "over compressed over raw",
	  "qemu-img convert -q -c -o cluster_size=4k -f raw -O qcow2 %2$s %2$s.q && qemu-img create -q -f qcow2 -F qcow2 -b %2$s.q %2$s.p && "
	  "qemu-img create -q -f qcow2 -F qcow2 -b %2$s.p %1$s" },
	{ "over a shorter file",
	  "truncate -s 1000001 %2$s && qemu-img create -q -f qcow2 -F raw -b %2$s %1$s 6311936" },
	{ "over a longer file",
	  "head -c 1M /dev/urandom >>%2$s && qemu-img create -q -f qcow2 -F raw -b %2$s %1$s 6311936" },
	{ "preallocated", "qemu-img create -q -f qcow2 -o preallocation=metadata %1$s 6311936 && : %2$s" },
};

static void make_image(size_t kind)
{
	memset(model, 0, DISK_BYTES);
	if (kinds[kind].make && !strstr(kinds[kind].make, ": %2$s"))
		fill_model();
	write_model(behind);
	if (kinds[kind].make && strstr(kinds[kind].make, "truncate"))
		memset(model + SHORTER, 0, DISK_BYTES - SHORTER);
	if (!kinds[kind].make)
		own_image(image, NULL, NULL);
	else if (!*kinds[kind].make)
		own_image(image, behind, "raw");
	else {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		sh(kinds[kind].make, image, behind);
#pragma GCC diagnostic pop
	}
}

static void as_the_model(const char *more)
{
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
		if (strstr(more, "direct") && strstr(kinds[k].name, "small clusters"))
			continue; /* refused */
		print_message("%s%s\n", kinds[k].name, more);
		make_image(k);
		for (unsigned times = 0; times < 2; times++) {
			attach_image(image, "qcow2", more);
			work(BATCHES);
			detach_disk();
			check_image();
		}
	}
}

static void by_system_calls(void **state)
{
	(void)state;
	as_the_model(",backing_files=on" PLAIN);
}

static void past_the_page_cache(void **state)
{
	(void)state;
	as_the_model(",backing_files=on,direct=on");
}

static void by_a_ring(void **state)
{
	(void)state;
	as_the_model(",backing_files=on");
}

/* ---- what is refused, and what is an I/O error ---- */

static void patch(const char *path, uint64_t at, uint64_t value, unsigned bytes)
{
	autoclose int fd = open(path, O_RDWR | O_CLOEXEC);
	uint64_t big = htobe64(value);

	assert_true(fd >= 0);
	assert_int_equal(io_write(fd, (char *)&big + 8 - bytes, bytes, at), bytes);
}

static void refused(const char *more, const char *message)
{
	struct err err = {};

	assert_true(make_disk(image, "qcow2", more, &err) < 0);
	close_machine();
	if (!strstr(err.msg, message))
		fail_msg("'%s' is not '%s'", err.msg, message);
}

static void bad_headers(void **state)
{
	static const struct {
		uint64_t at, value;
		unsigned bytes;
		const char *message;
	} cases[] = {
		{ 0, 0x51464900, 4, "has no header of qcow2" },
		{ 4, 1, 4, "its version, which must be 2 or 3, is 1" },
		{ 4, 4, 4, "its version, which must be 2 or 3, is 4" },
		{ 8, 1 << 30, 8, "the length of its backing file's name" },
		{ 16, 1024, 4, "the length of its backing file's name is 1024" },
		{ 16, 1000, 4, "has a zero byte in its backing file's name" },
		{ 20, 8, 4, "its cluster_bits, which must be from 9 to 21, is 8" },
		{ 20, 22, 4, "its cluster_bits, which must be from 9 to 21, is 22" },
		{ 20, UINT32_MAX, 4, "its cluster_bits" },
		{ 24, 1ULL << 63, 8, "its size, which is too large, is 9223372036854775808" },
		{ 24, UINT64_MAX, 8, "its size, which is too large" },
		{ 24, 1ULL << 40, 8, "the length of its L1 table, which does not fit its size, is 1" },
		{ 32, 1, 4, "is encrypted" },
		{ 32, 2, 4, "is encrypted" },
		{ 36, 0, 4, "the length of its L1 table" },
		{ 36, UINT32_MAX, 4, "the length of its L1 table" },
		{ 40, 0, 8, "the offset of its L1 table" },
		{ 40, 1 << 16 | 512, 8, "the offset of its L1 table" },
		{ 40, 1ULL << 40, 8, "the offset of its L1 table" },
		{ 40, UINT64_MAX << 16, 8, "the offset of its L1 table" },
		{ 48, 0, 8, "the offset of its refcount table" },
		{ 48, UINT64_MAX << 16, 8, "the offset of its refcount table" },
		{ 56, 0, 4, "the length of its refcount table" },
		{ 56, UINT32_MAX, 4, "the length of its refcount table" },
		{ 60, 1, 4, "its number of internal snapshots" },
		{ 72, 1, 8, "was not closed" },
		{ 72, 2, 8, "is marked as corrupt" },
		{ 72, 4, 8, "has an external data file" },
		{ 72, 16, 8, "has extended L2 entries" },
		{ 72, 1ULL << 40, 8, "its set of incompatible features" },
		{ 96, 7, 4, "its refcount_order is 7" },
		{ 100, 100, 4, "the length of its header is 100" },
		{ 100, 108, 4, "the length of its header is 108" },
		{ 100, 0x7ffffff8, 4, "the length of its header" },
		{ 104, 0x02000000, 4, "its way of compression, which is unknown, is 2" },
		{ 116, UINT32_MAX, 4, "the length of a header extension" },
		{ 116, 16, 4, "names an unknown format of its backing file" },
		{ 120, 0x72617721, 4, "has the format 'raw!'" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		write_model(behind);
		own_image(image, behind, cases[i].at == 120 ? "rawX" : "raw");
		if (cases[i].at == 104)
			patch(image, 72, 8, 8);
		patch(image, cases[i].at, cases[i].value, cases[i].bytes);
		refused(",backing_files=on", cases[i].message);
	}
}

static void bad_chains(void **state)
{
	char cmd[256];

	(void)state;
	write_model(behind);
	own_image(image, behind, "raw");
	refused("", "and the disk has no backing_files=on");
	own_image(image, image, "qcow2");
	refused(",backing_files=on", "comes twice in its chain");
	own_image(behind, image, "qcow2");
	own_image(image, "behind", "qcow2"); /* beside the image */
	refused(",backing_files=on", "comes twice in its chain");
	own_image(image, "/dev/null", "raw");
	refused(",backing_files=on", "'/dev/null' is no regular file");
	own_image(image, dir, "raw");
	refused(",backing_files=on", "is no regular file");
	own_image(image, "none", "raw");
	refused(",backing_files=on", "No such file or directory");
	own_image(image, behind, "vmdk");
	refused(",backing_files=on", "has the format 'vmdk', not raw or qcow2");
	own_image(image, behind, "");
	refused(",backing_files=on", "does not say the format of its backing file");
	write_model(behind);
	own_image(image, behind, "qcow2");
	refused(",backing_files=on", "has no header of qcow2");
	for (unsigned i = 0; i < 20; i++) {
		char name[80];
		snprintf(name, sizeof(name), "%s/chain%u", dir, i);
		snprintf(cmd, sizeof(cmd), "chain%u", i + 1);
		own_image(name, cmd, "qcow2");
	}
	own_image(image, "chain0", "qcow2");
	refused(",backing_files=on", "has more than 16 files in its chain");
}

/* The first entries of the tables of an image of ours whose first cluster was written. */
enum { L1_AT = 3 << 16, REFS_AT = 1 << 16, L2_AT = 4 << 16 };

static void bad_tables(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		own_image(image, NULL, NULL);
		patch(image, i ? REFS_AT : L1_AT, 1ULL << 40, 8);
		refused("", i ? "entry 0 of its refcount table, 0x10000000000, is not within the file"
			      : "entry 0 of its L1 table, 0x10000000000, is not within the file");
	}
}

static uint8_t answer(uint32_t type, uint32_t sector)
{
	static uint8_t data[SECTOR];
	const struct wish w = { .type = type, .sector = sector, .n = 1, .data = data };
	uint16_t idx = used_idx();

	put_wish(&w, 0);
	put(AVAIL + 4 + 2 * (idx % 128), &(uint16_t){ 0 }, 2);
	serve_until((uint16_t)(idx + 1), false);
	return *(uint8_t *)ram(slot_at(&w) + 32, 1);
}

/* An entry that lies fails the requests that need it, and no others. */
static void bad_entries(void **state)
{
	static const uint64_t entries[] = {
		1ULL << 63 | 1ULL << 40,       /* behind the file's end */
		1ULL << 63 | 0xffffffffff0000, /* so, by far */
		1ULL << 63 | 512,              /* not at a cluster */
		1ULL << 63 | L1_AT,            /* over a table */
		1ULL << 63 | REFS_AT,
		1ULL << 62 | 1ULL << 40,           /* compressed, behind the end */
		1ULL << 62 | 0x3fULL << 54 | 0x10, /* compressed, and no such data */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
		own_image(image, NULL, NULL);
		attach_image(image, "qcow2", "");
		assert_int_equal(answer(T_OUT, 0), S_OK);
		assert_int_equal(answer(T_OUT, 300), S_OK);
		detach_disk();
		autoclose int fd = open(image, O_RDWR | O_CLOEXEC);
		uint64_t table;
		assert_int_equal(io_read(fd, &table, 8, L1_AT), 8);
		patch(image, be64toh(table) & 0xffffffffff0000, entries[i], 8);
		attach_image(image, "qcow2", "");
		assert_int_equal(answer(T_IN, 1), S_IOERR);
		assert_int_equal(answer(T_OUT, 1), S_IOERR);
		assert_int_equal(answer(T_OUT, 300), S_OK);
		assert_int_equal(answer(T_IN, 300), S_OK);
		assert_int_equal(answer(T_FLUSH, 0), S_OK);
		detach_disk();
	}
}

/* Three clusters in one piece, of which the second is the L1 table. */
static void run_over_a_table(void **state)
{
	const struct wish w = { .type = T_IN, .n = DATA_MAX_SECTORS };

	(void)state;
	own_image(image, NULL, NULL);
	attach_image(image, "qcow2", "");
	assert_int_equal(answer(T_OUT, 0), S_OK);
	detach_disk();
	autoclose int fd = open(image, O_RDWR | O_CLOEXEC);
	uint64_t table;
	assert_int_equal(io_read(fd, &table, 8, L1_AT), 8);
	for (uint64_t i = 0; i < 3; i++)
		patch(image, (be64toh(table) & 0xffffffffff0000) + 8 * i, 1ULL << 63 | (L1_AT + (i << 16) - (1 << 16)),
		      8);
	attach_image(image, "qcow2", "");
	ask_wishes(&w, 1, false);
	assert_int_equal(answer_of(&w), S_IOERR);
	detach_disk();
}

/* ---- bounds ---- */

static uint64_t n_buffers, most_buffers; /* made; at a time: one with each request that is not answered */

int posix_memalign(void **p, size_t align, size_t bytes)
{
	n_buffers++;
	most_buffers = n_buffers - used_idx() > most_buffers ? n_buffers - used_idx() : most_buffers;
	*p = aligned_alloc(align, (bytes + align - 1) / align * align);
	return *p ? 0 : ENOMEM;
}

/* Many requests, each of which fills up 2 MiB. */
static void large_clusters_wait(void **state)
{
	enum { WRITES = 40, CLUSTER = 2 * MIB, BOUND = (64 << 20) / CLUSTER + 1 };

	(void)state;
	sh("truncate -s %d %s && qemu-img create -q -f qcow2 -o cluster_size=2M -F raw -b %s %s", WRITES * CLUSTER,
	   behind, behind, image);
	attach_image(image, "qcow2", ",backing_files=on,direct=on");
	n_buffers = most_buffers = 0;
	for (unsigned i = 0; i < WRITES; i++) {
		const struct {
			uint32_t type, reserved;
			uint64_t sector;
		} head = { T_OUT, 0, (uint64_t)i * CLUSTER / SECTOR + 1 };
		uint64_t at = SLOTS + i * 0x1000ULL;
		uint16_t first = (uint16_t)(3 * i);
		put(at, &head, sizeof(head));
		put(at + 32, &(uint8_t){ S_NONE }, 1);
		memset(ram(at + SECTOR, SECTOR), i + 1, SECTOR);
		put_desc(first, at, sizeof(head), NEXT);
		put_desc(first + 1U, at + SECTOR, SECTOR, NEXT);
		put_desc(first + 2U, at + 32, 1, WRITE);
		put(AVAIL + 4 + 2 * i, &first, 2);
	}
	serve_until(WRITES, false);
	assert_int_equal(n_buffers, WRITES);
	assert_in_range(most_buffers, 2, BOUND);
	for (uint32_t i = 0; i < WRITES; i++)
		assert_int_equal(*(uint8_t *)ram(SLOTS + i * 0x1000ULL + 32, 1), S_OK);
	for (uint32_t i = 0; i < WRITES; i++) {
		assert_int_equal(answer(T_IN, i * CLUSTER / SECTOR + 1), S_OK);
		assert_int_equal(*(uint8_t *)ram(SLOTS + SLOT_DATA, 1), i + 1);
	}
	detach_disk();
	sh("qemu-img check -q -f qcow2 %s", image);
}

/* Reads and writes everywhere in an image that has more parts of L2 tables than are kept. */
static void tables_in_memory(void **state)
{
	enum { PARTS = 6000, PART_BYTES = 64 * 512 };
	struct qcow2_header h;
	struct qcow2 *q;
	struct qcow2_run run;
	struct err err = {};

	(void)state;
	sh("qemu-img create -q -f qcow2 -o cluster_size=512,preallocation=metadata %s %d", image, PARTS * PART_BYTES);
	autoclose int fd = open(image, O_RDWR | O_CLOEXEC);
	assert_int_equal(qcow2_read_header(fd, (uint64_t)lseek(fd, 0, SEEK_END), image, &h, &err), 0);
	assert_int_equal(qcow2_open(fd, image, &h, true, &q, &err), 0);
	for (unsigned times = 0; times < 2; times++)
		for (uint64_t i = 0; i < PARTS; i++) {
			assert_int_equal(qcow2_map(q, i * PART_BYTES, 512, &run), 0);
			assert_int_equal(run.kind, QCOW2_DATA);
			assert_true(q->n_slices <= SLICES_MAX);
		}
	assert_int_equal(q->n_slices, SLICES_MAX);
	for (uint64_t i = 0; i < PARTS; i++) {
		assert_int_equal(qcow2_bind(q, i * PART_BYTES, 512, 0), 0);
		assert_true(q->n_dirty <= SLICES_MAX / 2 && q->n_slices <= SLICES_MAX);
	}
	int r;
	struct qcow2_commit *c = qcow2_commit_begin(q, &r);
	assert_non_null(c);
	r = 0;
	for (uint64_t i = 0; i < PARTS && r == 0;
	     i++) /* while a commit is under way there may be more, up to a limit */
		r = qcow2_bind(q, i * PART_BYTES + 512, 512, 0);
	assert_true(q->n_slices <= SLICES_LIMIT);
	while (qcow2_commit_step(q, c) > 0)
		;
	qcow2_commit_end(q, c, true);
	assert_int_equal(qcow2_commit(q), 0);
	qcow2_free(q);
	sh("qemu-img check -q -f qcow2 %s >%s/check 2>&1; test $? = 0 -o $? = 3", image,
	   dir); /* 3: leaks, of changes during the commit */
}

/* More parts of tables change while a flush is under way than are kept: the request waits for the flush. */
static void tables_change_during_a_flush(void **state)
{
	enum { BYTES = (SLICES_LIMIT + 100) * 64 * 512 };
	static uint8_t data[SECTOR];
	const struct wish first = { .type = T_OUT, .n = 1, .data = data };
	const struct wish both[] = {
		{ .type = T_FLUSH },
		{ .type = T_WRITE_ZEROES, .sector = 64, .n = BYTES / SECTOR - 64, .slot = 1 },
	};

	(void)state;
	sh("truncate -s %d %s && qemu-img create -q -f qcow2 -o cluster_size=512 -F raw -b %s %s", BYTES, behind,
	   behind, image);
	attach_image(image, "qcow2", ",backing_files=on");
	do_wish(first);
	do_wishes(both, ARRAY_LEN(both), false);
	detach_disk();
	sh("qemu-img check -q -f qcow2 %s", image);
}

/* A write of sector k of the first page, from memory at `from`. The device is told, and not waited for. */
static void write_in_page(uint32_t k, uint64_t from, uint8_t byte)
{
	const struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head = { T_OUT, 0, k };
	uint64_t at = SLOTS + k * 0x2000ULL;
	uint16_t first = (uint16_t)(3 * k), avail;

	put(at, &head, sizeof(head));
	put(at + 32, &(uint8_t){ S_NONE }, 1);
	memset(ram(from, SECTOR), byte, SECTOR);
	put_desc(first, at, sizeof(head), NEXT);
	put_desc(first + 1U, from, SECTOR, NEXT);
	put_desc(first + 2U, at + 32, 1, WRITE);
	memcpy(&avail, ram(AVAIL + 2, 2), 2);
	put(AVAIL + 4 + 2 * (avail % 128), &first, 2);
	avail++;
	put(AVAIL + 2, &avail, 2);
	pthread_mutex_lock(&vdev->lock);
	virtio_notify(vdev, 0);
	pthread_mutex_unlock(&vdev->lock);
}

/*
 * One write goes past the page cache; the other, whose memory is not aligned, through it. When both are
 * under way at once the kernel cannot keep the page right, and the next sync fails.
 */
static void writes_in_one_page(void **state)
{
	enum { ROUNDS = 1000 };
	static uint8_t data[SECTOR];
	const struct wish both = { .type = T_IN, .n = 2, .slot = 2 };

	(void)state;
	own_image(image, NULL, NULL);
	attach_image(image, "qcow2", ",direct=on");
	do_wish((struct wish){ .type = T_OUT, .n = 1, .data = data });
	do_wish((struct wish){ .type = T_FLUSH });
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint16_t idx = used_idx();
		write_in_page(0, SLOTS + 0x1000, (uint8_t)i);
		write_in_page(1, SLOTS + 0x3001, (uint8_t)~i);
		wait_used((uint16_t)(idx + 2));
		do_wish(both);
		assert_int_equal(*(uint8_t *)ram(slot_at(&both) + SLOT_DATA, 1), i & 0xff);
		assert_int_equal(*(uint8_t *)ram(slot_at(&both) + SLOT_DATA + SECTOR, 1), ~i & 0xff);
	}
	do_wish((struct wish){ .type = T_FLUSH });
	detach_disk();
}

/* ---- what a writer tells of itself ---- */

static uint64_t autoclear(void)
{
	autoclose int fd = open(image, O_RDONLY | O_CLOEXEC);
	uint64_t bits = 0;

	assert_int_equal(io_read(fd, &bits, sizeof(bits), QCOW2_AUTOCLEAR_AT), sizeof(bits));
	return be64toh(bits);
}

/* Also a write that takes no new cluster makes a bitmap of what changed wrong. */
static void features_are_cleared(void **state)
{
	static const uint32_t types[] = { T_OUT, T_WRITE_ZEROES, T_DISCARD };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		own_image(image, NULL, NULL);
		attach_image(image, "qcow2", "");
		assert_int_equal(answer(T_OUT, 0), S_OK);
		detach_disk();
		patch(image, QCOW2_AUTOCLEAR_AT, 1, 8);
		attach_image(image, "qcow2", "");
		assert_int_equal(answer(T_IN, 0), S_OK);
		assert_int_equal(answer(T_FLUSH, 0), S_OK);
		assert_int_equal(autoclear(), 1);
		do_wish((struct wish){ .type = types[i], .n = 1, .data = (uint8_t[SECTOR]){ 1 } });
		assert_int_equal(autoclear(), 0);
		detach_disk();
	}
}

static bool is_fresh(struct qcow2 *q, uint64_t off)
{
	struct qcow2_run run;

	assert_int_equal(qcow2_map(q, off, 512, &run), 0);
	return run.fresh;
}

static void fresh_until_a_commit_ends(void **state)
{
	struct qcow2_header h;
	struct qcow2 *q;
	struct err err = {};
	int r;

	(void)state;
	own_image(image, NULL, NULL);
	autoclose int fd = open(image, O_RDWR | O_CLOEXEC);
	assert_int_equal(qcow2_read_header(fd, (uint64_t)lseek(fd, 0, SEEK_END), image, &h, &err), 0);
	assert_int_equal(qcow2_open(fd, image, &h, true, &q, &err), 0);
	assert_int_equal(qcow2_bind(q, 0, 1 << 16, 0), 0);
	for (int ok = 0; ok < 2; ok++) {
		assert_true(is_fresh(q, 0));
		struct qcow2_commit *c = qcow2_commit_begin(q, &r);
		assert_non_null(c);
		assert_true(is_fresh(q, 0));
		while (qcow2_commit_step(q, c) > 0)
			;
		assert_true(is_fresh(q, 0));
		qcow2_commit_end(q, c, ok);
		assert_int_equal(is_fresh(q, 0), !ok);
	}
	qcow2_free(q);
}

static int make_dir(void **state)
{
	(void)state;
	draw_seed();
	model = malloc(DISK_BYTES);
	assert_non_null(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/image", dir);
	snprintf(behind, sizeof(behind), "%s/behind", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	sh("rm -r %s", dir);
	free(model);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_in_one_page),
		cmocka_unit_test(by_system_calls),
		cmocka_unit_test(by_a_ring),
		cmocka_unit_test(past_the_page_cache),
		cmocka_unit_test(bad_headers),
		cmocka_unit_test(bad_chains),
		cmocka_unit_test(bad_tables),
		cmocka_unit_test(bad_entries),
		cmocka_unit_test(run_over_a_table),
		cmocka_unit_test(large_clusters_wait),
		cmocka_unit_test(tables_in_memory),
		cmocka_unit_test(features_are_cleared),
		cmocka_unit_test(tables_change_during_a_flush),
		cmocka_unit_test(fresh_until_a_commit_ends),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
