// SPDX-License-Identifier: Apache-2.0
/*
 * Making templates. A name is reserved. A snapshot comes into a staged directory: copied from
 * elsewhere, or written there by a VM process. A template host checks the snapshot. Then the staged
 * directory is sealed and published whole. After a failure all of this is undone. Runs in the
 * thread of the request or of a job.
 */
#ifndef FORKD_TEMPLATE_IMPORT_H
#define FORKD_TEMPLATE_IMPORT_H

#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"
#include "forkd/template/disks.h"
#include "forkd/template/payload.h"

/* A template on its way. */
struct build {
	struct forkd *d;
	struct tmpl *t;
	const struct manifest_agent *agent; /* borrowed; NULL: the guest was not frozen by an agent */
	bool secrets;                       /* the guest has values that nobody else may see */
	struct disks_wanted disks;          /* `who` is set by build_publish() */
	struct payload_wanted payload;      /* likewise, and `name` */
	struct caller owner; /* the paths in config.json are opened with this caller's rights, also for clones */
	uint64_t begun_ns;   /* CLOCK_MONOTONIC at the request's first byte */
};

/* Reserves the name. build_end() must follow. */
MUST_CHECK int build_begin(struct forkd *d, const char *name, const struct origin *from, struct build *ret,
			   struct err *err);
/* Says how far the build is, on the event stream and in GET. `step` is static text. */
void build_step(const struct build *b, const char *step);
/*
 * Ends a build. r >= 0: the template is ready; r < 0: the build has failed with `err`, and the name
 * is free again. An event says which. Returns r.
 */
int build_end(const struct build *b, int r, const struct err *err);

/*
 * Checks, seals and publishes a staged snapshot as the template. `parent` NULL: none. On success *s
 * is used up; on failure the caller discards *s.
 */
struct staged;
MUST_CHECK int build_publish(const struct build *b, struct staged **s, const char *source, const char *parent,
			     struct err *err);
/*
 * The files of a snapshot, opened with the rights of the caller. Once the files are open, their
 * names do not matter. The caller of snapshot_source_open() has set every fd of *ret to -1, and
 * calls snapshot_source_close(), also after a failure.
 */
struct snapshot_source {
	struct store_source files[STORE_FILES]; /* fd -1: not open */
};
MUST_CHECK int snapshot_source_open(const struct forkd *d, const struct caller *c, const char *path,
				    struct snapshot_source *ret, struct err *err);
void snapshot_source_close(struct snapshot_source *s);
/* Imports and publishes the template from the files of a snapshot. `source` names the snapshot. */
MUST_CHECK int build_from_files(struct build *b, const struct snapshot_source *files, const char *source,
				struct err *err);

#endif
