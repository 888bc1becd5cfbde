// SPDX-License-Identifier: Apache-2.0
/* Bounds of forkd-image: whatever an image says, no more than this is read, held or written. docs/limits.md has the tests. */
#ifndef FORKD_BUILD_LIMITS_H
#define FORKD_BUILD_LIMITS_H

enum {
	IMAGE_ENTRIES_MAX = 1000000, /* of all layers together, with what later ones replace */
	IMAGE_HELD_MAX = 512 << 20,  /* memory for names, targets, attributes and what belongs to them */
	IMAGE_NAME_MAX = 255,
	IMAGE_PATH_MAX = 4095,
	IMAGE_DEPTH_MAX = 512, /* directories inside each other */
	IMAGE_LINKS_MAX = 65000,
	IMAGE_HOPS_MAX = 40,          /* symbolic links on the way to one file */
	IMAGE_XATTRS_MAX = 64,        /* of one file */
	IMAGE_XATTR_BYTES_MAX = 4096, /* names and values of one file */
	OCI_JSON_MAX = 4 << 20,       /* an index, a manifest, a configuration */
	OCI_LAYERS_MAX = 512,
	OCI_MANIFESTS_MAX = 1024, /* of one index */
	OCI_INDEXES_MAX = 64,     /* that are read for one image */
	OCI_DEPTH_MAX = 4,        /* indexes inside each other */
};

/* The largest file system, and the largest when --size does not say one. */
#define IMAGE_BYTES_MAX (1ULL << 40)
#define IMAGE_BYTES_UNASKED (64ULL << 30)
/* What may come out of compressed layers, with what later layers replace, for a file system of so many bytes. */
#define IMAGE_READ_MAX(bytes) (4 * (bytes) + (1ULL << 30))

#endif
