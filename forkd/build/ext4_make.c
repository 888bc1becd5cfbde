// SPDX-License-Identifier: Apache-2.0
/* The empty file system: size, features, inodes that every file system has, journal. What mke2fs does, without its configuration file. */
#include <errno.h>
#include <et/com_err.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include "forkd/build/ext4.h"
#include "forkd/build/limits.h"

enum {
	INODE_BYTES = 256,
	BYTES_PER_INODE = 16384,
	JOURNAL_BLOCKS_MAX = 8192,
	GROUPS_PER_FLEX_LOG = 4,
	GROUP_BLOCKS = 32768,
	GROUP_OVERHEAD = 2 + 64, /* bitmaps, and descriptors that the file system may grow into */
	EPOCH = 1,               /* when the file system was made: 0 is "now" for libext2fs */
};
static const uint64_t HEADROOM_MIN = 256ULL << 20, BYTES_MIN = 1ULL << 20;

int ext4_failed(const struct ext4 *e, errcode_t code, struct err *err, const char *fmt, ...)
{
	char what[EXT4_LIST];
	va_list args;

	va_start(args, fmt);
	vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	if (code == EXT2_ET_BLOCK_ALLOC_FAIL || code == EXT2_ET_INODE_ALLOC_FAIL)
		return err_set(err, ERR_INVALID, "%s: a file system of %llu bytes is too small for the image", what,
			       (unsigned long long)e->bytes);
	if (code == EXT2_ET_EA_NO_SPACE)
		return err_set(err, ERR_INVALID, "%s: its extended attributes need more room than ext4 has for them",
			       what);
	return err_set(err, ERR_INTERNAL, "%s: %s", what, error_message(code));
}

/* ---- plan ---- */

static uint64_t blocks_of(uint64_t bytes)
{
	return (bytes + EXT4_BLOCK - 1) / EXT4_BLOCK;
}

struct count {
	struct ext4_plan *plan;
	uint64_t dir_bytes;
};

static int count_name(void *arg, struct name *name);

/* Each block of a directory may end with as much unused as the longest name needs. */
static int count_directory(const struct node *dir, struct ext4_plan *plan)
{
	struct count below = { plan, 24 };

	int r = tree_each(dir, count_name, &below);
	plan->blocks += below.dir_bytes / (EXT4_BLOCK - 12 - 264) + 1;
	plan->blocks += dir->n_xattrs > 0;
	return r;
}

/* Regular files are counted by their contents: each once, however many names it has. */
static int count_name(void *arg, struct name *name)
{
	struct count *c = arg;
	const struct node *node = name->node;

	c->dir_bytes += 8 + ((strlen(name->text) + 3) & ~3ULL);
	if (S_ISREG(node->mode))
		return 0;
	c->plan->inodes++;
	if (S_ISDIR(node->mode))
		return count_directory(node, c->plan);
	c->plan->blocks += (node->n_xattrs > 0) + (S_ISLNK(node->mode) != 0);
	return 0;
}

/* With the worst of extents, and of pieces that begin in the middle of a block. */
static void count_contents(const struct tree *tree, struct ext4_plan *plan)
{
	for (uint64_t i = 0; i < tree->n_contents; i++) {
		const struct node *node = tree->contents[i];
		if (!node)
			continue;
		uint64_t data = blocks_of(node->data_bytes);
		plan->inodes++;
		plan->blocks += data + data / EXT4_LIST + (data > 4) + (node->n_xattrs > 0);
	}
}

static uint64_t inodes_for(const struct ext4_plan *plan, uint64_t bytes)
{
	uint64_t usual = bytes / BYTES_PER_INODE, least = plan->inodes + plan->inodes / 8;

	return usual > least ? usual : least;
}

/* The blocks of the files and of the file system itself. */
static uint64_t needed(const struct ext4_plan *plan, uint64_t bytes)
{
	uint64_t groups = bytes / EXT4_BLOCK / GROUP_BLOCKS + 1;

	return plan->blocks + blocks_of(inodes_for(plan, bytes) * INODE_BYTES) + groups * GROUP_OVERHEAD;
}

