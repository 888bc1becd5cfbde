// SPDX-License-Identifier: Apache-2.0
/*
 * A qcow2 file of anybody's, as a disk reads and writes it. The input's first four bytes draw what is asked of the image, the rest is the
 * file. What the image says of its guest's bytes lies within the file, and new clusters lie behind all that was there.
 */
#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/log.h"
#include "vmm/virtio/qcow2.h"

enum { ASKS = 48 };

static uint32_t seed;

static uint32_t draw(void)
{
	seed = seed * 1664525 + 1013904223;
	return seed >> 8;
}

static uint64_t file_bytes(int fd)
{
	struct stat st;

	must(fstat(fd, &st) == 0, "fstat");
	return (uint64_t)st.st_size;
}

static void ask(struct qcow2 *q, int fd)
{
	uint64_t bytes = qcow2_bytes(q), off = ((uint64_t)draw() << 24 ^ draw()) % bytes, len = 1 + draw() % (1 << 20);
	uint64_t cluster = qcow2_cluster(q);
	struct qcow2_run run;
	const uint8_t *data;
	static volatile uint8_t seen;

	len = len < bytes - off ? len : bytes - off;
	if (qcow2_map(q, off, len, &run) < 0)
		return;
	must(run.len > 0 && run.len <= len, "a run of no length, or of too much");
	if (run.kind == QCOW2_DATA)
		must(run.at < (file_bytes(fd) + cluster - 1) / cluster * cluster, "data behind the end of the file");
	if (run.kind == QCOW2_COMPRESSED && qcow2_read_compressed(q, run.at, &data) == 0)
		seen = data[off % cluster] ^ data[cluster - 1];
	(void)seen;
}

static void change(struct qcow2 *q, int fd)
{
	uint64_t cluster = qcow2_cluster(q), clusters = qcow2_bytes(q) / cluster, at, before = file_bytes(fd);

	if (clusters == 0 || qcow2_touch(q) < 0)
		return;
	uint64_t first = ((uint64_t)draw() << 24 ^ draw()) % clusters, n = 1 + draw() % 4;
	n = n < clusters - first ? n : clusters - first;
	uint64_t len = n * cluster;
	switch (draw() % 4) {
	case 0:
		(void)!qcow2_commit(q);
		break;
	case 1:
		if (qcow2_has_zeroes(q))
			(void)!qcow2_bind(q, first * cluster, len, 0);
		break;
	default:
		if (qcow2_reserve(q, &len, &at) < 0)
			return;
		must(len > 0 && at + len <= file_bytes(fd), "clusters behind the end of the file");
		must(at % cluster == 0, "a cluster at no cluster");
		if (draw() % 8 == 0)
			qcow2_unreserve(q, at, len);
		else if (qcow2_bind(q, first * cluster, len, at) == 0) {
			struct qcow2_run run;
			if (qcow2_map(q, first * cluster, len, &run) == 0)
				must(run.kind == QCOW2_DATA && run.at == at, "bound, and not there");
		}
	}
	must(file_bytes(fd) >= before, "the file became shorter");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_init("fuzz", LOG_ERROR, open("/dev/null", O_WRONLY | O_CLOEXEC));
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int before = next_fd();
	struct qcow2_header h;
	struct qcow2 *q = NULL;
	struct err err = {};

	if (size < sizeof(seed))
		return 0;
	memcpy(&seed, data, sizeof(seed));
	int fd = memfd_create("image", MFD_CLOEXEC);
	must(fd >= 0 && io_write(fd, data + sizeof(seed), size - sizeof(seed), 0) == (ssize_t)(size - sizeof(seed)),
	     "memfd");
	bool writable = seed & 1;
	if (qcow2_read_header(fd, size - sizeof(seed), "image", &h, &err) == 0 && h.bytes > 0 &&
	    qcow2_open(fd, "image", &h, writable, &q, &err) == 0) {
		for (unsigned i = 0; i < ASKS; i++) {
			ask(q, fd);
			if (writable)
				change(q, fd);
		}
		if (writable)
			(void)!qcow2_commit(q);
		qcow2_free(q);
	}
	close(fd);
	must(next_fd() == before, "a descriptor was left open");
	return 0;
}
