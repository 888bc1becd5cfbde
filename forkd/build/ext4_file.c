// SPDX-License-Identifier: Apache-2.0
/* Inodes of the tree's files, and what is in regular ones. */
#include <errno.h>
#include <string.h>

#include "forkd/build/ext4.h"

/* Seconds that an inode of 256 bytes can hold. */
static const int64_t TIME_MIN = -(1LL << 31), TIME_MAX = (1LL << 34) - (1LL << 31) - 1;

static void put_times(const struct node *node, struct ext2_inode_large *inode)
{
	int64_t t = node->mtime < TIME_MIN ? TIME_MIN : node->mtime > TIME_MAX ? TIME_MAX : node->mtime;
	uint32_t epoch = (uint32_t)((t - (int32_t)t) >> 32) & 3;
	uint32_t extra = (node->mtime_ns << 2) | epoch;

	inode->i_atime = inode->i_ctime = inode->i_mtime = inode->i_crtime = (uint32_t)t;
	inode->i_atime_extra = inode->i_ctime_extra = inode->i_mtime_extra = inode->i_crtime_extra = extra;
}

int ext4_put_inode(struct ext4 *e, const struct node *node, struct ext2_inode_large *inode, struct err *err)
{
	uint32_t links = S_ISDIR(node->mode) ? node->n_dirs + 2 : node->n_names;

	inode->i_mode = (uint16_t)node->mode;
	inode->i_uid = (uint16_t)node->uid;
	inode->i_uid_high = (uint16_t)(node->uid >> 16);
	inode->i_gid = (uint16_t)node->gid;
	inode->i_gid_high = (uint16_t)(node->gid >> 16);
	inode->i_links_count = S_ISDIR(node->mode) && links >= EXT2_LINK_MAX ? 1 : (uint16_t)links;
	inode->i_extra_isize = e->fs->super->s_want_extra_isize;
	put_times(node, inode);
	errcode_t r = ext2fs_write_inode_full(e->fs, node->ino, (struct ext2_inode *)inode, sizeof(*inode));
	return r ? ext4_failed(e, r, err, "write inode %u", node->ino) : 0;
}

int ext4_put_xattrs(struct ext4 *e, const struct node *node, struct err *err)
{
	struct ext2_xattr_handle *h = NULL;

	if (!node->n_xattrs)
		return 0;
	errcode_t r = ext2fs_xattrs_open(e->fs, node->ino, &h);
	for (uint32_t i = 0; r == 0 && i < node->n_xattrs; i++)
		r = ext2fs_xattr_set(h, node->xattrs[i].name, node->xattrs[i].value, node->xattrs[i].bytes);
	if (r == 0)
		r = ext2fs_xattrs_write(h);
	if (h)
		ext2fs_xattrs_close(&h);
	return r ? ext4_failed(e, r, err, "attribute '%s'", node->xattrs[0].name) : 0;
}

int ext4_file_begin(struct ext4 *e, struct node *node, struct err *err)
{
	struct ext2_inode_large inode = { .i_flags = EXT4_EXTENTS_FL };
	ext2_extent_handle_t handle;

	e->node = node;
	errcode_t r = ext2fs_extent_open2(e->fs, node->ino, (struct ext2_inode *)&inode, &handle);
	if (r)
		return ext4_failed(e, r, err, "inode %u", node->ino);
	ext2fs_extent_free(handle);
	if (ext4_put_inode(e, node, &inode, err) < 0)
		return err->num;
	r = ext2fs_file_open(e->fs, node->ino, EXT2_FILE_WRITE, &e->file);
	return r ? ext4_failed(e, r, err, "inode %u", node->ino) : 0;
}

static bool is_zero(const char *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static errcode_t write_run(struct ext4 *e, const char *bytes, size_t len, uint64_t off)
{
	unsigned done;

	errcode_t r = ext2fs_file_llseek(e->file, off, EXT2_SEEK_SET, NULL);
	while (r == 0 && len) {
		r = ext2fs_file_write(e->file, bytes, (unsigned)(len < (1U << 30) ? len : 1U << 30), &done);
		bytes += done;
		len -= done;
	}
	return r;
}

/* Whole blocks of zeros are left out: they are holes of the file. */
int ext4_file_data(struct ext4 *e, const void *bytes, uint64_t len, uint64_t off, struct err *err)
{
	const char *p = bytes;
	errcode_t r = 0;

	for (uint64_t at = 0; r == 0 && at < len;) {
		uint64_t start = at;
		while (at < len) {
			uint64_t block = EXT4_BLOCK - (off + at) % EXT4_BLOCK, n = block < len - at ? block : len - at;
			if (n == EXT4_BLOCK && is_zero(p + at, n))
				break;
			at += n;
		}
		if (at > start)
			r = write_run(e, p + start, at - start, off + start);
		else
			at += EXT4_BLOCK;
	}
	return r ? ext4_failed(e, r, err, "write at byte %llu", (unsigned long long)off) : 0;
}

int ext4_file_end(struct ext4 *e, struct err *err)
{
	struct ext2_inode_large inode;

	errcode_t r = ext2fs_file_set_size2(e->file, (ext2_off64_t)e->node->size);
	errcode_t closed = ext2fs_file_close(e->file);
	e->file = NULL;
	r = r ? r : closed;
	if (r == 0)
		r = ext2fs_read_inode_full(e->fs, e->node->ino, (struct ext2_inode *)&inode, sizeof(inode));
	if (r)
		return ext4_failed(e, r, err, "write inode %u", e->node->ino);
	if (ext4_put_inode(e, e->node, &inode, err) < 0)
		return err->num;
	return ext4_put_xattrs(e, e->node, err);
}
