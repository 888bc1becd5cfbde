// SPDX-License-Identifier: Apache-2.0
/* One image instead of a chain, for each disk of a template. */
#ifndef FORKD_TEMPLATE_FLATTEN_H
#define FORKD_TEMPLATE_FLATTEN_H

#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

/*
 * Gives the template raw images with the same bytes and nothing behind them. The caller has the template in use
 * (tmpl_use()). Clones that are alive keep what they stand on. After a failure the template is as it was.
 * E_BUSY: another template is made flat just now.
 */
MUST_CHECK int template_flatten(struct forkd *d, struct tmpl *t, struct err *err);

#endif
