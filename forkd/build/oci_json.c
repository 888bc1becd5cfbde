// SPDX-License-Identifier: Apache-2.0
/* Tables of the documents' members, and what a table cannot say. */
#include "forkd/build/oci_json.h"

#include <errno.h>
#include <string.h>

#include "forkd/build/layer.h"
#include "forkd/build/limits.h"

#define REF_NAME "org.opencontainers.image.ref.name"
#define FULL_NAME "io.containerd.image.name"
enum { STRINGS_MAX = 65536 };

static const struct {
	const char *media_type;
	enum oci_kind kind;
	enum layer_pack pack;
} kinds[] = {
	{ "application/vnd.oci.image.index.v1+json", OCI_INDEX, 0 },
	{ "application/vnd.docker.distribution.manifest.list.v2+json", OCI_INDEX, 0 },
	{ "application/vnd.oci.image.manifest.v1+json", OCI_MANIFEST, 0 },
	{ "application/vnd.docker.distribution.manifest.v2+json", OCI_MANIFEST, 0 },
	{ "application/vnd.oci.image.config.v1+json", OCI_CONFIG, 0 },
	{ "application/vnd.docker.container.image.v1+json", OCI_CONFIG, 0 },
	{ "application/vnd.oci.image.layer.v1.tar", OCI_LAYER, LAYER_PLAIN },
	{ "application/vnd.oci.image.layer.v1.tar+gzip", OCI_LAYER, LAYER_GZIP },
	{ "application/vnd.oci.image.layer.v1.tar+zstd", OCI_LAYER, LAYER_ZSTD },
	{ "application/vnd.oci.image.layer.nondistributable.v1.tar", OCI_LAYER, LAYER_PLAIN },
	{ "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", OCI_LAYER, LAYER_GZIP },
	{ "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", OCI_LAYER, LAYER_ZSTD },
	{ "application/vnd.docker.image.rootfs.diff.tar", OCI_LAYER, LAYER_PLAIN },
	{ "application/vnd.docker.image.rootfs.diff.tar.gzip", OCI_LAYER, LAYER_GZIP },
	{ "application/vnd.docker.image.rootfs.diff.tar.zstd", OCI_LAYER, LAYER_ZSTD },
	{ "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", OCI_LAYER, LAYER_GZIP },
};

static const struct field descriptor_fields[] = {
	F(struct descriptor, mediaType, .flags = F_REQUIRED),
	F(struct descriptor, digest, .flags = F_REQUIRED),
	F(struct descriptor, size, .flags = F_REQUIRED, .max = INT64_MAX),
	F_END,
};
static const struct field platform_fields[] = {
	F(struct oci_platform, architecture),
	F(struct oci_platform, os),
	F(struct oci_platform, variant),
	F_END,
};
static const struct field names_fields[] = {
	{ .name = REF_NAME, .offset = offsetof(struct oci_names, ref_name), .size = sizeof(char *), .type = FT_STR },
	{ .name = FULL_NAME, .offset = offsetof(struct oci_names, full_name), .size = sizeof(char *), .type = FT_STR },
	F_END,
};
static const struct field ref_fields[] = {
	F(struct oci_ref, mediaType, .flags = F_REQUIRED),
	F(struct oci_ref, digest, .flags = F_REQUIRED),
	F(struct oci_ref, size, .flags = F_REQUIRED, .max = INT64_MAX),
	F_OBJ_PTR(struct oci_ref, platform, platform_fields),
	F_OBJ(struct oci_ref, annotations, names_fields),
	F_END,
};
static const struct field index_fields[] = {
	F(struct oci_index, schemaVersion, .flags = F_REQUIRED, .min = 2, .max = 2),
	F(struct oci_index, mediaType),
	F_OBJ_LIST(struct oci_index, manifests, ref_fields, .flags = F_REQUIRED, .count = OCI_MANIFESTS_MAX),
	F_END,
};
static const struct field manifest_fields[] = {
	F(struct oci_manifest, schemaVersion, .flags = F_REQUIRED, .min = 2, .max = 2),
	F(struct oci_manifest, mediaType),
	F_OBJ(struct oci_manifest, config, descriptor_fields, .flags = F_REQUIRED),
	F_OBJ_LIST(struct oci_manifest, layers, descriptor_fields, .flags = F_REQUIRED, .count = OCI_LAYERS_MAX),
	F_END,
};
/* Of the image's configuration; ports are the keys of an object there, and a list here. */
#define CONFIG_ROWS                                                                                           \
	F(struct image_config, User), F(struct image_config, WorkingDir), F(struct image_config, StopSignal), \
		F_LIST(struct image_config, Env, .count = STRINGS_MAX),                                       \
		F_LIST(struct image_config, Entrypoint, .count = STRINGS_MAX),                                \
		F_LIST(struct image_config, Cmd, .count = STRINGS_MAX)
