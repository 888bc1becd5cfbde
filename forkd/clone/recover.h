// SPDX-License-Identifier: Apache-2.0
/*
 * Clones of an earlier daemon: living clones are adopted, the rest of dead clones is cleared away.
 * Runs at the daemon's start, before requests are served.
 */
#ifndef FORKD_CLONE_RECOVER_H
#define FORKD_CLONE_RECOVER_H

#include "common/err.h"
#include "forkd/forkd.h"

MUST_CHECK int recover_clones(struct forkd *d, struct err *err);

#endif
