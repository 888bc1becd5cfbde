// SPDX-License-Identifier: Apache-2.0
/* The order in which the daemon starts and stops. By the main thread. */
#ifndef FORKD_DAEMON_H
#define FORKD_DAEMON_H

#include "common/err.h"
#include "forkd/forkd.h"

/* Starts everything but REST, which comes afterwards; takes back the clones of an earlier daemon. On failure nothing is left. */
MUST_CHECK int forkd_start(struct forkd *d, const struct forkd_options *opt, struct err *err);
/* Ends everything but the clones. A zeroed or half-started daemon is fine. */
void forkd_stop(struct forkd *d);

#endif
