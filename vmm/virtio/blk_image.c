// SPDX-License-Identifier: Apache-2.0
/* virtio-blk: the image with its lock and its size, and the configuration space, which is saved. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "common/fs.h"
#include "common/log.h"
#include "vmm/core/host_open.h"
#include "vmm/virtio/blk.h"

#define QCOW2_MAGIC "QFI\xfb"
enum { ALIGN_MAX = 64 << 10 };

struct blk_state {
	char *disk_path;
	uint64_t disk_nsectors, avail_features, acked_features;
	struct blk_space config;
};

static const struct field geometry_fields[] = {
	F(struct geometry, cylinders),
	F(struct geometry, heads),
	F(struct geometry, sectors),
	F_END,
};

static const struct field space_fields[] = {
	F(struct blk_space, capacity, .flags = F_REQUIRED, .max = INT64_MAX >> SECTOR_SHIFT),
	F(struct blk_space, size_max, .flags = F_REQUIRED),
	F(struct blk_space, seg_max, .flags = F_REQUIRED),
	F_OBJ(struct blk_space, geometry, geometry_fields, .flags = F_REQUIRED),
	F(struct blk_space, blk_size, .flags = F_REQUIRED),
	F(struct blk_space, physical_block_exp, .flags = F_REQUIRED),
	F(struct blk_space, alignment_offset, .flags = F_REQUIRED),
	F(struct blk_space, min_io_size, .flags = F_REQUIRED),
	F(struct blk_space, opt_io_size, .flags = F_REQUIRED),
	F(struct blk_space, writeback, .flags = F_REQUIRED),
	F(struct blk_space, unused, .flags = F_REQUIRED),
	F(struct blk_space, num_queues, .flags = F_REQUIRED),
	F(struct blk_space, max_discard_sectors, .flags = F_REQUIRED),
	F(struct blk_space, max_discard_seg, .flags = F_REQUIRED),
	F(struct blk_space, discard_sector_alignment, .flags = F_REQUIRED),
	F(struct blk_space, max_write_zeroes_sectors, .flags = F_REQUIRED),
	F(struct blk_space, max_write_zeroes_seg, .flags = F_REQUIRED),
	F(struct blk_space, write_zeroes_may_unmap, .flags = F_REQUIRED),
	F_ARRAY(struct blk_space, unused1, .flags = F_REQUIRED),
	F_END,
};

static const struct field blk_state_fields[] = {
	F(struct blk_state, disk_path, .flags = F_REQUIRED),
	F(struct blk_state, disk_nsectors, .flags = F_REQUIRED),
	F(struct blk_state, avail_features, .flags = F_REQUIRED),
	F(struct blk_state, acked_features, .flags = F_REQUIRED),
	F_OBJ(struct blk_state, config, space_fields, .flags = F_REQUIRED),
	F_END,
};

void blk_save(struct virtio_dev *vdev, struct strbuf *out)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct blk_state s = {
		.disk_path = blk->path,
		.disk_nsectors = blk->space.capacity,
		.avail_features = vdev->avail_features,
		.acked_features = vdev->acked_features,
		.config = blk->space,
	};

	fields_save(blk_state_fields, &s, out);
}

int blk_load(struct virtio_dev *vdev, const struct json_node *state, struct err *err)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);
	struct blk_state s = {};

	if (fields_load(blk_state_fields, &s, state, vdev->id, err) < 0)
		return err_wrap(err, "state.json");
	free(s.disk_path);
	if (s.config.capacity > blk->space.capacity)
		return err_set(err, ERR_INVALID, "disk image '%s' has %llu sectors, the guest was told %llu", blk->path,
			       (unsigned long long)blk->space.capacity, (unsigned long long)s.config.capacity);
	if (blk->readonly && !(s.avail_features >> F_RO & 1))
		return err_set(err, ERR_INVALID, "disk '%s' is read-only now, the guest was told that it is not",
			       vdev->id);
	blk->space = s.config;
	return virtio_load_features(vdev, s.avail_features, s.acked_features, err);
}

static int lock_image(const struct blk *blk, uint64_t bytes, struct err *err)
{
	char fs[FS_NAME];
	struct flock lock = {
		.l_type = blk->readonly ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
		.l_len = blk->lock_granularity == LOCK_FULL ? 0 : (off_t)bytes,
	};

	if (fcntl(blk->lock_fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno != EAGAIN && errno != EACCES)
		return err_sys(err, ERR_INTERNAL, "disk image '%s' cannot be locked on %s", blk->path,
			       fs_name(blk->lock_fd, fs));
	err_set(err, ERR_INTERNAL, "The file is already locked");
	err_wrap(err, "Failed to get %s lock for disk image: %s", blk->readonly ? "Read" : "Write", blk->path);
	err_wrap(err, "Cannot lock images of all block devices");
	bool hot = blk->env->hot;
	return err_wrap(err, hot ? "Error from device manager"
				 : "Error locking disk images: Another instance likely holds a lock");
}

static int image_bytes(const struct blk *blk, const struct stat *st, bool raw, uint64_t *ret_bytes, struct err *err)
{
	uint64_t bytes = (uint64_t)st->st_size;

	if (S_ISBLK(st->st_mode) && ioctl(blk->fd, BLKGETSIZE64, &bytes) < 0)
		return err_sys(err, ERR_INTERNAL, "size of block device '%s'", blk->path);
	if (!S_ISBLK(st->st_mode) && !S_ISREG(st->st_mode))
		return err_set(err, ERR_INVALID, "disk image '%s' is neither a file nor a block device", blk->path);
	if (bytes == 0)
		return err_set(err, ERR_INVALID, "disk image '%s' is empty", blk->path);
	if (raw && bytes % SECTOR_BYTES)
		log_warn("disk image '%s' has %llu bytes, no multiple of %d: the guest does not see the last %llu",
			 blk->path, (unsigned long long)bytes, SECTOR_BYTES, (unsigned long long)bytes % SECTOR_BYTES);
	*ret_bytes = bytes;
	return 0;
}

/*
 * The format is never guessed: an image that does not say its type is raw. But a qcow2 image that is
 * used as raw by mistake would be destroyed.
 */
