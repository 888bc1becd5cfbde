// SPDX-License-Identifier: Apache-2.0
/* A file that is to be whole, or not there. One thread. */
#ifndef FORKD_BUILD_OUT_H
#define FORKD_BUILD_OUT_H

#include "common/err.h"

struct out {
	int fd;
	const char *path; /* NULL: the caller's descriptor */
	char *temporary;  /* the name that the file has until it is whole; NULL: it has none */
};
#define OUT_NONE         \
	{                \
		.fd = -1 \
	}
#define autoout __attribute__((cleanup(out_abort)))

/*
 * `where` is the path of a file that is not there yet, or fd=N: an open regular file, which is emptied. ERR_CONFLICT: the
 * file is there.
 */
MUST_CHECK int out_open(struct out *out, const char *where, struct err *err);
/* The file is whole: it gets its name. */
MUST_CHECK int out_commit(struct out *out, struct err *err);
/* Leaves nothing, unless out_commit() was called. */
void out_abort(struct out *out);

#endif
