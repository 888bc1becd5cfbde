// SPDX-License-Identifier: Apache-2.0
/* The two passes, and the report. */
#include "forkd/build/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "forkd/build/directory.h"
#include "forkd/build/ext4.h"
#include "forkd/build/layer.h"
#include "forkd/build/limits.h"

struct source {
	const struct image_wish *wish;
	int fd;               /* of the archive or the directory */
	struct layout layout; /* of an OCI image */
	char digest[BLOB_DIGEST]; /* of the manifest, the archive, or all that the directory has; "" before the first pass */
	uint64_t read_max;
	uint64_t dropped_xattrs; /* of the last pass */
};

static void close_source(struct source *s)
{
	if (s->fd >= 0)
		close(s->fd);
	layout_close(&s->layout);
}

static int open_source(struct source *s, struct err *err)
{
	const char *path = s->wish->path;
	const int flags = s->wish->source == IMAGE_TAR ? O_NONBLOCK | O_NOCTTY : O_DIRECTORY;

	int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
	if (fd < 0)
		return err_sys(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_INVALID, "open '%s'", path);
	if (s->wish->source != IMAGE_OCI) {
		s->fd = fd;
		return 0;
	}
	if (layout_open(&s->layout, fd, &s->wish->layout, err) < 0)
		return err_wrap(err, "'%s'", path);
	memcpy(s->digest, s->layout.manifest_digest, sizeof(s->digest));
	return 0;
}

/* ---- one pass ---- */

static int pass_oci(struct source *s, struct layer_budget *budget, const struct listener *l, struct err *err)
{
	const struct oci_manifest *m = &s->layout.manifest;

	for (uint32_t i = 0; i < m->n_layers; i++) {
		autoblob struct blob blob = BLOB_NONE;
		int pack = LAYER_PLAIN;
		(void)oci_kind_of(m->layers[i].mediaType, &pack);
		l->layer(l->arg, true);
		if (blob_open(&blob, s->layout.dir_fd, &m->layers[i], err) < 0 ||
		    layer_read(&blob, (enum layer_pack)pack, budget, l, err) < 0 || blob_finish(&blob, NULL, err) < 0)
			return err_wrap(err, "layer %u of %u", i + 1, m->n_layers);
	}
	return 0;
}

static int pass_tar(struct source *s, struct layer_budget *budget, const struct listener *l, struct err *err)
{
	autoblob struct blob blob = BLOB_NONE;
	enum layer_pack pack;

	int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "dup");
	l->layer(l->arg, false);
	if (blob_open_file(&blob, fd, s->wish->path, s->digest, err) < 0 || layer_sniff(&blob, &pack, err) < 0 ||
	    layer_read(&blob, pack, budget, l, err) < 0)
		return err->num;
	return blob_finish(&blob, s->digest, err);
}

static int pass_dir(struct source *s, const struct listener *l, struct err *err)
{
	char digest[BLOB_DIGEST];

	if (directory_read(s->fd, l, digest, err) < 0)
		return err->num;
	if (s->digest[0] && strcmp(s->digest, digest) != 0)
		return err_set(err, ERR_INVALID, "'%s' changed while it was read", s->wish->path);
	memcpy(s->digest, digest, sizeof(digest));
	return 0;
}

static int pass(struct source *s, const struct listener *l, struct err *err)
{
	struct layer_budget budget = { s->read_max, s->read_max, 0 };
	int r;

	if (s->wish->source == IMAGE_OCI)
		r = pass_oci(s, &budget, l, err);
	else if (s->wish->source == IMAGE_TAR)
		r = pass_tar(s, &budget, l, err);
	else
		r = pass_dir(s, l, err);
	s->dropped_xattrs = budget.dropped_xattrs;
	return r;
}

/* ---- the first pass: what there is ---- */

static void first_layer(void *arg, bool has_whiteouts)
{
	tree_next_layer(arg, has_whiteouts);
}

static int first_entry(void *arg, const struct image_entry *e, struct err *err)
{
	return tree_apply(arg, e, err);
}

/* ---- the second pass: contents of those files that are left ---- */

struct writer {
	struct tree *tree;
	struct ext4 *ext4;
	uint64_t next; /* the number of the next content */
};

static void second_layer(void *arg, bool has_whiteouts)
{
	(void)arg;
	(void)has_whiteouts;
}

