// SPDX-License-Identifier: Apache-2.0
/* virtio-blk: the files behind a qcow2 image, and where in them the guest's bytes are. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vmm/core/host_open.h"
#include "vmm/virtio/blk.h"

enum { RAW, QCOW2 };

static const char *const formats[] = { [RAW] = "raw", [QCOW2] = "qcow2" };

/* Refuses what is no file, and a file that the chain has already. */
static int check_file(const struct blk *blk, struct layer *l, uint64_t *ret_bytes, struct err *err)
{
	struct stat st;

	if (fstat(l->fd, &st) < 0)
		return err_sys(err, ERR_INTERNAL, "stat disk image '%s'", l->path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INVALID, "'%s' is no regular file, as the files of a qcow2 image must be",
			       l->path);
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	*ret_bytes = (uint64_t)st.st_size;
	for (const struct layer *other = blk->layers; other < l; other++)
		if (other->dev == l->dev && other->ino == l->ino)
			return err_set(err, ERR_INVALID,
				       "qcow2 image '%s': '%s' comes twice in its chain of backing files", blk->path,
				       l->path);
	return 0;
}

/* The image itself is locked already. */
static int lock_layer(const struct layer *l, struct err *err)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	if (l->lock_fd >= 0 && fcntl(l->lock_fd, F_OFD_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES))
		return err_set(err, ERR_INTERNAL, "somebody writes the backing file '%s'", l->path);
	return 0;
}

/* Opens what layer `l` is, and says in *ret_header what is behind it. The layer's files and path are there. */
static int open_layer(const struct blk *blk, struct layer *l, int format, bool writable,
		      struct qcow2_header *ret_header, struct err *err)
{
	*ret_header = (struct qcow2_header){};
	if (check_file(blk, l, &l->bytes, err) < 0 || lock_layer(l, err) < 0)
		return err->num;
	if (format == RAW)
		return 0;
	if (qcow2_read_header(l->fd, l->bytes, l->path, ret_header, err) < 0 ||
	    qcow2_open(l->fd, l->path, ret_header, writable, &l->qcow2, err) < 0)
		return err->num;
	l->bytes = ret_header->bytes;
	return 0;
}

static int format_of(const char *image, const struct qcow2_header *h, struct err *err)
{
	for (unsigned i = 0; i < ARRAY_LEN(formats); i++)
		if (strcmp(h->backing_format, formats[i]) == 0)
			return (int)i;
	if (h->backing_format[0])
		return err_set(err, ERR_INVALID,
			       "qcow2 image '%s': its backing file has the format '%s', not raw or qcow2", image,
			       h->backing_format);
	return err_set(err, ERR_INVALID,
		       "qcow2 image '%s' does not say the format of its backing file (qemu-img rebase -u -F tells it)",
		       image);
}

