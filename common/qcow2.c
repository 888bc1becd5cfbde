// SPDX-License-Identifier: Apache-2.0
/* Reads, checks and writes the header of a qcow2 image; all numbers in it are big-endian. */
#include "common/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"

enum { V2_BYTES = 72, V3_BYTES = 104, PAD = 8 };
enum {
	INCOMPATIBLE_DIRTY = 1,
	INCOMPATIBLE_CORRUPT = 2,
	INCOMPATIBLE_DATA_FILE = 4,
	INCOMPATIBLE_COMPRESSION = 8,
	INCOMPATIBLE_EXTENDED_L2 = 16
};
enum { KNOWN_INCOMPATIBLE = 31, DEFLATE = 0, ZSTD = 1, REFS_ORDER_V2 = 4, REFS_ORDER_MAX = 6 };
#define EXTENSION_END 0U
#define EXTENSION_BACKING_FORMAT 0xe2792acaU

/* As it lies in the file. */
struct disk_header {
	char magic[QCOW2_MAGIC_BYTES];
	uint32_t version;
	uint64_t backing_at;
	uint32_t backing_bytes, cluster_bits;
	uint64_t bytes;
	uint32_t crypt_method, l1_entries;
	uint64_t l1_at, refs_at;
	uint32_t refs_clusters, n_snapshots;
	uint64_t snapshots_at;
	uint64_t incompatible, compatible, autoclear; /* from version 3 on */
	uint32_t refs_order, header_bytes;
	uint8_t compression, pad[7];
};
_Static_assert(offsetof(struct disk_header, incompatible) == V2_BYTES, "version 2 ends here");
_Static_assert(offsetof(struct disk_header, compression) == V3_BYTES, "version 3 ends here");
_Static_assert(offsetof(struct disk_header, autoclear) == QCOW2_AUTOCLEAR_AT, "qcow2.txt");
_Static_assert(offsetof(struct disk_header, refs_at) == QCOW2_REFS_AT, "qcow2.txt");

static int refuse(const char *path, const char *what, struct err *err)
{
	return err_set(err, ERR_INVALID, "qcow2 image '%s' %s", path, what);
}

static int refuse_number(const char *path, const char *what, uint64_t value, struct err *err)
{
	return err_set(err, ERR_INVALID, "qcow2 image '%s': %s is %llu", path, what, (unsigned long long)value);
}

/* Version 2 has no features: they are what version 3 says of none. */
static int read_version(const struct disk_header *d, const char *path, struct qcow2_header *h, struct err *err)
{
	uint64_t bits = be64toh(d->incompatible);
	uint32_t bytes = be32toh(d->header_bytes);

	h->version = be32toh(d->version);
	h->refs_order = REFS_ORDER_V2;
	if (h->version == 2)
		return 0;
	if (h->version != 3)
		return refuse_number(path, "its version, which must be 2 or 3,", h->version, err);
	if (bits & INCOMPATIBLE_DIRTY)
		return refuse(path, "was not closed (qemu-img check -r all mends its refcounts)", err);
	if (bits & INCOMPATIBLE_CORRUPT)
		return refuse(path, "is marked as corrupt (qemu-img check says why)", err);
	if (bits & INCOMPATIBLE_DATA_FILE)
		return refuse(path, "has an external data file, which is not supported", err);
	if (bits & INCOMPATIBLE_EXTENDED_L2)
		return refuse(path, "has extended L2 entries, which are not supported", err);
	if (bits & ~(uint64_t)KNOWN_INCOMPATIBLE)
		return refuse_number(path, "its set of incompatible features, of which some are unknown,", bits, err);
	if (bytes < V3_BYTES || bytes % PAD)
		return refuse_number(path, "the length of its header", bytes, err);
	if ((bits & INCOMPATIBLE_COMPRESSION) &&
	    (bytes == V3_BYTES || (d->compression != DEFLATE && d->compression != ZSTD)))
		return refuse_number(path, "its way of compression, which is unknown,", d->compression, err);
	h->zstd = (bits & INCOMPATIBLE_COMPRESSION) && d->compression == ZSTD;
	h->autoclear = be64toh(d->autoclear);
	h->refs_order = be32toh(d->refs_order);
	return h->refs_order <= REFS_ORDER_MAX ? 0 : refuse_number(path, "its refcount_order", h->refs_order, err);
}