static int check_format(const struct blk *blk, struct disk_config *cfg, struct err *err)
{
	char magic[4];

	if (cfg->image_type == IMAGE_QCOW2)
		return 0;
	if (cfg->image_type == IMAGE_UNKNOWN && pread(blk->lock_fd, magic, sizeof(magic), 0) == sizeof(magic) &&
	    memcmp(magic, QCOW2_MAGIC, sizeof(magic)) == 0)
		return err_set(
			err, ERR_INVALID,
			"disk image '%s' looks like qcow2 (image_type=qcow2; or image_type=raw to use it as it is)",
			blk->path);
	cfg->image_type = IMAGE_RAW;
	return 0;
}

static void set_serial(struct blk *blk, const struct disk_config *cfg, const struct stat *st)
{
	char text[80];

	if (cfg->serial)
		snprintf(text, sizeof(text), "%s", cfg->serial);
	else
		snprintf(text, sizeof(text), "%llu%llu%llu", (unsigned long long)st->st_dev,
			 (unsigned long long)st->st_rdev, (unsigned long long)st->st_ino);
	memcpy(blk->serial, text, strnlen(text, sizeof(blk->serial)));
}

/*
 * What Cloud Hypervisor shows of a disk that did nothing. Cloud Hypervisor counts averages in ten
 * thousandths.
 */
static const struct virtio_op_counters no_ops = {
	.latency_min = UINT64_MAX,
	.latency_max = UINT64_MAX,
	.latency_avg = UINT64_MAX / 10000,
};

static bool reads_direct(const struct blk *blk, uint32_t bytes)
{
	void *p;

	if (posix_memalign(&p, GUEST_PAGE, bytes) != 0)
		return false;
	bool taken = pread(blk->fd, p, bytes, 0) >= 0;
	free(p);
	return taken;
}

/*
 * Finds the alignment of direct I/O: the file tells it, or the block device; else reads show what is
 * taken.
 */
static void ask_direct(struct blk *blk, uint32_t logical)
{
	struct statx s;

	blk->align.io = blk->align.mem = logical;
	if (statx(blk->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &s) == 0 && (s.stx_mask & STATX_DIOALIGN) &&
	    s.stx_dio_offset_align) {
		blk->align.io = s.stx_dio_offset_align;
		blk->align.mem = s.stx_dio_mem_align;
	} else if (logical == 1) {
		uint32_t bytes = SECTOR_BYTES;
		while (bytes < GUEST_PAGE && !reads_direct(blk, bytes))
			bytes *= 2;
		blk->align.io = blk->align.mem = bytes;
	}
	blk->align.zero = blk->align.io;
}

