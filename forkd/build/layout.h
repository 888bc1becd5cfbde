// SPDX-License-Identifier: Apache-2.0
/* An OCI image layout: which image of it is meant, and what the image consists of. One thread. */
#ifndef FORKD_BUILD_LAYOUT_H
#define FORKD_BUILD_LAYOUT_H

#include "forkd/build/oci_json.h"

struct layout {
	int dir_fd;
	char manifest_digest[BLOB_DIGEST];
	struct oci_manifest manifest;
	struct oci_config config;
};
#define LAYOUT_NONE          \
	{                    \
		.dir_fd = -1 \
	}
#define autolayout __attribute__((cleanup(layout_close)))

/* Which image: a name, or NULL when the layout has only one; and its platform. */
struct layout_wish {
	const char *ref;
	const char *os, *architecture, *variant; /* variant NULL: any */
};

/* Takes over `dir_fd`. Reads index, manifest and configuration, and checks what the layers are. */
MUST_CHECK int layout_open(struct layout *layout, int dir_fd, const struct layout_wish *wish, struct err *err);
void layout_close(struct layout *layout);

#endif
