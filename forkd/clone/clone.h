// SPDX-License-Identifier: Apache-2.0
/*
 * Making clones: all that a request asks for or none. Each gets a directory with its sockets and files, a process forked by the
 * template's host, and its descriptors in one packet; the work of many overlaps. In the thread of the request.
 */
#ifndef FORKD_CLONE_CLONE_H
#define FORKD_CLONE_CLONE_H

#include "forkd/access/caller.h"
#include "forkd/clone/clone_request.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

/* A template in use by the caller; an array of rq->count references for clones_unref(). */
MUST_CHECK int clones_create(struct forkd *d, struct tmpl *t, const struct clone_request *rq, const struct origin *from,
			     struct clone ***ret, struct err *err);

#endif
