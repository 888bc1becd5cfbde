// SPDX-License-Identifier: Apache-2.0
/* Goes through the indexes of a layout until one manifest is left. */
#include "forkd/build/layout.h"

#include <errno.h>
#include <string.h>

#include "common/io.h"
#include "forkd/build/limits.h"

#define LAYOUT_VERSION "1.0.0"
enum { NAMES_BYTES = 600 }; /* of what is listed in a message */

struct search {
	int dir_fd;
	const struct layout_wish *wish;
	struct descriptor found; /* strings on the heap; digest NULL: none yet */
	unsigned n_indexes;
	char refs[NAMES_BYTES], platforms[NAMES_BYTES], unknown[160];
};

struct layout_mark {
	char *imageLayoutVersion;
};
static const struct field mark_fields[] = {
	F(struct layout_mark, imageLayoutVersion, .flags = F_REQUIRED),
	F_END,
};

/* A file of the layout that is no blob, as text. */
static int read_plain(int dir_fd, const char *name, char **ret_text, uint64_t *ret_len, struct err *err)
{
	uint64_t size;

	autoclose int fd = blob_open_plain(dir_fd, name, &size, err);
	if (fd < 0)
		return err_wrap(err, "this is no OCI layout");
	if (size > OCI_JSON_MAX)
		return err_set(err, ERR_INVALID, "%s: %llu bytes, more than %d", name, (unsigned long long)size,
			       OCI_JSON_MAX);
	autofree char *text = malloc(size + 1);
	ssize_t n = text ? io_read(fd, text, size, 0) : -ENOMEM;
	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read %s", name);
	text[n] = '\0';
	*ret_len = (uint64_t)n;
	*ret_text = steal_ptr(&text);
	return 0;
}

static int check_mark(int dir_fd, struct err *err)
{
	autofree char *text = NULL;
	autojson struct json json = {};
	struct layout_mark mark = {};
	uint64_t len = 0;

	if (read_plain(dir_fd, "oci-layout", &text, &len, err) < 0)
		return err->num;
	if (json_parse(&json, text, len, err) < 0)
		return err_wrap(err, "oci-layout is no JSON");
	if (fields_load(mark_fields, &mark, json.nodes, "oci-layout", err) < 0)
		return err->num;
	int r = strcmp(mark.imageLayoutVersion, LAYOUT_VERSION) == 0
			? 0
			: err_set(err, ERR_INVALID, "oci-layout: imageLayoutVersion '%.40s' is not " LAYOUT_VERSION,
				  mark.imageLayoutVersion);
	fields_free(mark_fields, &mark);
	return r;
}

static bool same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

/* Adds to what a message lists, once. */
static void note(char list[NAMES_BYTES], const char *text)
{
	size_t n = strlen(list);

	if (!strstr(list, text))
		snprintf(list + n, NAMES_BYTES - n, "%s%s", n ? ", " : "", text);
}

static bool is_named(const struct search *s, const struct oci_ref *ref)
{
	return !s->wish->ref || same(ref->annotations.ref_name, s->wish->ref) ||
	       same(ref->annotations.full_name, s->wish->ref);
}

static bool fits(struct search *s, const struct oci_platform *p)
{
	const struct layout_wish *wish = s->wish;
	char text[120];

	if (!p || !p->os || !p->architecture)
		return true; /* the configuration will say */
	snprintf(text, sizeof(text), "%.30s/%.30s%s%.30s", p->os, p->architecture, p->variant ? "/" : "",
		 p->variant ? p->variant : "");
	note(s->platforms, text);
	return same(p->os, wish->os) && same(p->architecture, wish->architecture) &&
	       (!wish->variant || same(p->variant, wish->variant));
}

static int take(struct search *s, const struct oci_ref *ref, unsigned depth, struct err *err)
{
	if (s->found.digest && (depth > 0 || same(s->found.digest, ref->digest)))
		return 0; /* the first one of an index is meant */
	if (s->found.digest)
		return err_set(err, ERR_INVALID,
			       "the layout has more than one image: say which by --ref; those there are %s",
			       s->refs[0] ? s->refs : "without names");
	s->found = (struct descriptor){ strdup(ref->mediaType), strdup(ref->digest), ref->size };
	if (!s->found.mediaType || !s->found.digest)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read an index");
	return 0;
}

static int search_index(struct search *s, const struct oci_index *index, unsigned depth, struct err *err);

static int search_nested(struct search *s, const struct oci_ref *ref, unsigned depth, struct err *err)
{
	const struct descriptor d = { ref->mediaType, ref->digest, ref->size };
	struct oci_index index __attribute__((cleanup(oci_index_free))) = {};
	autofree char *text = NULL;

	if (depth > OCI_DEPTH_MAX)
		return err_set(err, ERR_INVALID, "%.80s: more than %d indexes inside each other", ref->digest,
			       OCI_DEPTH_MAX);
	if (++s->n_indexes > OCI_INDEXES_MAX)
		return err_set(err, ERR_INVALID, "%.80s: the layout has more than %d indexes", ref->digest,
			       OCI_INDEXES_MAX);
	if (blob_text(s->dir_fd, &d, OCI_JSON_MAX, &text, err) < 0 ||
	    oci_index_read(text, d.size, d.digest, &index, err) < 0)
		return err_wrap(err, "index");
	return search_index(s, &index, depth, err);
}

