// SPDX-License-Identifier: Apache-2.0
/* Clones of an earlier daemon: taken back when they live, cleared away when not. At the start, before anyone asks. */
#ifndef FORKD_CLONE_RECOVER_H
#define FORKD_CLONE_RECOVER_H

#include "common/err.h"
#include "forkd/forkd.h"

MUST_CHECK int recover_clones(struct forkd *d, struct err *err);

#endif
