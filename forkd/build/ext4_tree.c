// SPDX-License-Identifier: Apache-2.0
/* Directories, symbolic links and special files of the tree, in the order of their names. */
#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "forkd/build/ext4.h"

enum { CSUM_TAIL = sizeof(struct ext2_dir_entry_tail), LOST_AND_FOUND_MODE = 0700 };
#define LOST_AND_FOUND "lost+found"

/* ---- inode numbers ---- */

/* Numbers go out in the order of the tree: a directory's files stand together. */
static int give_number(void *arg, struct name *name)
{
	struct ext4 *e = arg;
	struct node *node = name->node;

	if (node->ino == 0) {
		node->ino = e->next_ino++;
		if (node->ino > e->fs->super->s_inodes_count)
			return -ENOSPC;
		ext2fs_inode_alloc_stats2(e->fs, node->ino, +1, S_ISDIR(node->mode));
	}
	return 0;
}

static int number_below(void *arg, struct name *name)
{
	int r = 0;

	if (S_ISDIR(name->node->mode)) {
		r = tree_each(name->node, give_number, arg);
		r = r ? r : tree_each(name->node, number_below, arg);
	}
	return r;
}

/* e2fsck keeps what it finds there, and wants it to be the first inode that is free. */
static int number_lost_and_found(struct ext4 *e, struct tree *tree, struct err *err)
{
	struct name *name = tree_find(tree->root, LOST_AND_FOUND);

	if (name && !S_ISDIR(name->node->mode))
		return err_set(err, ERR_INVALID,
			       "'/" LOST_AND_FOUND "' is no directory, as an ext4 file system needs it");
	if (!name) {
		struct node *node = tree_new_node(tree, S_IFDIR | LOST_AND_FOUND_MODE, NULL, err);
		if (!node)
			return err->num;
		if (tree_link(tree, tree->root, LOST_AND_FOUND, node, err) < 0) {
			tree_free_node(tree, node);
			return err->num;
		}
		name = tree_find(tree->root, LOST_AND_FOUND);
	}
	return give_number(e, name);
}

static int number_all(struct ext4 *e, struct tree *tree, struct err *err)
{
	e->next_ino = EXT2_FIRST_INODE(e->fs->super);
	tree->root->ino = EXT2_ROOT_INO;
	if (number_lost_and_found(e, tree, err) < 0)
		return err->num;
	int r = tree_each(tree->root, give_number, e);
	r = r ? r : tree_each(tree->root, number_below, e);
	if (r == -ENOSPC)
		return ext4_failed(e, EXT2_ET_INODE_ALLOC_FAIL, err, "give each file an inode");
	return r ? err_num(err, ERR_INTERNAL, -r, "give each file an inode") : 0;
}

/* ---- directories ---- */

struct dir_writer {
	struct ext4 *e;
	const struct node *dir;
	struct ext2_inode_large inode;
	blk64_t n_blocks;
	unsigned used;               /* of the block */
	struct ext2_dir_entry *last; /* the entry that gets what is left of the block */
	union {
		char block[EXT4_BLOCK];
		struct ext2_dir_entry align;
	};
};

static errcode_t flush_block(struct dir_writer *w)
{
	ext2_filsys fs = w->e->fs;
	blk64_t at;

	w->last->rec_len = (uint16_t)(w->last->rec_len + EXT4_BLOCK - CSUM_TAIL - w->used);
	ext2fs_initialize_dirent_tail(fs, EXT2_DIRENT_TAIL(w->block, EXT4_BLOCK));
	errcode_t r =
		ext2fs_bmap2(fs, w->dir->ino, (struct ext2_inode *)&w->inode, NULL, BMAP_ALLOC, w->n_blocks, NULL, &at);
	if (r == 0)
		r = ext2fs_write_dir_block4(fs, at, w->block, 0, w->dir->ino);
	w->n_blocks++;
	w->used = 0;
	memset(w->block, 0, sizeof(w->block));
	return r;
}

static int file_type(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return EXT2_FT_DIR;
	case S_IFLNK:
		return EXT2_FT_SYMLINK;
	case S_IFCHR:
		return EXT2_FT_CHRDEV;
	case S_IFBLK:
		return EXT2_FT_BLKDEV;
	case S_IFIFO:
		return EXT2_FT_FIFO;
	case S_IFSOCK:
		return EXT2_FT_SOCK;
	default:
		return EXT2_FT_REG_FILE;
	}
}

static errcode_t add_entry(struct dir_writer *w, const char *text, const struct node *node)
{
	const unsigned len = (unsigned)strlen(text), rec_len = EXT2_DIR_REC_LEN(len);
	errcode_t r = 0;

	if (w->used + rec_len > EXT4_BLOCK - CSUM_TAIL)
		r = flush_block(w);
	struct ext2_dir_entry *d = (struct ext2_dir_entry *)(void *)(w->block + w->used);
	d->inode = node->ino;
	d->rec_len = (uint16_t)rec_len;
	ext2fs_dirent_set_name_len(d, (int)len);
	ext2fs_dirent_set_file_type(d, file_type(node->mode));
	memcpy(d->name, text, len);
	w->used += rec_len;
	w->last = d;
	return r;
}