int ext4_plan(struct tree *tree, uint64_t bytes, struct ext4_plan *plan, struct err *err)
{
	plan->blocks = 0;
	plan->inodes = EXT2_GOOD_OLD_FIRST_INO + 1;
	if (count_directory(tree->root, plan) < 0)
		return err_num(err, ERR_INTERNAL, ENOMEM, "count the files of the image");
	count_contents(tree, plan);
	uint64_t least = needed(plan, plan->blocks * EXT4_BLOCK) * EXT4_BLOCK;
	uint64_t headroom = least / 4 > HEADROOM_MIN ? least / 4 : HEADROOM_MIN;
	plan->bytes = bytes ? bytes / EXT4_BLOCK * EXT4_BLOCK : (least + headroom + (1 << 20) - 1) >> 20 << 20;
	if (plan->bytes < BYTES_MIN || plan->bytes > IMAGE_BYTES_MAX)
		return err_set(err, ERR_INVALID, "a file system of %llu bytes: it can have %llu to %llu",
			       (unsigned long long)plan->bytes, (unsigned long long)BYTES_MIN, IMAGE_BYTES_MAX);
	if (plan->blocks * EXT4_BLOCK > plan->bytes)
		return err_set(err, ERR_INVALID, "the image does not fit into %llu bytes: its files alone need %llu",
			       (unsigned long long)plan->bytes, (unsigned long long)plan->blocks * EXT4_BLOCK);
	return 0;
}

/* ---- make ---- */

static void set_parameters(struct ext2_super_block *p, const struct ext4_plan *plan)
{
	ext2fs_blocks_count_set(p, plan->bytes / EXT4_BLOCK);
	p->s_log_block_size = 2; /* 1024 << 2 */
	p->s_log_cluster_size = 2;
	p->s_rev_level = EXT2_DYNAMIC_REV;
	p->s_inodes_count = (uint32_t)inodes_for(plan, plan->bytes);
	p->s_inode_size = INODE_BYTES;
	p->s_log_groups_per_flex = GROUPS_PER_FLEX_LOG;
	p->s_feature_compat = EXT2_FEATURE_COMPAT_EXT_ATTR | EXT2_FEATURE_COMPAT_DIR_INDEX |
			      EXT2_FEATURE_COMPAT_RESIZE_INODE;
	p->s_feature_incompat = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS |
				EXT4_FEATURE_INCOMPAT_FLEX_BG | EXT4_FEATURE_INCOMPAT_64BIT;
	p->s_feature_ro_compat = EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
				 EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |
				 EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM;
}

/* UUID (of version 8: made by a rule of one's own) and hash seed; times that do not change. */
static void set_identity(ext2_filsys fs, const unsigned char *seed)
{
	struct ext2_super_block *sb = fs->super;

	memcpy(sb->s_uuid, seed, sizeof(sb->s_uuid));
	sb->s_uuid[6] = (uint8_t)((sb->s_uuid[6] & 0x0f) | 0x80);
	sb->s_uuid[8] = (uint8_t)((sb->s_uuid[8] & 0x3f) | 0x80);
	memcpy(sb->s_hash_seed, seed + 16, sizeof(sb->s_hash_seed));
	sb->s_def_hash_version = EXT2_HASH_HALF_MD4;
	sb->s_flags |= EXT2_FLAGS_SIGNED_HASH;
	sb->s_default_mount_opts = EXT2_DEFM_XATTR_USER | EXT2_DEFM_ACL;
	sb->s_checksum_type = EXT2_CRC32C_CHKSUM;
	sb->s_min_extra_isize = sb->s_want_extra_isize =
		(uint16_t)(sizeof(struct ext2_inode_large) - EXT2_GOOD_OLD_INODE_SIZE);
	sb->s_mkfs_time = sb->s_lastcheck = sb->s_wtime = EPOCH;
	sb->s_mkfs_time_hi = sb->s_lastcheck_hi = sb->s_wtime_hi = 0;
	sb->s_r_blocks_count = 0;
	sb->s_max_mnt_count = -1;
	ext2fs_init_csum_seed(fs);
}

