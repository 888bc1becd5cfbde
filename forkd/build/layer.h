// SPDX-License-Identifier: Apache-2.0
/* Reads a tar archive, a layer of an image or a whole root file system, through libarchive. One thread. */
#ifndef FORKD_BUILD_LAYER_H
#define FORKD_BUILD_LAYER_H

#include "forkd/build/blob.h"
#include "forkd/build/entry.h"

enum layer_pack { LAYER_PLAIN, LAYER_GZIP, LAYER_ZSTD, LAYER_XZ, LAYER_BZIP2 };

/* What all layers of an image share. */
struct layer_budget {
	uint64_t left, max;      /* bytes that may still come out of the archives */
	uint64_t dropped_xattrs; /* attributes that Linux has no place for */
};

/* How the archive is packed, by its first bytes. */
MUST_CHECK int layer_sniff(const struct blob *blob, enum layer_pack *ret_pack, struct err *err);
/*
 * Tells the listener all entries. The blob is read to its end. ERR_INVALID: the archive is not one that is packed like
 * that, or is broken; the message names blob and entry.
 */
MUST_CHECK int layer_read(struct blob *blob, enum layer_pack pack, struct layer_budget *budget,
			  const struct listener *listener, struct err *err);

#endif