static int add_name(void *arg, struct name *name)
{
	struct dir_writer *w = arg;
	errcode_t r = add_entry(w, name->text, name->node);

	return r ? (int)r : 0;
}

int ext4_put_directory(struct ext4 *e, const struct node *dir, struct err *err)
{
	struct dir_writer w = { .e = e, .dir = dir, .inode = { .i_flags = EXT4_EXTENTS_FL } };
	ext2_extent_handle_t handle;

	errcode_t r = ext2fs_extent_open2(e->fs, dir->ino, (struct ext2_inode *)&w.inode, &handle);
	if (r == 0) {
		ext2fs_extent_free(handle);
		r = add_entry(&w, ".", dir);
	}
	if (r == 0)
		r = add_entry(&w, "..", dir->parent);
	if (r == 0)
		r = tree_each(dir, add_name, &w);
	if (r == 0)
		r = flush_block(&w);
	if (r == 0)
		r = ext2fs_inode_size_set(e->fs, (struct ext2_inode *)&w.inode, (ext2_off64_t)w.n_blocks * EXT4_BLOCK);
	if (r)
		return ext4_failed(e, r, err, "write a directory of %u files", dir->n_children);
	if (ext4_put_inode(e, dir, &w.inode, err) < 0)
		return err->num;
	return ext4_put_xattrs(e, dir, err);
}

/* ---- other files ---- */

static errcode_t put_target(struct ext4 *e, const struct node *node, struct ext2_inode_large *inode)
{
	size_t len = strlen(node->target);
	char block[EXT4_BLOCK] = "";
	ext2_extent_handle_t handle;
	blk64_t at;

	inode->i_size = (uint32_t)len;
	if (len < sizeof(inode->i_block)) {
		memcpy(inode->i_block, node->target, len);
		return 0;
	}
	memcpy(block, node->target, len);
	inode->i_flags = EXT4_EXTENTS_FL;
	errcode_t r = ext2fs_extent_open2(e->fs, node->ino, (struct ext2_inode *)inode, &handle);
	if (r)
		return r;
	ext2fs_extent_free(handle);
	r = ext2fs_bmap2(e->fs, node->ino, (struct ext2_inode *)inode, NULL, BMAP_ALLOC, 0, NULL, &at);
	return r ? r : io_channel_write_blk64(e->fs->io, at, 1, block);
}

/* As the kernel does: two bytes where they are enough, else the newer form. */
static void put_device(const struct node *node, struct ext2_inode_large *inode)
{
	if (node->major < 256 && node->minor < 256)
		inode->i_block[0] = node->major << 8 | node->minor;
	else
		inode->i_block[1] = (node->minor & 0xff) | node->major << 8 | (node->minor & ~0xffU) << 12;
}

static int put_other(struct ext4 *e, struct node *node, struct err *err)
{
	struct ext2_inode_large inode = {};
	errcode_t r = 0;

	if (node->is_written)
		return 0; /* by another name */
	node->is_written = true;
	if (S_ISLNK(node->mode))
		r = put_target(e, node, &inode);
	else if (S_ISCHR(node->mode) || S_ISBLK(node->mode))
		put_device(node, &inode);
	if (r)
		return ext4_failed(e, r, err, "write a symbolic link");
	if (ext4_put_inode(e, node, &inode, err) < 0)
		return err->num;
	return ext4_put_xattrs(e, node, err);
}

struct tree_writer {
	struct ext4 *e;
	struct err *err;
};

static int put_name(void *arg, struct name *name)
{
	const struct tree_writer *w = arg;
	struct node *node = name->node;

	if (S_ISREG(node->mode))
		return 0; /* its content brings its inode */
	if (!S_ISDIR(node->mode)) {
		int r = put_other(w->e, node, w->err);
		return r < 0 ? err_wrap(w->err, "'%s'", name->text) : 0;
	}
	if (ext4_put_directory(w->e, node, w->err) < 0)
		return err_wrap(w->err, "'%s'", name->text);
	return tree_each(node, put_name, arg);
}

int ext4_write_tree(struct ext4 *e, struct tree *tree, struct err *err)
{
	struct tree_writer w = { e, err };

	if (number_all(e, tree, err) < 0 || ext4_put_directory(e, tree->root, err) < 0)
		return err->num;
	int r = tree_each(tree->root, put_name, &w);
	return r < 0 && err->code == ERR_NONE ? err_num(err, ERR_INTERNAL, -r, "write the image's tree") : r;
}
