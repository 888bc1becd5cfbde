// SPDX-License-Identifier: Apache-2.0
/* From an OCI image, an archive or a directory to a disk image: two passes over the source, one to know, one to write. One thread. */
#ifndef FORKD_BUILD_IMAGE_H
#define FORKD_BUILD_IMAGE_H

#include "forkd/build/layout.h"

enum image_source { IMAGE_OCI, IMAGE_TAR, IMAGE_DIR };

struct image_wish {
	enum image_source source;
	const char *path;
	struct layout_wish layout; /* of an OCI image */
	uint64_t bytes;            /* of the file system; 0: what is needed, and headroom */
};

/*
 * Writes the image into `out_fd`, an empty regular file open for reading and writing, and adds what it has written to `report`,
 * as one JSON object. On failure the file has anything in it.
 */
MUST_CHECK int image_build(const struct image_wish *wish, int out_fd, struct strbuf *report, struct err *err);

#endif