static const struct field image_config_fields[] = { CONFIG_ROWS, F_END };
static const struct field image_config_saved[] = { CONFIG_ROWS,
						   F_LIST(struct image_config, ExposedPorts, .count = STRINGS_MAX),
						   F_END };
static const struct field config_fields[] = {
	F(struct oci_config, architecture, .flags = F_REQUIRED),
	F(struct oci_config, os, .flags = F_REQUIRED),
	F(struct oci_config, variant),
	F_END,
};

enum oci_kind oci_kind_of(const char *media_type, int *ret_pack)
{
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		if (strcmp(media_type, kinds[i].media_type) == 0) {
			if (ret_pack)
				*ret_pack = (int)kinds[i].pack;
			return kinds[i].kind;
		}
	return OCI_UNKNOWN;
}

static int load(char *text, uint64_t len, const char *what, const struct field *rows, void *obj, struct err *err)
{
	autojson struct json json = {};

	if (json_parse(&json, text, len, err) < 0)
		return err_wrap(err, "%s is no JSON", what);
	return fields_load(rows, obj, json.nodes, what, err);
}

/* A document may say itself what it is, and must not say anything else. */
static int check_kind(const char *media_type, enum oci_kind kind, const char *what, struct err *err)
{
	if (media_type && oci_kind_of(media_type, NULL) != kind)
		return err_set(err, ERR_INVALID, "%s: mediaType '%.120s' is not that of %s", what, media_type,
			       kind == OCI_INDEX ? "an index" : "a manifest");
	return 0;
}

int oci_index_read(char *text, uint64_t len, const char *what, struct oci_index *ret, struct err *err)
{
	if (load(text, len, what, index_fields, ret, err) < 0)
		return err->num;
	return check_kind(ret->mediaType, OCI_INDEX, what, err);
}

int oci_manifest_read(char *text, uint64_t len, const char *what, struct oci_manifest *ret, struct err *err)
{
	if (load(text, len, what, manifest_fields, ret, err) < 0)
		return err->num;
	return check_kind(ret->mediaType, OCI_MANIFEST, what, err);
}

static int load_ports(const struct json_node *ports, struct image_config *config, const char *what, struct err *err)
{
	if (!ports || ports->type == JSON_NULL)
		return 0;
	if (ports->type != JSON_OBJECT)
		return err_set(err, ERR_INVALID, "%s.config.ExposedPorts: expected an object, found %s", what,
			       json_type_name(ports));
	if (ports->count > STRINGS_MAX)
		return err_set(err, ERR_INVALID, "%s.config.ExposedPorts: more than %d", what, STRINGS_MAX);
	config->ExposedPorts = calloc(ports->count + 1U, sizeof(char *));
	for (json_each(port, ports)) {
		char *copy = config->ExposedPorts ? strdup(port->key) : NULL;
		if (!copy)
			return err_num(err, ERR_INTERNAL, ENOMEM, "read %s", what);
		config->ExposedPorts[config->n_ExposedPorts++] = copy;
	}
	return 0;
}

int oci_config_read(char *text, uint64_t len, const char *what, struct oci_config *ret, struct err *err)
{
	autojson struct json json = {};

	if (json_parse(&json, text, len, err) < 0)
		return err_wrap(err, "%s is no JSON", what);
	if (fields_load(config_fields, ret, json.nodes, what, err) < 0)
		return err->num;
	const struct json_node *config = json_get(json.nodes, "config");
	if (!config || config->type == JSON_NULL)
		return 0;
	char path[BLOB_DIGEST + 16];
	snprintf(path, sizeof(path), "%.80s.config", what);
	if (fields_load(image_config_fields, &ret->config, config, path, err) < 0)
		return err->num;
	return load_ports(json_get(config, "ExposedPorts"), &ret->config, what, err);
}

void oci_index_free(struct oci_index *index)
{
	fields_free(index_fields, index);
}

void oci_manifest_free(struct oci_manifest *manifest)
{
	fields_free(manifest_fields, manifest);
}

void oci_config_free(struct oci_config *config)
{
	fields_free(config_fields, config);
	fields_free(image_config_saved, &config->config);
}

int image_config_read(char *text, uint64_t len, const char *what, struct image_config *ret, struct err *err)
{
	autojson struct json json = {};

	if (json_parse(&json, text, len, err) < 0)
		return err_wrap(err, "'%s' is no JSON", what);
	if (fields_check_known(image_config_saved, json.nodes, what, err) < 0)
		return err->num;
	return fields_load(image_config_saved, ret, json.nodes, what, err);
}

void image_config_free(struct image_config *config)
{
	fields_free(image_config_saved, config);
}

void image_config_save(const struct image_config *config, struct strbuf *out)
{
	fields_save(image_config_saved, config, out);
}