static int ask_alignment(struct blk *blk, const struct stat *st, struct err *err)
{
	int logical = 1;

	if (S_ISBLK(st->st_mode) && ioctl(blk->fd, BLKSSZGET, &logical) < 0)
		return err_sys(err, ERR_INTERNAL, "block size of '%s'", blk->path);
	blk->align = (struct blk_align){ .io = 1, .mem = 1, .zero = (uint32_t)logical };
	if (blk->direct)
		ask_direct(blk, (uint32_t)logical);
	const struct blk_align *a = &blk->align;
	if ((a->io & (a->io - 1)) || (a->mem & (a->mem - 1)) || a->io > ALIGN_MAX || a->mem > GUEST_PAGE)
		return err_set(
			err, ERR_INVALID,
			"disk image '%s' with direct=on wants alignment to %u bytes, of memory to %u: not supported",
			blk->path, a->io, a->mem);
	return 0;
}

/* Sets the topology as the host's block device says it, in the guest's blocks. */
static void set_topology(struct blk *blk, const struct stat *st)
{
	uint32_t block = blk->align.zero > SECTOR_BYTES ? blk->align.zero : SECTOR_BYTES;
	unsigned physical = 0, least = 0, best = 0;

	blk->space.blk_size = block;
	blk->space.min_io_size = 1;
	blk->space.discard_sector_alignment = blk->space.max_discard_seg * (block >> SECTOR_SHIFT);
	if (!S_ISBLK(st->st_mode))
		return;
	if (ioctl(blk->fd, BLKPBSZGET, &physical) == 0)
		while (block << blk->space.physical_block_exp < physical && blk->space.physical_block_exp < 15)
			blk->space.physical_block_exp++;
	if (ioctl(blk->fd, BLKIOMIN, &least) == 0 && least / block > 1 && least / block <= UINT16_MAX)
		blk->space.min_io_size = (uint16_t)(least / block);
	if (ioctl(blk->fd, BLKIOOPT, &best) == 0)
		blk->space.opt_io_size = best / block;
}

static void set_space(struct blk *blk, const struct disk_config *cfg)
{
	bool writes = !cfg->readonly, discards = writes && cfg->sparse;

	blk->space = (struct blk_space){
		.capacity = blk->bytes >> SECTOR_SHIFT,
		.seg_max = cfg->queue_size - 2U,
		.writeback = 1,
		.num_queues = cfg->num_queues > 1 ? (uint16_t)cfg->num_queues : 0,
		.max_discard_sectors = discards ? UINT32_MAX : 0,
		.max_discard_seg = discards,
		.max_write_zeroes_sectors = writes ? UINT32_MAX : 0,
		.max_write_zeroes_seg = writes,
		.write_zeroes_may_unmap = discards,
	};
	blk->vdev.counters.disk_read = blk->vdev.counters.disk_write = no_ops;
	blk->vdev.config = &blk->space;
	blk->vdev.avail_features = 1ULL << F_SEG_MAX | 1ULL << F_BLK_SIZE | 1ULL << F_FLUSH | 1ULL << F_TOPOLOGY |
				   1ULL << F_CONFIG_WCE | 1ULL << VIRTIO_F_INDIRECT_DESC | 1ULL << VIRTIO_F_EVENT_IDX |
				   (discards ? 1ULL << F_DISCARD : 0) | (writes ? 1ULL << F_WRITE_ZEROES : 0) |
				   (cfg->readonly ? 1ULL << F_RO : 0) | (cfg->num_queues > 1 ? 1ULL << F_MQ : 0);
}

/* Opens the image. given > 0: duplicates this descriptor instead of opening the path. */
static int open_once(const struct disk_config *cfg, int given)
{
	if (given > 0)
		return fcntl(given, F_DUPFD_CLOEXEC, 3);
	return host_open(cfg->path, (cfg->readonly ? O_RDONLY : O_RDWR) | O_NONBLOCK, 0);
}