static int search_ref(struct search *s, const struct oci_ref *ref, unsigned depth, struct err *err)
{
	const bool fit = fits(s, ref->platform);

	switch (oci_kind_of(ref->mediaType, NULL)) {
	case OCI_INDEX:
		return search_nested(s, ref, depth + 1, err);
	case OCI_MANIFEST:
		return fit ? take(s, ref, depth, err) : 0;
	default:
		snprintf(s->unknown, sizeof(s->unknown), "%.150s", ref->mediaType);
		return 0;
	}
}

static int search_index(struct search *s, const struct oci_index *index, unsigned depth, struct err *err)
{
	for (uint32_t i = 0; i < index->n_manifests; i++) {
		const struct oci_ref *ref = &index->manifests[i];
		if (depth == 0 && ref->annotations.ref_name)
			note(s->refs, ref->annotations.ref_name);
		else if (depth == 0 && ref->annotations.full_name)
			note(s->refs, ref->annotations.full_name);
	}
	for (uint32_t i = 0; i < index->n_manifests; i++) {
		const struct oci_ref *ref = &index->manifests[i];
		if ((depth > 0 || is_named(s, ref)) && search_ref(s, ref, depth, err) < 0)
			return err->num;
	}
	return 0;
}

static int not_found(const struct search *s, struct err *err)
{
	const struct layout_wish *w = s->wish;

	if (s->platforms[0])
		return err_set(err, ERR_INVALID, "the layout has no image for %s/%s%s%s: those there are for %s", w->os,
			       w->architecture, w->variant ? "/" : "", w->variant ? w->variant : "", s->platforms);
	if (s->unknown[0])
		return err_set(err, ERR_INVALID, "index.json: media type '%s' is neither a manifest's nor an index's",
			       s->unknown);
	if (w->ref)
		return err_set(err, ERR_INVALID, "the layout has no image called '%.80s': those there are %s", w->ref,
			       s->refs[0] ? s->refs : "without names");
	return err_set(err, ERR_INVALID, "index.json: there is no manifest");
}

static int find_manifest(struct search *s, struct err *err)
{
	struct oci_index index __attribute__((cleanup(oci_index_free))) = {};
	autofree char *text = NULL;
	uint64_t len = 0;

	if (read_plain(s->dir_fd, "index.json", &text, &len, err) < 0 ||
	    oci_index_read(text, len, "index.json", &index, err) < 0)
		return err->num;
	if (search_index(s, &index, 0, err) < 0)
		return err->num;
	return s->found.digest ? 0 : not_found(s, err);
}

static int check_layers(const struct oci_manifest *m, const char *what, struct err *err)
{
	if (m->n_layers == 0)
		return err_set(err, ERR_INVALID, "manifest %s: there are no layers", what);
	if (oci_kind_of(m->config.mediaType, NULL) != OCI_CONFIG)
		return err_set(err, ERR_INVALID, "manifest %s: config.mediaType '%.120s' is not an image's", what,
			       m->config.mediaType);
	for (uint32_t i = 0; i < m->n_layers; i++)
		if (oci_kind_of(m->layers[i].mediaType, NULL) != OCI_LAYER)
			return err_set(
				err, ERR_INVALID,
				"manifest %s: layers[%u].mediaType '%.120s' is not a layer's, or packed in an unknown way",
				what, i, m->layers[i].mediaType);
	return 0;
}

static int read_config(struct layout *layout, const struct layout_wish *wish, struct err *err)
{
	const struct descriptor *d = &layout->manifest.config;
	struct oci_config *c = &layout->config;
	autofree char *text = NULL;

	if (blob_text(layout->dir_fd, d, OCI_JSON_MAX, &text, err) < 0 ||
	    oci_config_read(text, d->size, d->digest, c, err) < 0)
		return err_wrap(err, "configuration");
	if (!same(c->os, wish->os) || !same(c->architecture, wish->architecture))
		return err_set(err, ERR_INVALID, "configuration %s: the image is for %.30s/%.30s, not for %s/%s",
			       d->digest, c->os, c->architecture, wish->os, wish->architecture);
	return 0;
}

static int read_image(struct layout *layout, const struct descriptor *d, struct err *err)
{
	autofree char *text = NULL;

	if (blob_text(layout->dir_fd, d, OCI_JSON_MAX, &text, err) < 0 ||
	    oci_manifest_read(text, d->size, d->digest, &layout->manifest, err) < 0)
		return err_wrap(err, "manifest");
	snprintf(layout->manifest_digest, sizeof(layout->manifest_digest), "%s", d->digest);
	return check_layers(&layout->manifest, d->digest, err);
}

int layout_open(struct layout *layout, int dir_fd, const struct layout_wish *wish, struct err *err)
{
	struct search s = { .dir_fd = dir_fd, .wish = wish };

	layout->dir_fd = dir_fd;
	int r = check_mark(dir_fd, err);
	if (r == 0)
		r = find_manifest(&s, err);
	if (r == 0)
		r = read_image(layout, &s.found, err);
	if (r == 0)
		r = read_config(layout, wish, err);
	free(s.found.mediaType);
	free(s.found.digest);
	return r;
}

void layout_close(struct layout *layout)
{
	if (layout->dir_fd >= 0)
		close(layout->dir_fd);
	oci_manifest_free(&layout->manifest);
	oci_config_free(&layout->config);
	layout->dir_fd = -1;
}