static bool lies_within(const struct qcow2_header *h, uint64_t at, uint64_t bytes, uint64_t file_bytes)
{
	return at % qcow2_cluster_bytes(h) == 0 && at != 0 && at <= file_bytes && bytes <= file_bytes - at;
}

/* Entries of the L1 table that the image's size takes. */
static uint64_t l1_needed(const struct qcow2_header *h)
{
	return h->bytes / qcow2_l2_covers(h) + (h->bytes % qcow2_l2_covers(h) != 0);
}

static int read_tables(const struct disk_header *d, uint64_t file_bytes, const char *path, struct qcow2_header *h,
		       struct err *err)
{
	h->bytes = be64toh(d->bytes);
	h->l1_at = be64toh(d->l1_at);
	h->l1_entries = be32toh(d->l1_entries);
	h->refs_at = be64toh(d->refs_at);
	h->refs_clusters = be32toh(d->refs_clusters);
	if (h->bytes > INT64_MAX || l1_needed(h) > QCOW2_L1_MAX_BYTES / sizeof(uint64_t))
		return refuse_number(path, "its size, which is too large,", h->bytes, err);
	if (h->l1_entries > QCOW2_L1_MAX_BYTES / sizeof(uint64_t) || h->l1_entries < l1_needed(h))
		return refuse_number(path, "the length of its L1 table, which does not fit its size,", h->l1_entries,
				     err);
	if (h->l1_entries && !lies_within(h, h->l1_at, h->l1_entries * sizeof(uint64_t), file_bytes))
		return refuse_number(path, "the offset of its L1 table, which is not within the file,", h->l1_at, err);
	if (h->refs_clusters == 0 || h->refs_clusters > (uint64_t)QCOW2_REFS_MAX_BYTES >> h->cluster_bits)
		return refuse_number(path, "the length of its refcount table in clusters", h->refs_clusters, err);
	if (!lies_within(h, h->refs_at, h->refs_clusters << h->cluster_bits, file_bytes))
		return refuse_number(path, "the offset of its refcount table, which is not within the file,",
				     h->refs_at, err);
	return 0;
}

/* Reads the extensions of the header that lie in [at, end) of its first cluster. */
static int read_extensions(const uint8_t *cluster, size_t at, size_t end, const char *path, struct qcow2_header *h,
			   struct err *err)
{
	uint32_t word[2];

	while (end - at >= sizeof(word)) {
		memcpy(word, cluster + at, sizeof(word));
		uint32_t type = be32toh(word[0]), len = be32toh(word[1]);
		at += sizeof(word);
		if (type == EXTENSION_END)
			return 0;
		if (len > end - at)
			return refuse_number(path, "the length of a header extension", len, err);
		if (type == EXTENSION_BACKING_FORMAT) {
			if (len > QCOW2_FORMAT_MAX || memchr(cluster + at, 0, len))
				return refuse(path, "names an unknown format of its backing file", err);
			memcpy(h->backing_format, cluster + at, len);
		}
		size_t padded = (len + PAD - 1) / PAD * PAD;
		at += padded < end - at ? padded : end - at;
	}
	return 0;
}

static int read_backing(const struct disk_header *d, const uint8_t *cluster, size_t have, const char *path,
			struct qcow2_header *h, struct err *err)
{
	uint64_t at = be64toh(d->backing_at);
	uint32_t bytes = be32toh(d->backing_bytes);
	size_t begin = h->version == 2 ? V2_BYTES : be32toh(d->header_bytes), end = at && at < have ? at : have;

