// SPDX-License-Identifier: Apache-2.0
/* What images there are, what each of them is, and who refers to them. */
#include "store/images.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/fs.h"
#include "common/log.h"
#include "store/store_internal.h"

struct image_ref {
	struct image_ref *next;
	unsigned count;
	char id[STORE_ID_CHARS + 1];
	char backing[STORE_ID_CHARS + 1]; /* "": none */
};

const char *const store_image_types[] = { "raw", "qcow2", NULL };
static const char image_json[] = "image.json", data_name[] = "data";
enum { IMAGE_JSON_MAX_BYTES = 64 << 20 };

const struct field store_image_fields[] = {
	F(struct store_image, format, .flags = F_REQUIRED),
	F_ENUM(struct store_image, type, store_image_types, .flags = F_REQUIRED),
	F(struct store_image, bytes, .flags = F_REQUIRED, .min = 1, .max = INT64_MAX),
	F(struct store_image, backing, .flags = F_NULL),
	F_OBJ(struct store_image, data, store_file_fields, .flags = F_REQUIRED),
	F_END,
};

/* ---- image.json ---- */

static bool is_id(const char *text)
{
	return strspn(text, "0123456789abcdef") == STORE_ID_CHARS && !text[STORE_ID_CHARS];
}

int image_write(int dir_fd, const struct store_image *image, struct err *err)
{
	autostrbuf struct strbuf out = {};

	fields_save(store_image_fields, image, &out);
	strbuf_putc(&out, '\n');
	if (out.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write %s", image_json);
	return layout_write_file(dir_fd, image_json, &out, err);
}

static int check_image(const struct store_image *image, struct err *err)
{
	if (image->format != STORE_FORMAT)
		return err_set(err, ERR_INTERNAL, "%s has format %u, this program knows %d", image_json, image->format,
			       STORE_FORMAT);
	if (strcmp(image->data.name, data_name) != 0 || (image->backing && !is_id(image->backing)))
		return err_set(err, ERR_INTERNAL, "%s names '%.80s' behind '%.80s'", image_json,
			       image->backing ? image->backing : "nothing", image->data.name);
	return sealed_check_digests(&image->data, image_json, err);
}

static int read_image(int dir_fd, struct store_image *ret, struct err *err)
{
	autofree char *text = NULL;
	autojson struct json json = {};
	size_t len = 0;

	if (layout_read_file(dir_fd, image_json, IMAGE_JSON_MAX_BYTES, &text, &len, err) < 0)
		return err->num;
	if (json_parse(&json, text, len, err) < 0)
		return err_wrap(err, "%s", image_json);
	if (fields_load(store_image_fields, ret, &json.nodes[0], image_json, err) < 0)
		return err->num;
	return check_image(ret, err);
}

/* Opens the directory of an image, and reads what it is. */
static int open_image(struct store *s, const char *id, int *ret_dir_fd, struct store_image *ret, struct err *err)
{
	struct store_image image;

	if (!is_id(id))
		return err_set(err, ERR_INTERNAL, "'%.80s' is no image's id", id);
	autoclose int dir_fd = layout_open_dir(s->images_fd, id);
	if (dir_fd < 0)
		return err_num(err, ERR_INTERNAL, -dir_fd, "open image %s", id);
	fields_init(store_image_fields, &image);
	if (read_image(dir_fd, &image, err) < 0) {
		fields_free(store_image_fields, &image);
		err->code = ERR_INTERNAL;
		return err_wrap(err, "image %s is damaged", id);
	}
	*ret = image;
	*ret_dir_fd = steal_fd(&dir_fd);
	return 0;
}

int store_image_read(struct store *s, const char *id, struct store_image *ret, struct err *err)
{
	autoclose int dir_fd = -1;

	return open_image(s, id, &dir_fd, ret, err);
}

static void to_layer(const char *id, const struct store_image *image, struct store_layer *ret)
{
	*ret = (struct store_layer){ .type = image->type,
				     .bytes = image->bytes,
				     .data_bytes = image->data.bytes,
				     .inode = image->data.inode,
				     .mtime_ns = image->data.mtime_ns,
				     .ctime_ns = image->data.ctime_ns };
	snprintf(ret->id, sizeof(ret->id), "%s", id);
}

int store_chain_read(struct store *s, const char *id, struct store_chain *ret, struct err *err)
{
	struct store_chain chain = {};
	char next[STORE_ID_CHARS + 1];

	snprintf(next, sizeof(next), "%s", id);
	do {
		struct store_image image;
		if (chain.n == STORE_CHAIN_MAX)
			return err_set(err, ERR_INTERNAL, "image %s has more than %d images behind it", id,
				       STORE_CHAIN_MAX - 1);
		if (store_image_read(s, next, &image, err) < 0)
			return err->num;
		to_layer(next, &image, &chain.layers[chain.n++]);
		snprintf(next, sizeof(next), "%s", image.backing ? image.backing : "");
		fields_free(store_image_fields, &image);
	} while (next[0]);
	*ret = chain;
	return 0;
}

int store_layer_open(struct store *s, const struct store_layer *layer, int *ret_fd, struct err *err)
{
	char name[] = "data", path[STORE_ID_CHARS + sizeof("/data")];
	const struct store_file sealed = { .name = name,
					   .bytes = layer->data_bytes,
					   .inode = layer->inode,
					   .mtime_ns = layer->mtime_ns,
					   .ctime_ns = layer->ctime_ns };

	snprintf(path, sizeof(path), "%s/data", layer->id);
	autoclose int fd = openat(s->images_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "open image %s", layer->id);
	if (sealed_check_open(fd, &sealed, err) < 0)
		return err_wrap(err, "image %s is damaged", layer->id);
	*ret_fd = steal_fd(&fd);
	return 0;
}

static int check_image_data(struct store *s, const char *id, check_file_fn *check, struct err *err)
{
	autoclose int dir_fd = -1;
	struct store_image image;

	if (open_image(s, id, &dir_fd, &image, err) < 0)
		return err->num;
	int r = check(dir_fd, &image.data, err);
	fields_free(store_image_fields, &image);
	return r < 0 ? err_wrap(err, "image %s is damaged", id) : 0;
}

/* ---- references ---- */

static struct image_ref **find_locked(struct store *s, const char *id)
{
	struct image_ref **at = &s->images;

	while (*at && strcmp((*at)->id, id) != 0)
		at = &(*at)->next;
	return at;
}

static int ref_locked(struct store *s, const char *id, struct err *err)
{
	struct image_ref *image = *find_locked(s, id);

	if (!image)
		return err_set(err, ERR_INTERNAL, "the store has no image %.80s", id);
	image->count++;
	return 0;
}

static int add_locked(struct store *s, const char *id, const char *backing, struct err *err)
{
	struct image_ref *image = calloc(1, sizeof(*image));

	if (!image)
		return err_num(err, ERR_INTERNAL, ENOMEM, "keep image %s", id);
	snprintf(image->id, sizeof(image->id), "%s", id);
	snprintf(image->backing, sizeof(image->backing), "%s", backing ? backing : "");
	image->next = s->images;
	s->images = image;
	return 0;
}

/* Only root may move a directory that it may not write. */
static int move_to_trash(struct store *s, const char *id, char trash[RANDOM_NAME], struct err *err)
{
	autoclose int dir_fd = layout_open_dir(s->images_fd, id);

	if (dir_fd < 0 || fchmod(dir_fd, 0700) < 0)
		return err_num(err, ERR_INTERNAL, dir_fd < 0 ? -dir_fd : errno, "open image %s", id);
	if (layout_random_name(trash, err) < 0)
		return err->num;
	if (renameat(s->images_fd, id, s->trash_fd, trash) < 0)
		return err_sys(err, ERR_INTERNAL, "remove image %s", id);
	return 0;
}

/* Directories that are no images any more. They are emptied without the lock. */
struct removed {
	char trash[STORE_CHAIN_MAX + 1][RANDOM_NAME];
	unsigned n;
};

static void remove_locked(struct store *s, struct image_ref **at, struct removed *removed)
{
	struct image_ref *image = *at;
	char line[ERR_MSG_BYTES];
	struct err err = {};

	if (move_to_trash(s, image->id, removed->trash[removed->n], &err) < 0)
		log_warn("store '%s': left behind: %s", s->root, err_line(&err, line, sizeof(line)));
	else
		removed->n++;
	*at = image->next;
	free(image);
}

static void empty_trash(struct store *s, const struct removed *removed)
{
	for (unsigned i = 0; i < removed->n; i++)
		layout_remove_trash(s, removed->trash[i]);
}

/* Removes what nothing refers to, beginning with the image `id`. */
static void drop_locked(struct store *s, const char *id, struct removed *removed)
{
	char next[STORE_ID_CHARS + 1];

	snprintf(next, sizeof(next), "%s", id);
	while (next[0] && !s->images_unsure && removed->n <= STORE_CHAIN_MAX) {
		struct image_ref **at = find_locked(s, next), *image = *at;
		if (!image || image->count > 0)
			return;
		memcpy(next, image->backing, sizeof(next));
		remove_locked(s, at, removed);
		struct image_ref *behind = next[0] ? *find_locked(s, next) : NULL;
		if (behind)
			behind->count--;
	}
}

int store_image_ref(struct store *s, const char *id, struct err *err)
{
	pthread_mutex_lock(&s->mutex);
	int r = ref_locked(s, id, err);
	pthread_mutex_unlock(&s->mutex);
	return r;
}

void store_image_unref(struct store *s, const char *id)
{
	struct removed removed = {};

	pthread_mutex_lock(&s->mutex);
	struct image_ref *image = *find_locked(s, id);
	if (image && image->count > 0) {
		image->count--;
		drop_locked(s, id, &removed);
	}
	pthread_mutex_unlock(&s->mutex);
	empty_trash(s, &removed);
}

/* ---- all of them ---- */

int image_check_chain(struct store *s, const char *id, check_file_fn *check, struct err *err)
{
	struct store_chain chain;

	if (store_chain_read(s, id, &chain, err) < 0)
		return err->num;
	for (unsigned i = 0; i < chain.n; i++)
		if (check_image_data(s, chain.layers[i].id, check, err) < 0)
			return err->num;
	return 0;
}

static int publish_locked(struct store *s, int parent_fd, const char *staged, const char *id, const char *backing,
			  struct err *err)
{
	char fs[FS_NAME];

	if (*find_locked(s, id)) {
		if (check_image_data(s, id, sealed_check, err) < 0)
			return err->num; /* the new one is not given up for it */
		return ref_locked(s, id, err) < 0 ? err->num : 1;
	}
	if (backing && ref_locked(s, backing, err) < 0)
		return err->num;
	if (add_locked(s, id, backing, err) < 0)
		return err->num;
	s->images->count = 1;
	int r = fs_rename_new(parent_fd, staged, s->images_fd, id);
	if (r == 0)
		return 0;
	struct image_ref *image = s->images;
	s->images = image->next;
	free(image);
	if (backing)
		(*find_locked(s, backing))->count--;
	return err_num(err, ERR_INTERNAL, -r, "publish image %s on %s", id, fs_name(s->images_fd, fs));
}

int images_publish(struct store *s, int parent_fd, const char *staged, const char *id, const char *backing,
		   struct err *err)
{
	pthread_mutex_lock(&s->mutex);
	int r = publish_locked(s, parent_fd, staged, id, backing, err);
	pthread_mutex_unlock(&s->mutex);
	return r;
}

/* ---- at the store's start, before there are other threads ---- */

/* What an image or a template that cannot be read refers to is not known, so all images stay. */
static void is_unsure(struct store *s, struct err *err)
{
	char line[ERR_MSG_BYTES];

	if (!s->images_unsure)
		log_warn("store '%s': no image of a disk is removed: %s", s->root, err_line(err, line, sizeof(line)));
	s->images_unsure = true;
	*err = (struct err){};
}

static int load_one(struct store *s, const char *id, struct err *err)
{
	struct store_image image;

	if (store_image_read(s, id, &image, err) < 0) {
		is_unsure(s, err);
		return 0;
	}
	int r = add_locked(s, id, image.backing, err);
	fields_free(store_image_fields, &image);
	return r;
}

/* A disk whose image is missing takes nothing from the template's others. */
static void count_template(struct store *s, const struct manifest *m)
{
	for (uint32_t i = 0; i < images_places(m); i++) {
		struct err err = {};
		if (images_at(m, i) && store_image_ref(s, images_at(m, i), &err) < 0)
			log_warn("template '%s': %s", m->name, err.msg);
	}
}

static void count_templates(struct store *s, char **names)
{
	for (; *names; names++) {
		struct manifest m;
		struct err err = {};
		if (store_manifest(s, *names, &m, &err) < 0) {
			is_unsure(s, &err);
			continue;
		}
		count_template(s, &m);
		fields_free(manifest_fields, &m);
	}
}

int images_load(struct store *s, struct err *err)
{
	autodir DIR *d = layout_list(s->images_fd);
	struct dirent *e;
	char **names;

	if (!d)
		return err_sys(err, ERR_INTERNAL, "list '%s/images'", s->root);
	while ((e = layout_next(d)))
		if (is_id(e->d_name) && load_one(s, e->d_name, err) < 0)
			return err->num;
	if (errno)
		return err_sys(err, ERR_INTERNAL, "list '%s/images'", s->root);
	for (struct image_ref *image = s->images; image; image = image->next) {
		struct image_ref *behind = image->backing[0] ? *find_locked(s, image->backing) : NULL;
		if (behind)
			behind->count++;
	}
	if (store_names(s, &names, err) < 0)
		return err->num;
	count_templates(s, names);
	store_names_free(names);
	return 0;
}

void images_collect(struct store *s)
{
	struct removed removed;

	do {
		removed.n = 0;
		pthread_mutex_lock(&s->mutex);
		struct image_ref *image = s->images;
		while (image && image->count > 0)
			image = image->next;
		if (image)
			drop_locked(s, image->id, &removed);
		pthread_mutex_unlock(&s->mutex);
		empty_trash(s, &removed);
	} while (removed.n > 0);
}

void images_forget(struct store *s)
{
	while (s->images) {
		struct image_ref *image = s->images;
		s->images = image->next;
		free(image);
	}
}