static int second_entry(void *arg, const struct image_entry *e, struct err *err)
{
	struct writer *w = arg;

	if (!entry_has_content(e))
		return 0;
	uint64_t n = w->next++;
	struct node *node = n < w->tree->n_contents ? w->tree->contents[n] : NULL;
	if (!node)
		return 0;
	if (node->size != e->size)
		return err_set(err, ERR_INVALID, "'%s' changed while it was read", e->path);
	return ext4_file_begin(w->ext4, node, err) < 0 ? err_wrap(err, "'%s'", e->path) : 1;
}

static int second_data(void *arg, const void *bytes, uint64_t len, uint64_t off, struct err *err)
{
	const struct writer *w = arg;

	return ext4_file_data(w->ext4, bytes, len, off, err);
}

static int second_end(void *arg, struct err *err)
{
	const struct writer *w = arg;

	return ext4_file_end(w->ext4, err);
}

static int write_image(struct source *s, struct tree *tree, const struct ext4_plan *plan, int out_fd, struct err *err)
{
	autoext4 struct ext4 ext4 = {};
	struct writer w = { .tree = tree, .ext4 = &ext4 };
	const struct listener l = {
		.arg = &w, .layer = second_layer, .entry = second_entry, .data = second_data, .end = second_end
	};

	if (ext4_create(&ext4, out_fd, plan, err) < 0 || ext4_write_tree(&ext4, tree, err) < 0 || pass(s, &l, err) < 0)
		return err->num;
	return ext4_finish(&ext4, err);
}

/* ---- the report ---- */

static void put_string(struct strbuf *out, const char *key, const char *text)
{
	strbuf_printf(out, ",\"%s\":", key);
	strbuf_json(out, text, strlen(text));
}

static void put_layers(struct strbuf *out, const struct oci_manifest *m)
{
	strbuf_puts(out, ",\"layers\":[");
	for (uint32_t i = 0; i < m->n_layers; i++) {
		strbuf_puts(out, i ? "," : "");
		strbuf_json(out, m->layers[i].digest, strlen(m->layers[i].digest));
	}
	strbuf_puts(out, "]");
}

static int report_on(const struct source *s, const struct tree *tree, const struct ext4_plan *plan, struct strbuf *out,
		     struct err *err)
{
	static const char *const sources[] = { [IMAGE_OCI] = "oci", [IMAGE_TAR] = "tar", [IMAGE_DIR] = "dir" };

	strbuf_printf(out, "{\"source\":\"%s\"", sources[s->wish->source]);
	put_string(out, "digest", s->digest);
	strbuf_printf(out, ",\"bytes\":%llu,\"data_bytes\":%llu,\"entries\":%llu,\"inodes\":%llu",
		      (unsigned long long)plan->bytes, (unsigned long long)tree->data_bytes,
		      (unsigned long long)tree->n_entries, (unsigned long long)plan->inodes);
	strbuf_printf(out, ",\"void_whiteouts\":%llu,\"dropped_xattrs\":%llu", (unsigned long long)tree->void_whiteouts,
		      (unsigned long long)s->dropped_xattrs);
	if (s->wish->source == IMAGE_OCI) {
		put_string(out, "config_digest", s->layout.manifest.config.digest);
		put_layers(out, &s->layout.manifest);
		strbuf_puts(out, ",\"config\":");
		image_config_save(&s->layout.config.config, out);
	}
	strbuf_puts(out, "}");
	return out->failed ? err_num(err, ERR_INTERNAL, ENOMEM, "report") : 0;
}

int image_build(const struct image_wish *wish, int out_fd, struct strbuf *report, struct err *err)
{
	struct source s __attribute__((cleanup(close_source))) = { .wish = wish, .fd = -1, .layout = LAYOUT_NONE };
	autotree struct tree tree = {};
	struct ext4_plan plan;
	const uint64_t most = wish->bytes ? wish->bytes : IMAGE_BYTES_UNASKED;
	const struct listener first = { .arg = &tree, .layer = first_layer, .entry = first_entry };

	s.read_max = IMAGE_READ_MAX(most);
	if (tree_init(&tree, most, err) < 0 || open_source(&s, err) < 0 || pass(&s, &first, err) < 0)
		return err->num;
	if (blob_digest_bytes(s.digest, plan.seed, err) < 0 || ext4_plan(&tree, wish->bytes, &plan, err) < 0 ||
	    write_image(&s, &tree, &plan, out_fd, err) < 0)
		return err->num;
	return report_on(&s, &tree, &plan, report, err);
}