	if (at && (bytes > QCOW2_NAME_MAX || at > have || bytes > have - at))
		return refuse_number(path, "the length of its backing file's name", bytes, err);
	if (begin > end)
		return refuse_number(path, "the length of its header", begin, err);
	if (at)
		memcpy(h->backing, cluster + at, bytes);
	if (strlen(h->backing) != (at ? bytes : 0))
		return refuse(path, "has a zero byte in its backing file's name", err);
	return read_extensions(cluster, begin, end, path, h, err);
}

int qcow2_parse_header(const uint8_t *head, size_t len, uint64_t file_bytes, const char *path, struct qcow2_header *ret,
		       struct err *err)
{
	struct disk_header d = {};
	struct qcow2_header h = {};

	memcpy(&d, head, len < sizeof(d) ? len : sizeof(d));
	if (len < V2_BYTES || memcmp(d.magic, QCOW2_MAGIC, QCOW2_MAGIC_BYTES) != 0)
		return refuse(path, "has no header of qcow2", err);
	h.cluster_bits = be32toh(d.cluster_bits);
	if (h.cluster_bits < QCOW2_BITS_MIN || h.cluster_bits > QCOW2_BITS_MAX)
		return refuse_number(path, "its cluster_bits, which must be from 9 to 21,", h.cluster_bits, err);
	if (d.crypt_method)
		return refuse(path, "is encrypted, which is not supported", err);
	if (d.n_snapshots)
		return refuse_number(path, "its number of internal snapshots, which are not supported,",
				     be32toh(d.n_snapshots), err);
	if (read_version(&d, path, &h, err) < 0 || read_tables(&d, file_bytes, path, &h, err) < 0)
		return err->num;
	uint64_t cluster = qcow2_cluster_bytes(&h);
	if (read_backing(&d, head, len < cluster ? len : cluster, path, &h, err) < 0)
		return err->num;
	*ret = h;
	return 0;
}

int qcow2_read_header(int fd, uint64_t file_bytes, const char *path, struct qcow2_header *ret, struct err *err)
{
	struct disk_header d = {};
	ssize_t n = io_read(fd, &d, sizeof(d), 0);
	uint32_t bits = be32toh(d.cluster_bits);
	size_t len = bits >= QCOW2_BITS_MIN && bits <= QCOW2_BITS_MAX ? 1UL << bits : sizeof(d);
	autofree uint8_t *head = malloc(len);

	if (n >= 0)
		n = head ? io_read(fd, head, len, 0) : -ENOMEM;
	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read the header of '%s'", path);
	return qcow2_parse_header(head, (size_t)n, file_bytes, path, ret, err);
}

char *qcow2_backing_path(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	char *path = NULL;

	if (name[0] == '/' || !slash)
		return strdup(name);
	return asprintf(&path, "%.*s/%s", (int)(slash - image), image, name) < 0 ? NULL : path;
}

/* ---- a new image ---- */

/* Clusters of a new image, in their order: the header, the refcount table, its first block, the L1 table. */
enum { REFS_CLUSTER = 1, BLOCK_CLUSTER = 2, L1_CLUSTER = 3 };
enum { HEAD_BYTES = sizeof(struct disk_header) + QCOW2_NAME_MAX + QCOW2_FORMAT_MAX + 32 };

/* Writes the header's extension and the backing file's name behind the header. Returns its length. */
static size_t put_backing(uint8_t *head, const char *backing, const char *format)
{
	size_t at = sizeof(struct disk_header), len = strlen(format), name = strlen(backing);
	uint32_t word[2] = { htobe32(EXTENSION_BACKING_FORMAT), htobe32((uint32_t)len) };
	struct disk_header *d = (struct disk_header *)(void *)head;

	memcpy(head + at, word, sizeof(word));
	snprintf((char *)head + at + sizeof(word), QCOW2_FORMAT_MAX + 1, "%s", format);
	at += sizeof(word) + (len + PAD - 1) / PAD * PAD + sizeof(word); /* an empty extension ends them */
	snprintf((char *)head + at, QCOW2_NAME_MAX + 1, "%s", backing);
	d->backing_at = htobe64(at);
	d->backing_bytes = htobe32((uint32_t)name);
	return at + name;
}

