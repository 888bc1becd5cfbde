// SPDX-License-Identifier: Apache-2.0
/*
 * What forkd-image reads of an image. An input that is an object with one member goes to the reader of the documents that the member names:
 * index, manifest, config. Everything else is an archive, packed as its first bytes say, that becomes two layers over each other.
 */
#include "tests/fuzz/fuzz.h"

#include <locale.h>
#include <sys/mman.h>

#include "forkd/build/layer.h"
#include "forkd/build/limits.h"
#include "forkd/build/oci_json.h"
#include "forkd/build/tree.h"

enum { BYTES_MAX = 1 << 20 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	must(setlocale(LC_CTYPE, "C.UTF-8") != NULL, "no locale C.UTF-8");
	return 0;
}

/* ---- documents ---- */

static void read_index(char *text, size_t len)
{
	struct oci_index index = {};
	struct err err = {};

	if (oci_index_read(text, len, "index.json", &index, &err) == 0)
		must(index.schemaVersion == 2 && index.n_manifests <= OCI_MANIFESTS_MAX, "an index that is none");
	oci_index_free(&index);
}

static void read_manifest(char *text, size_t len)
{
	struct oci_manifest manifest = {};
	struct err err = {};

	if (oci_manifest_read(text, len, "manifest", &manifest, &err) == 0)
		must(manifest.config.digest && manifest.n_layers <= OCI_LAYERS_MAX, "a manifest that is none");
	for (uint32_t i = 0; i < manifest.n_layers; i++)
		must(manifest.layers[i].digest && manifest.layers[i].mediaType, "a layer without a digest");
	oci_manifest_free(&manifest);
}

static void read_config(char *text, size_t len)
{
	struct oci_config config = {};
	autostrbuf struct strbuf out = {};
	autojson struct json json = {};
	struct err err = {};

	if (oci_config_read(text, len, "config", &config, &err) == 0) {
		image_config_save(&config.config, &out);
		must(json_parse(&json, out.text, out.len, &err) == 0, "a report that is no JSON");
	}
	oci_config_free(&config);
}

static const struct {
	const char *member;
	void (*read)(char *text, size_t len);
} readers[] = { { "index", read_index }, { "manifest", read_manifest }, { "config", read_config } };

/* The text of the only member's value: it begins behind the first colon, and ends before the last brace. */
static bool read_document(const uint8_t *data, size_t size)
{
	const uint8_t *colon = memchr(data, ':', size);
	const uint8_t *end = memrchr(data, '}', size);

	for (size_t i = 0; i < ARRAY_LEN(readers) && colon && end > colon; i++) {
		size_t n = strlen(readers[i].member);
		if (size < n + 4 || memcmp(data, "{\"", 2) != 0 || memcmp(data + 2, readers[i].member, n) != 0)
			continue;
		size_t len = (size_t)(end - colon - 1);
		autofree char *text = exact(colon + 1, len);
		readers[i].read(text, len);
		return true;
	}
	return false;
}

/* ---- archives ---- */

static void on_layer(void *arg, bool has_whiteouts)
{
	tree_next_layer(arg, has_whiteouts);
}

static int on_entry(void *arg, const struct image_entry *e, struct err *err)
{
	const struct tree *tree = arg;

	if (tree_apply(arg, e, err) < 0)
		return err->num;
	must(tree->data_bytes <= tree->data_max && tree->held <= IMAGE_HELD_MAX, "more than there may be");
	return entry_has_content(e);
}

static int on_data(void *arg, const void *bytes, uint64_t len, uint64_t off, struct err *err)
{
	static volatile char seen;

	(void)arg;
	(void)err;
	must(off + len <= BYTES_MAX, "data beyond the file's end");
	for (uint64_t i = 0; i < len; i++)
		seen = ((const char *)bytes)[i];
	(void)seen;
	return 0;
}

static int on_end(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	return 0;
}

/* What the tree counts is what is in it. */
struct sum {
	uint64_t names, data;
	unsigned depth;
};

static int add_up(void *arg, struct name *name)
{
	struct sum *s = arg;

	must(*name->text && !strchr(name->text, '/') && strcmp(name->text, "..") != 0 && strcmp(name->text, ".") != 0 &&
		     strlen(name->text) <= IMAGE_NAME_MAX,
	     "a name that is none");
	must(name->node->n_names > 0 && (S_ISLNK(name->node->mode) != 0) == (name->node->target != NULL),
	     "a broken file");
	s->names++;
	if (!S_ISDIR(name->node->mode))
		return 0;
	must(++s->depth <= IMAGE_DEPTH_MAX, "too deep");
	int r = tree_each(name->node, add_up, s);
	s->depth--;
	return r;
}

/* The headers of an archive have checksums: what a change broke is mended, so that the change is read. */
static void mend_checksums(char *data, size_t size)
{
	for (char *h = data; size >= 512 && h <= data + size - 512; h += 512) {
		unsigned sum = 0;
		char text[8];
		if (memcmp(h + 257, "ustar", 5) != 0)
			continue;
		memset(h + 148, ' ', 8);
		for (int i = 0; i < 512; i++)
			sum += (unsigned char)h[i];
		snprintf(text, sizeof(text), "%06o", sum);
		memcpy(h + 148, text, 7);
	}
}

static void read_archive(const uint8_t *bytes, size_t size)
{
	autofree char *data = exact(bytes, size);
	autotree struct tree tree = {};
	const struct listener l = { .arg = &tree, .layer = on_layer, .entry = on_entry, .data = on_data, .end = on_end };
	struct layer_budget budget = { 4 * BYTES_MAX, 4 * BYTES_MAX, 0 };
	struct err err = {};
	struct sum sum = {};

	mend_checksums(data, size);
	must(tree_init(&tree, BYTES_MAX, &err) == 0, "no tree");
	for (int i = 0; i < 2 && err.code == ERR_NONE; i++) {
		autoblob struct blob blob = BLOB_NONE;
		enum layer_pack pack = LAYER_PLAIN;
		int fd = memfd_create("archive", MFD_CLOEXEC);
		must(fd >= 0 && write(fd, data, size) == (ssize_t)size, "no file");
		must(blob_open_file(&blob, fd, "archive", "", &err) == 0 && layer_sniff(&blob, &pack, &err) == 0,
		     "no blob");
		on_layer(&tree, true);
		if (layer_read(&blob, pack, &budget, &l, &err) == 0)
			must(blob_finish(&blob, NULL, &err) == 0, "not read to its end");
	}
	must(tree_each(tree.root, add_up, &sum) == 0, "no memory");
	for (uint64_t i = 0; i < tree.n_contents; i++)
		sum.data += tree.contents[i] ? tree.contents[i]->data_bytes : 0;
	must(sum.data == tree.data_bytes, "bytes that nobody has");
	tree_empty_lower(&tree, tree.root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const int fd = next_fd();

	if (!read_document(data, size))
		read_archive(data, size);
	must(next_fd() == fd, "a descriptor was left open");
	return 0;
}