static int no_image(const struct disk_config *cfg, struct err *err)
{
	err_sys(err, ERR_INTERNAL, "I/O error (path=%s op=open)", cfg->path);
	err_wrap(err, "Cannot open disk path");
	return err_wrap(err, "Error from device manager");
}

/* Opens and locks the image, and what is behind it. */
static int open_files(struct blk *blk, struct disk_config *cfg, struct stat *ret_st, struct err *err)
{
	blk->path = strdup(cfg->path);
	blk->readonly = cfg->readonly;
	blk->direct = cfg->direct;
	blk->lock_granularity = cfg->lock_granularity;
	blk->no_uring = cfg->disable_io_uring;
	if (!blk->path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open disk '%s'", cfg->path);
	blk->fd = open_once(cfg, cfg->fd);
	blk->lock_fd = open_once(cfg, cfg->lock_fd);
	if (blk->fd < 0 || blk->lock_fd < 0)
		return no_image(cfg, err);
	if (fstat(blk->fd, ret_st) < 0)
		return err_sys(err, ERR_INTERNAL, "stat disk image '%s'", cfg->path);
	if (image_bytes(blk, ret_st, cfg->image_type != IMAGE_QCOW2, &blk->bytes, err) < 0 ||
	    check_format(blk, cfg, err) < 0 || lock_image(blk, blk->bytes, err) < 0)
		return err->num;
	if (fcntl(blk->fd, F_SETFL, cfg->direct ? O_DIRECT : 0) < 0)
		return err_sys(err, ERR_INTERNAL, "disk image '%s' with direct=on", cfg->path);
	if (ask_alignment(blk, ret_st, err) < 0)
		return err->num;
	if (cfg->image_type != IMAGE_QCOW2 || blk_open_layers(blk, cfg, err) == 0)
		return 0;
	err->code = ERR_INTERNAL; /* the request is well, the file is not: as Cloud Hypervisor says it */
	return err_wrap(err, "Error from device manager");
}

int blk_open_image(struct blk *blk, struct disk_config *cfg, struct err *err)
{
	struct stat st;

	if (open_files(blk, cfg, &st, err) < 0)
		return err->num;
	set_serial(blk, cfg, &st);
	set_space(blk, cfg);
	set_topology(blk, &st);
	blk->done = (struct source){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = blk_on_done };
	return blk->done.fd < 0 ? err_sys(err, ERR_INTERNAL, "make an eventfd") : 0;
}

void blk_close_image(struct blk *blk)
{
	blk_close_layers(blk);
	if (blk->fd >= 0)
		close(steal_fd(&blk->fd));
	if (blk->lock_fd >= 0)
		close(steal_fd(&blk->lock_fd));
	free(steal_ptr(&blk->path));
}

/* ---- another image under the same disk ---- */

/* The first file behind the new image must be the present one: else the guest would lose what it has written. */
static int check_behind(const struct blk *blk, const struct disk_config *cfg, struct err *err)
{
	struct stat now, behind;

	if (cfg->image_type != IMAGE_QCOW2 || cfg->n_base_fds == 0 || fstat(cfg->base_fds[0], &behind) < 0 ||
	    fstat(blk->lock_fd, &now) < 0 || now.st_dev != behind.st_dev || now.st_ino != behind.st_ino)
		return err_set(err, ERR_CONFLICT, "disk '%s': '%s' is not over '%s', which the guest writes",
			       blk->vdev.id, cfg->path, blk->path);
	return 0;
}

/* What the device keeps of the two: the guest knows it already, or it is the device's own. */
static void swap_images(struct blk *a, struct blk *b)
{
	const struct blk was = *a;

	a->path = b->path;
	a->fd = b->fd;
	a->lock_fd = b->lock_fd;
	a->bytes = b->bytes;
	a->layers = b->layers;
	a->n_layers = b->n_layers;
	a->align = b->align;
	b->path = was.path;
	b->fd = was.fd;
	b->lock_fd = was.lock_fd;
	b->layers = was.layers;
	b->n_layers = was.n_layers;
}

static void replace_image(struct blk *blk, struct blk *next)
{
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (blk->has_ring)
		uring_close(&blk->ring);
	swap_images(blk, next);
	if (!blk->has_ring)
		return;
	blk->has_ring = false;
	if (blk_open_ring(blk, &err) < 0)
		log_warn("disk '%s': plain reads and writes instead of io_uring: %s", blk->vdev.id,
			 err_line(&err, line, sizeof(line)));
}

static int put_over(struct blk *blk, struct disk_config *cfg, struct err *err)
{
	struct blk next = { .env = blk->env, .fd = -1, .lock_fd = -1 };
	struct stat st;

	blk_drain(&blk->vdev);
	int r = blk->layers && blk->layers[0].qcow2 ? qcow2_commit(blk->layers[0].qcow2) : 0;
	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "disk '%s': write the tables of '%s'", blk->vdev.id, blk->path);
	if (check_behind(blk, cfg, err) < 0)
		return err->num;
	r = open_files(&next, cfg, &st, err);
	if (r == 0 && next.bytes >> SECTOR_SHIFT != blk->bytes >> SECTOR_SHIFT)
		r = err_set(err, ERR_INVALID, "disk '%s' has %llu bytes, '%s' has %llu", blk->vdev.id,
			    (unsigned long long)blk->bytes, cfg->path, (unsigned long long)next.bytes);
	if (r == 0)
		replace_image(blk, &next);
	blk_close_image(&next);
	return r;
}

