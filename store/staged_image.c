// SPDX-License-Identifier: Apache-2.0
/*
 * An image until it is published: filled by an import or by a VM process, sealed, renamed into its
 * place. The digest of what it is becomes its name, so what the store has already is not kept twice.
 */
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/log.h"
#include "store/store_internal.h"

struct staged_image {
	struct store *store;
	struct store_image image;
	int parent_fd, dir_fd, fd;
	char dir_name[RANDOM_NAME]; /* "": not made, or not to be removed */
};

static const char data_name[] = "data";

static void staged_image_done(struct staged_image *s)
{
	auto_close_p(&s->fd);
	auto_close_p(&s->dir_fd);
	fields_free(store_image_fields, &s->image);
}

void staged_image_discard(struct staged_image *s)
{
	if (!s)
		return;
	if (s->dir_name[0])
		layout_unstage(s->store, s->dir_name);
	staged_image_done(s);
	free(s);
}

int store_image_stage(struct store *store, struct staged_image **ret, struct err *err)
{
	struct staged_image *s = calloc(1, sizeof(*s));

	if (!s)
		return err_num(err, ERR_INTERNAL, ENOMEM, "stage an image");
	s->store = store;
	s->parent_fd = store->staging_fd;
	s->dir_fd = s->fd = -1;
	fields_init(store_image_fields, &s->image);
	if (layout_make_dir(store->staging_fd, s->dir_name, &s->dir_fd, err) >= 0) {
		s->fd = openat(s->dir_fd, data_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (s->fd >= 0) {
			*ret = s;
			return 0;
		}
		err_sys(err, ERR_INTERNAL, "create '%s/staging/%s/%s'", store->root, s->dir_name, data_name);
	}
	staged_image_discard(s);
	return err->num;
}

int staged_image_fd(struct staged_image *s)
{
	fields_free(store_file_fields, &s->image.data); /* digests of a copy say nothing of what is written now */
	return s->fd;
}

static int name_data(struct staged_image *s, struct err *err)
{
	s->image.data.name = strdup(data_name);
	return s->image.data.name ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "seal an image");
}

/* A longer one has too many digests to keep, and its image.json would not be read again. */
static int check_length(uint64_t bytes, const char *name, struct err *err)
{
	if (bytes == 0)
		return err_set(err, ERR_INVALID, "'%s' is empty", name);
	if (bytes > STORE_FILE_MAX_BYTES)
		return err_set(err, ERR_INVALID, "'%s' has %llu bytes, an image of a disk has %llu at most", name,
			       (unsigned long long)bytes, STORE_FILE_MAX_BYTES);
	return 0;
}

int staged_image_import(struct staged_image *s, int fd, uint64_t bytes, const char *name, struct err *err)
{
	struct store_file *f = &s->image.data;

	if (check_length(bytes, name, err) < 0)
		return err->num;
	if (ioctl(s->fd, FICLONE, fd) == 0)
		return 0; /* the file is read when it is sealed */
	f->bytes = bytes;
	return name_data(s, err) < 0 || digest_file(fd, s->fd, f, err) < 0 ? err_wrap(err, "copy '%s'", name) : 0;
}

int staged_image_begin(struct staged_image *s, const struct store_chain *behind, struct err *err)
{
	return overlay_begin(s->fd, behind, err);
}

/* ---- seal ---- */

static int hash(gnutls_hash_hd_t h, const char *text, struct err *err)
{
	int r = gnutls_hash(h, text, strlen(text));

	if (r == 0)
		r = gnutls_hash(h, "\n", 1);
	return r < 0 ? err_set(err, ERR_INTERNAL, "SHA-256: %s", gnutls_strerror(r)) : 0;
}

static int hash_image(gnutls_hash_hd_t h, const struct store_image *image, struct err *err)
{
	char head[128];

	snprintf(head, sizeof(head), "forkd image %u %s %llu %llu", image->format, store_image_types[image->type],
		 (unsigned long long)image->bytes, (unsigned long long)image->data.bytes);
	if (hash(h, head, err) < 0 || hash(h, image->backing ? image->backing : "", err) < 0)
		return err->num;
	for (uint32_t i = 0; i < image->data.n_sha256; i++)
		if (hash(h, image->data.sha256[i], err) < 0)
			return err->num;
	return 0;
}

/* The digest of all that a reader of the image sees. */
static int make_id(const struct store_image *image, char ret_id[STORE_ID_CHARS + 1], struct err *err)
{
	uint8_t sum[STORE_DIGEST_HEX / 2];
	gnutls_hash_hd_t h;

	if (gnutls_hash_init(&h, GNUTLS_DIG_SHA256) < 0)
		return err_set(err, ERR_INTERNAL, "SHA-256 is not there");
	int r = hash_image(h, image, err);
	gnutls_hash_deinit(h, sum);
	for (unsigned i = 0; r == 0 && i < sizeof(sum); i++)
		snprintf(ret_id + (size_t)i * 2, 3, "%02x", sum[i]);
	return r;
}