static int put(int fd, const void *buf, size_t len, uint64_t at, struct err *err)
{
	ssize_t n = io_write(fd, buf, len, at);

	return n == (ssize_t)len ? 0 : err_num(err, ERR_INTERNAL, n < 0 ? (int)-n : ENOSPC, "write a qcow2 image");
}

int qcow2_create(int fd, uint64_t bytes, const char *backing, const char *backing_format, struct err *err)
{
	_Alignas(struct disk_header) uint8_t head[HEAD_BYTES] = {};
	struct qcow2_header h = { .cluster_bits = QCOW2_BITS_OWN, .bytes = bytes };
	struct disk_header *d = (struct disk_header *)(void *)head;
	uint64_t cluster = qcow2_cluster_bytes(&h), l1 = l1_needed(&h);
	uint64_t clusters = L1_CLUSTER + (l1 * sizeof(uint64_t) + cluster - 1) / cluster;
	uint64_t first_block = htobe64(BLOCK_CLUSTER * cluster);
	uint16_t refs[L1_CLUSTER + QCOW2_L1_MAX_BYTES / (1 << QCOW2_BITS_OWN)];

	if (bytes == 0 || bytes % 512 || bytes > INT64_MAX || l1 > QCOW2_L1_MAX_BYTES / sizeof(uint64_t))
		return err_set(err, ERR_INVALID, "a qcow2 image of %llu bytes cannot be made",
			       (unsigned long long)bytes);
	if (backing && (strlen(backing) > QCOW2_NAME_MAX || strlen(backing_format) > QCOW2_FORMAT_MAX))
		return err_set(err, ERR_INVALID, "the name of the backing file '%s' is too long for qcow2", backing);
	*d = (struct disk_header){
		.version = htobe32(3),
		.cluster_bits = htobe32(QCOW2_BITS_OWN),
		.bytes = htobe64(bytes),
		.l1_entries = htobe32((uint32_t)l1),
		.l1_at = htobe64(L1_CLUSTER * cluster),
		.refs_at = htobe64(REFS_CLUSTER * cluster),
		.refs_clusters = htobe32(1),
		.refs_order = htobe32(REFS_ORDER_V2),
		.header_bytes = htobe32(sizeof(*d)),
	};
	memcpy(d->magic, QCOW2_MAGIC, QCOW2_MAGIC_BYTES);
	size_t len = backing ? put_backing(head, backing, backing_format) : sizeof(*d) + PAD;
	for (uint64_t i = 0; i < clusters; i++)
		refs[i] = htobe16(1);
	if (ftruncate(fd, (off_t)(clusters * cluster)) < 0)
		return err_sys(err, ERR_INTERNAL, "make a qcow2 image of %llu bytes", (unsigned long long)bytes);
	if (put(fd, refs, clusters * sizeof(*refs), BLOCK_CLUSTER * cluster, err) < 0 ||
	    put(fd, &first_block, sizeof(first_block), REFS_CLUSTER * cluster, err) < 0)
		return err->num;
	return put(fd, head, len, 0, err);
}

int qcow2_rename_backing(int fd, const char *backing, const char *backing_format, struct err *err)
{
	_Alignas(struct disk_header) uint8_t head[HEAD_BYTES] = {};
	struct disk_header *d = (struct disk_header *)(void *)head;
	ssize_t n = io_read(fd, head, sizeof(*d), 0);

	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read the header of a qcow2 image");
	if (n < (ssize_t)sizeof(*d) || memcmp(d->magic, QCOW2_MAGIC, QCOW2_MAGIC_BYTES) != 0 ||
	    be32toh(d->header_bytes) != sizeof(*d) || be32toh(d->cluster_bits) != QCOW2_BITS_OWN || !d->backing_at ||
	    strlen(backing) > QCOW2_NAME_MAX || strlen(backing_format) > QCOW2_FORMAT_MAX)
		return err_set(err, ERR_INVALID, "it is no overlay of forkd's");
	return put(fd, head, put_backing(head, backing, backing_format), 0, err);
}