int virtio_blk_put_over(struct virtio_dev *vdev, struct disk_config *cfg, struct err *err)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);

	pthread_mutex_lock(&vdev->lock);
	int r = put_over(blk, cfg, err);
	pthread_mutex_unlock(&vdev->lock);
	return r;
}

void virtio_blk_sync(struct virtio_dev *vdev)
{
	const struct blk *blk = container_of(vdev, struct blk, vdev);

	(void)fdatasync(blk->lock_fd); /* whether it is durable is asked later, by who must know */
}

/* Gives a file the size. A block device must have the size already: the guest is only told. */
static int set_size(const struct blk *blk, uint64_t bytes, struct err *err)
{
	struct stat st;
	uint64_t has = 0;

	if (fstat(blk->fd, &st) < 0 || (S_ISBLK(st.st_mode) && ioctl(blk->fd, BLKGETSIZE64, &has) < 0))
		return err_sys(err, ERR_INTERNAL, "Resize failed");
	if (S_ISBLK(st.st_mode) && has != bytes) {
		err_set(err, ERR_INTERNAL, "Block device size %llu does not match requested size %llu",
			(unsigned long long)has, (unsigned long long)bytes);
		return err_wrap(err, "Resize failed");
	}
	if (!S_ISBLK(st.st_mode) && ftruncate(blk->fd, (off_t)bytes) < 0)
		return err_sys(err, ERR_INTERNAL, "Resize failed");
	return 0;
}

static int resize(struct blk *blk, uint64_t bytes, struct err *err)
{
	if (bytes % SECTOR_BYTES)
		return err_set(err, ERR_INTERNAL, "Disk image size is not a multiple of %d", SECTOR_BYTES);
	if (bytes > INT64_MAX) {
		err_set(err, ERR_INTERNAL, "out of range integral type conversion attempted");
		err_wrap(err, "Resize failed");
	} else if (lock_image(blk, bytes, err) < 0) {
		return err->num;
	} else if (set_size(blk, bytes, err) == 0) {
		return 0;
	}
	err_wrap(err, "I/O error");
	return err_wrap(err, "Disk resize failed");
}

static int no_resize(const struct blk *blk, struct err *err)
{
	err_set(err, ERR_INTERNAL, "'%s' is a qcow2 image: qemu-img resize, while no VM has it", blk->path);
	return err_wrap(err, "Disk resize failed");
}

int virtio_blk_resize(struct virtio_dev *vdev, uint64_t bytes, struct err *err)
{
	struct blk *blk = container_of(vdev, struct blk, vdev);

	pthread_mutex_lock(&vdev->lock);
	blk_drain(vdev); /* requests under way were checked against the old size */
	int r = blk->layers ? no_resize(blk, err) : resize(blk, bytes, err);
	if (r == 0) {
		blk->bytes = bytes;
		blk->space.capacity = bytes >> SECTOR_SHIFT;
		if (vdev->active)
			virtio_pci_interrupt(vdev->transport, VIRTIO_CONFIG_CHANGE);
	}
	pthread_mutex_unlock(&vdev->lock);
	return r;
}
