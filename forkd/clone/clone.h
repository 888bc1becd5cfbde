// SPDX-License-Identifier: Apache-2.0
/*
 * Makes clones: all that a request asks for, or none. Each clone gets a directory for its sockets
 * and files, a process that the template's host forks, and its descriptors in one packet. The work
 * for several clones overlaps. Runs in the thread of the request.
 */
#ifndef FORKD_CLONE_CLONE_H
#define FORKD_CLONE_CLONE_H

#include "forkd/access/caller.h"
#include "forkd/clone/clone_request.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

/*
 * The caller has the template in use (tmpl_use()). *ret becomes an array of rq->count references,
 * for clones_unref().
 */
MUST_CHECK int clones_create(struct forkd *d, struct tmpl *t, const struct clone_request *rq, const struct origin *from,
			     struct clone ***ret, struct err *err);

#endif