/* Opens the file anew, for reading alone, since nobody may have it open for writing any more. */
static int close_data(struct staged_image *s, struct store_source *ret, struct err *err)
{
	if (s->fd >= 0)
		close(steal_fd(&s->fd));
	ret->fd = openat(s->dir_fd, data_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (ret->fd < 0 || fstat(ret->fd, &ret->st) < 0)
		return err_sys(err, ERR_INTERNAL, "open an image again");
	if (!S_ISREG(ret->st.st_mode))
		return err_set(err, ERR_INVALID, "the image is no file");
	if (check_length((uint64_t)ret->st.st_size, data_name, err) < 0)
		return err->num;
	return sealed_close_to_others(ret, data_name, err);
}

static int seal_data(struct staged_image *s, struct err *err)
{
	struct store_source in = { .fd = -1 };
	struct store_file *f = &s->image.data;
	int r = close_data(s, &in, err);
	autoclose int fd = in.fd;

	if (r < 0)
		return r;
	if (!f->name) {
		f->bytes = (uint64_t)in.st.st_size;
		if (name_data(s, err) < 0 || digest_file(fd, -1, f, err) < 0)
			return err->num;
	}
	return sealed_note(fd, f, err);
}

static int seal(struct staged_image *s, const struct image_facts *facts, char ret_id[STORE_ID_CHARS + 1],
		struct err *err)
{
	s->image.format = STORE_FORMAT;
	s->image.type = (uint8_t)facts->type;
	s->image.bytes = facts->bytes;
	s->image.backing = facts->backing ? strdup(facts->backing) : NULL;
	if (facts->backing && !s->image.backing)
		return err_num(err, ERR_INTERNAL, ENOMEM, "seal an image");
	(void)unlinkat(s->dir_fd, "image.json", 0); /* of a seal that failed */
	if (seal_data(s, err) < 0 || make_id(&s->image, ret_id, err) < 0 || image_write(s->dir_fd, &s->image, err) < 0)
		return err->num;
	return fsync(s->dir_fd) < 0 ? err_sys(err, ERR_INTERNAL, "write an image to disk") : 0;
}

/* As with templates: the directory stays writable until it is in its place. */
static int settle(struct staged_image *s, struct err *err)
{
	if (fchmod(s->dir_fd, 0500) < 0 || fsync(s->dir_fd) < 0 || fsync(s->store->images_fd) < 0 ||
	    fsync(s->parent_fd) < 0)
		return err_sys(err, ERR_INTERNAL, "publish an image");
	return 0;
}

/* 1: the store has the image already, and the directory is of no use. */
static int publish(struct staged_image *s, const char *id, const char *backing, struct err *err)
{
	struct err unsettled = {};
	char line[ERR_MSG_BYTES];
	int r = images_publish(s->store, s->parent_fd, s->dir_name, id, backing, err);

	if (r == 0 &&
	    settle(s, &unsettled) < 0) /* the image is there, and may be the only copy of what a guest wrote */
		log_warn("store '%s': image %s may not outlast a loss of power: %s", s->store->root, id,
			 err_line(&unsettled, line, sizeof(line)));
	return r;
}

int staged_image_seal(struct staged_image **staged, enum store_image_type type, uint64_t bytes, const char *backing,
		      char ret_id[STORE_ID_CHARS + 1], struct err *err)
{
	struct staged_image *s = *staged;

	if (seal(s, &(struct image_facts){ type, bytes, backing }, ret_id, err) < 0 ||
	    publish(s, ret_id, backing, err) < 0)
		return err->num;
	staged_image_discard(s);
	*staged = NULL;
	return 0;
}

/* ---- a directory that is somewhere else in the store ---- */

static int open_dir(struct store *store, int parent_fd, const char *name, struct staged_image *ret, struct err *err)
{
	*ret = (struct staged_image){ .store = store, .parent_fd = parent_fd, .dir_fd = -1, .fd = -1 };
	fields_init(store_image_fields, &ret->image);
	snprintf(ret->dir_name, sizeof(ret->dir_name), "%s", name);
	ret->dir_fd = layout_open_dir(parent_fd, name);
	return ret->dir_fd < 0 ? err_num(err, ERR_INTERNAL, -ret->dir_fd, "open '%s'", name) : 0;
}

int image_seal_dir(struct store *store, int parent_fd, const char *name, const struct image_facts *facts,
		   char ret_id[STORE_ID_CHARS + 1], struct err *err)
{
	struct staged_image s;
	int r = open_dir(store, parent_fd, name, &s, err);

	if (r == 0)
		r = seal(&s, facts, ret_id, err);
	staged_image_done(&s);
	return r;
}

int image_publish_dir(struct store *store, int parent_fd, const char *name, const char *id, const char *backing,
		      struct err *err)
{
	struct staged_image s;
	struct err left = {};
	char line[ERR_MSG_BYTES];
	int r = open_dir(store, parent_fd, name, &s, err);

	if (r == 0)
		r = publish(&s, id, backing, err);
	if (r == 1 && layout_remove(parent_fd, name, &left) < 0)
		log_warn("store '%s': left behind: %s", store->root, err_line(&left, line, sizeof(line)));
	staged_image_done(&s);
	return r < 0 ? r : 0;
}