/* Opens the file that the image names. */
static int open_named(struct layer *l, const char *image, struct err *err)
{
	l->fd = host_open(l->path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	l->lock_fd = l->fd < 0 ? -1 : host_open(l->path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	return l->lock_fd < 0 ? err_sys(err, ERR_INTERNAL, "open '%s', the backing file of '%s'", l->path, image) : 0;
}

/* Takes the file that forkd has handed over, whatever the image names. Nobody writes that file any more: it needs no lock. */
static int open_given(struct layer *l, const struct disk_config *cfg, unsigned i, struct err *err)
{
	l->fd = fcntl(cfg->base_fds[i], F_DUPFD_CLOEXEC, 3);
	return l->fd < 0 ? err_sys(err, ERR_INTERNAL, "take the backing file '%s'", l->path) : 0;
}

/* Opens the file behind the last layer, for reading alone. */
static int add_backing(struct blk *blk, const struct disk_config *cfg, struct qcow2_header *h, struct err *err)
{
	unsigned i = blk->n_layers - 1;
	const char *image = blk->layers[i].path;
	struct layer *l = &blk->layers[i + 1];
	bool given = cfg->n_base_fds > 0;
	int format = given ? (cfg->base_qcow2 >> i & 1 ? QCOW2 : RAW) : format_of(image, h, err);

	if (format < 0)
		return format;
	if (blk->n_layers == LAYERS_MAX)
		return err_set(err, ERR_INVALID, "qcow2 image '%s' has more than %d files in its chain", blk->path,
			       LAYERS_MAX);
	if (given && i == cfg->n_base_fds)
		return err_set(err, ERR_INVALID, "qcow2 image '%s' has '%s' behind it, which did not come", image,
			       h->backing);
	*l = (struct layer){ .fd = -1, .lock_fd = -1, .path = qcow2_backing_path(image, h->backing) };
	blk->n_layers++;
	if (!l->path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open the backing file of '%s'", image);
	if ((given ? open_given(l, cfg, i, err) : open_named(l, image, err)) < 0)
		return err->num;
	return open_layer(blk, l, format, false, h, err);
}

int blk_open_layers(struct blk *blk, const struct disk_config *cfg, struct err *err)
{
	struct qcow2_header h;

	blk->layers = calloc(LAYERS_MAX, sizeof(*blk->layers));
	if (!blk->layers)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open disk '%s'", blk->path);
	blk->layers[0] = (struct layer){ .fd = blk->lock_fd, .lock_fd = -1, .path = strdup(blk->path) };
	blk->n_layers = 1;
	if (!blk->layers[0].path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open disk '%s'", blk->path);
	if (open_layer(blk, &blk->layers[0], QCOW2, !blk->readonly, &h, err) < 0)
		return err->num;
	if (h.backing[0] && cfg->n_base_fds == 0 && !cfg->backing_files)
		return err_set(err, ERR_INVALID,
			       "qcow2 image '%s' has the backing file '%s', and the disk has no backing_files=on",
			       blk->path, h.backing);
	if (blk->direct && qcow2_cluster(blk->layers[0].qcow2) < GUEST_PAGE)
		return err_set(err, ERR_INVALID, "qcow2 image '%s' with direct=on needs clusters of %d bytes at least",
			       blk->path, GUEST_PAGE);
	while (h.backing[0])
		if (add_backing(blk, cfg, &h, err) < 0)
			return err->num;
	if (cfg->n_base_fds > 0 && blk->n_layers != cfg->n_base_fds + 1)
		return err_set(err, ERR_INVALID, "qcow2 image '%s': %u files came to be behind it, it has %u",
			       blk->path, cfg->n_base_fds, blk->n_layers - 1);
	blk->bytes = blk->layers[0].bytes;
	return 0;
}

void blk_close_layers(struct blk *blk)
{
	for (unsigned i = 0; i < blk->n_layers; i++) {
		struct layer *l = &blk->layers[i];
		qcow2_free(l->qcow2);
		for (unsigned k = 0; i > 0 && k < 2; k++)
			if ((k ? l->lock_fd : l->fd) >= 0)
				close(k ? l->lock_fd : l->fd);
		free(l->path);
	}
	free(steal_ptr(&blk->layers));
	blk->n_layers = 0;
}

/* As qcow2_map() of one layer; behind its end there are zeroes. */
static int map_layer(const struct layer *l, uint64_t off, uint64_t len, struct qcow2_run *ret)
{
	uint64_t rest = off < l->bytes ? l->bytes - off : 0;

	if (rest == 0) {
		*ret = (struct qcow2_run){ .kind = QCOW2_ZERO, .len = len };
		return 0;
	}
	len = len < rest ? len : rest;
	if (l->qcow2)
		return qcow2_map(l->qcow2, off, len, ret);
	*ret = (struct qcow2_run){ .kind = QCOW2_DATA, .at = off, .len = len, .shared = true };
	return 0;
}

int blk_map(struct blk *blk, unsigned first, uint64_t off, uint64_t len, struct qcow2_run *ret, unsigned *ret_layer)
{
	*ret = (struct qcow2_run){ .kind = QCOW2_ABSENT, .len = len };
	for (unsigned i = first; i < blk->n_layers && ret->kind == QCOW2_ABSENT; i++) {
		int r = map_layer(&blk->layers[i], off, ret->len, ret);
		if (r < 0)
			return r;
		*ret_layer = i;
	}
	if (ret->kind == QCOW2_ABSENT)
		ret->kind = QCOW2_ZERO;
	return 0;
}
