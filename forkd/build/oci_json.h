// SPDX-License-Identifier: Apache-2.0
/* The documents of an OCI layout as structs: index, manifest, configuration. Members are named as in JSON. One thread. */
#ifndef FORKD_BUILD_OCI_JSON_H
#define FORKD_BUILD_OCI_JSON_H

#include "common/field.h"
#include "forkd/build/blob.h"

struct oci_platform {
	char *architecture, *os, *variant;
};

struct oci_names {
	char *ref_name, *full_name; /* org.opencontainers.image.ref.name, io.containerd.image.name */
};

/* One row of an index: a descriptor, and what its manifest is for. */
struct oci_ref {
	char *mediaType, *digest;
	uint64_t size;
	struct oci_platform *platform; /* NULL: not said */
	struct oci_names annotations;
};

struct oci_index {
	uint32_t schemaVersion;
	char *mediaType;
	struct oci_ref *manifests;
	uint32_t n_manifests;
};

struct oci_manifest {
	uint32_t schemaVersion;
	char *mediaType;
	struct descriptor config, *layers;
	uint32_t n_layers;
};

/* What a container of the image would run. */
struct image_config {
	char *User, *WorkingDir, *StopSignal;
	char **Env, **Entrypoint, **Cmd, **ExposedPorts;
	uint32_t n_Env, n_Entrypoint, n_Cmd, n_ExposedPorts;
};

struct oci_config {
	char *architecture, *os, *variant;
	struct image_config config;
};

enum oci_kind { OCI_UNKNOWN, OCI_INDEX, OCI_MANIFEST, OCI_CONFIG, OCI_LAYER };

/* What a media type is, OCI's and Docker's. Of a layer *ret_pack says how it is packed (enum layer_pack). */
enum oci_kind oci_kind_of(const char *media_type, int *ret_pack);

/*
 * Each reads one document; `text` of `len` bytes is changed, and may go when the function has returned. `what` names the document in
 * messages. *ret is zeroed before; the free function takes it in any state.
 */
MUST_CHECK int oci_index_read(char *text, uint64_t len, const char *what, struct oci_index *ret, struct err *err);
MUST_CHECK int oci_manifest_read(char *text, uint64_t len, const char *what, struct oci_manifest *ret, struct err *err);
MUST_CHECK int oci_config_read(char *text, uint64_t len, const char *what, struct oci_config *ret, struct err *err);
void oci_index_free(struct oci_index *index);
void oci_manifest_free(struct oci_manifest *manifest);
void oci_config_free(struct oci_config *config);
/* A configuration by itself, as image_config_save() writes it. ERR_INVALID: wrong types, or a member that it has not. */
MUST_CHECK int image_config_read(char *text, uint64_t len, const char *what, struct image_config *ret, struct err *err);
void image_config_free(struct image_config *config);
/* Adds the configuration as JSON. */
void image_config_save(const struct image_config *config, struct strbuf *out);

#endif
