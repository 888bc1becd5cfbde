// SPDX-License-Identifier: Apache-2.0
/*
 * Making templates: a name is reserved, a snapshot comes into a staged directory (copied from elsewhere, or written there by a VM
 * process), a template host checks it, and it is sealed and published whole; or all of it is undone. In the thread of the request or of a job.
 */
#ifndef FORKD_TEMPLATE_IMPORT_H
#define FORKD_TEMPLATE_IMPORT_H

#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

/* A template on its way. */
struct build {
	struct forkd *d;
	struct tmpl *t;
	struct caller owner; /* with its rights the paths in config.json are opened, now and for every clone */
	uint64_t begun_ns;   /* CLOCK_MONOTONIC at the request's first byte */
};

/* Reserves the name. Ends with build_end(). */
MUST_CHECK int build_begin(struct forkd *d, const char *name, const struct origin *from, struct build *ret,
			   struct err *err);
/* Says where it stands, on the event stream and in GET. */
void build_step(const struct build *b, const char *step);
/* What the build came to: ready or failed, for the name and on the event stream. Returns r. */
int build_end(const struct build *b, int r, const struct err *err);

/* A staged snapshot becomes the template. `parent`: NULL: none. The staged directory is used up only on success. */
struct staged;
MUST_CHECK int build_publish(const struct build *b, struct staged **s, const char *source, const char *parent,
			     struct err *err);
/* The files of a snapshot, opened as the caller may: from then on names do not matter. */
struct snapshot_source {
	struct store_source files[STORE_FILES]; /* fd -1: not open */
};
MUST_CHECK int snapshot_source_open(const struct forkd *d, const struct caller *c, const char *path,
				    struct snapshot_source *ret, struct err *err);
void snapshot_source_close(struct snapshot_source *s);
/* The whole of it from them. */
MUST_CHECK int build_from_files(const struct build *b, const struct snapshot_source *files, const char *source,
				struct err *err);

#endif