/* The file is all zeros, so the kernel need not write zeros to the tables of inodes. */
static void mark_zeroed(ext2_filsys fs)
{
	for (dgrp_t g = 0; g < fs->group_desc_count; g++) {
		ext2fs_bg_flags_set(fs, g, EXT2_BG_INODE_ZEROED);
		ext2fs_group_desc_csum_set(fs, g);
	}
	ext2fs_mark_super_dirty(fs);
}

/* The same for what libext2fs wants to be zero, a journal for instance: the file stays sparse. */
static errcode_t zero_already(io_channel channel, unsigned long long block, unsigned long long count)
{
	(void)channel;
	(void)block;
	(void)count;
	return 0;
}

static void keep_sparse(ext2_filsys fs)
{
	static struct struct_io_manager manager;

	manager = *fs->io->manager;
	manager.zeroout = zero_already;
	fs->io->manager = &manager;
}

static errcode_t reserve_inodes(ext2_filsys fs)
{
	for (ext2_ino_t ino = 1; ino < EXT2_FIRST_INODE(fs->super); ino++)
		ext2fs_inode_alloc_stats2(fs, ino, +1, ino == EXT2_ROOT_INO);
	return ext2fs_update_bb_inode(fs, NULL);
}

static errcode_t add_journal(ext2_filsys fs)
{
	int blocks = ext2fs_default_journal_size(ext2fs_blocks_count(fs->super));

	if (blocks <= 0)
		return 0; /* too small for one */
	return ext2fs_add_journal_inode(fs, blocks < JOURNAL_BLOCKS_MAX ? (blk_t)blocks : JOURNAL_BLOCKS_MAX, 0);
}

static errcode_t make_structures(ext2_filsys fs)
{
	errcode_t r = ext2fs_allocate_tables(fs);

	if (r == 0)
		r = reserve_inodes(fs);
	if (r == 0)
		r = ext2fs_create_resize_inode(fs);
	return r ? r : add_journal(fs);
}

int ext4_create(struct ext4 *e, int fd, const struct ext4_plan *plan, struct err *err)
{
	struct ext2_super_block parameters = {};
	char name[16];

	initialize_ext2_error_table();
	e->bytes = plan->bytes;
	if (ftruncate(fd, (off_t)plan->bytes) < 0)
		return err_sys(err, ERR_INVALID, "make a file of %llu bytes", (unsigned long long)plan->bytes);
	int own = dup(fd); /* libext2fs closes it */
	if (own < 0)
		return err_sys(err, ERR_INTERNAL, "dup");
	snprintf(name, sizeof(name), "%d", own);
	set_parameters(&parameters, plan);
	errcode_t r = ext2fs_initialize(name, EXT2_FLAG_RW | EXT2_FLAG_64BITS, &parameters, unixfd_io_manager, &e->fs);
	if (r == 0) {
		e->fs->now = EPOCH;
		keep_sparse(e->fs);
		set_identity(e->fs, plan->seed);
		r = make_structures(e->fs);
	}
	if (r)
		return ext4_failed(e, r, err, "make a file system of %llu bytes", (unsigned long long)plan->bytes);
	mark_zeroed(e->fs);
	return 0;
}

int ext4_finish(struct ext4 *e, struct err *err)
{
	errcode_t r = ext2fs_close_free(&e->fs);

	return r ? ext4_failed(e, r, err, "write the file system") : 0;
}

void ext4_abort(struct ext4 *e)
{
	if (e->file)
		ext2fs_file_close(e->file);
	if (e->fs)
		ext2fs_free(e->fs);
	*e = (struct ext4){};
}
